"""What the search saw, what it chose, and why."""

from __future__ import annotations

from ofa_tvm.report import figures
from ofa_tvm.report.choice import Flat, beyond, faster, flat_from, least_difference, reasons, saturation
from ofa_tvm.report.content import Content, Deployed, Measured
from ofa_tvm.report.section import Section
from ofa_tvm.report.units import cost_noun, cost_scale, rough


def trade_off(content: Content, measured: Measured) -> Section:
    """Accuracy against cost on one target, and whether accuracy saturates."""
    deployed = next((a for a in content.artefacts if a.series == measured.target), None)
    flat = _flat(content, measured, deployed)
    scale, unit = cost_scale(float(measured.cost.mean()), measured.unit)
    front = measured.front
    rows = tuple(
        (f"{scale * cost:.4g}", f"{100 * accuracy:.2f}")
        for cost, accuracy in front[:: max(1, len(front) // 15)]
    )
    more, code = tuple[str, ...](), tuple[tuple[str, str], ...]()
    if flat is not None:
        more = (saturation(flat, deployed, measured.unit, content.validation_images),)
        if deployed is not None and beyond(flat, deployed):
            code = (("For a faster one of about that accuracy", faster(flat, deployed)),)
    return Section(
        f"trade-off-{measured.target}",
        _title(measured, deployed, flat),
        f"Accuracy on the validation images against {cost_noun(measured.unit)}. Dots are measured there; the "
        "accuracies of random subnets, and the line of the best that the space can do, are predicted.",
        lambda style: figures.trade_off(measured, deployed, style, flat),
        (f"predicted front: {unit}", "accuracy, %"),
        rows,
        more=more,
        code=code,
    )


def _flat(content: Content, measured: Measured, deployed: Deployed | None) -> Flat | None:
    """Where the front is flat, if that is within the budget."""
    flat = flat_from(measured.front, float(measured.cost.max()), _tolerance(content))
    budget = None if deployed is None else deployed.latency.budget
    return flat if flat is None or budget is None or flat.cost < budget else None


def _tolerance(content: Content) -> float:
    rmse = None if content.accuracies is None else content.accuracies.errors.get("rmse")
    return least_difference(rmse, content.validation_images)


def _title(measured: Measured, deployed: Deployed | None, flat: Flat | None) -> str:
    scale, unit = cost_scale(float(measured.cost.mean()), measured.unit)
    latency = None if deployed is None else deployed.latency
    if latency is None or latency.measured is None or latency.budget is None:
        title = (
            f"{len(measured.cost)} random subnets on {measured.target} take "
            f"{scale * measured.cost.min():.3g} to {scale * measured.cost.max():.3g} {unit}"
        )
    else:
        slack = 100 * (1 - latency.measured / latency.budget)
        kept = f"{slack:.0f} % below" if slack >= 0 else f"{-slack:.0f} % above"
        title = f"What shipped takes {scale * latency.measured:.3g} {unit}, {kept} its budget"
    return title if flat is None else f"{title}; accuracy saturates from {scale * flat.cost:.3g} {unit} on"


def choice(content: Content, shipped: Deployed) -> Section:
    """The candidates, and why this one was chosen."""
    scale, unit = cost_scale(shipped.candidates[0].measured, shipped.latency.unit)
    errors = [abs(c.predicted / c.measured - 1) for c in shipped.candidates if c.round > 0]
    within = sum(c.within for c in shipped.candidates)
    said = f"; predictions were off by {100 * sum(errors) / len(errors):.1f} % on average" if errors else ""
    rows = tuple(
        (
            "earlier" if c.round == 0 else str(c.round),
            f"{scale * c.predicted:.4g}",
            f"{scale * c.measured:.4g}",
            rough(scale * c.noise),
            f"{100 * c.predicted_accuracy:.2f}",
            "-" if c.validation_accuracy is None else f"{100 * c.validation_accuracy:.2f}",
            ("shipped" if c.arch == shipped.arch else "yes") if c.within else "no",
        )
        for c in shipped.candidates
    )
    return Section(
        "candidates",
        f"Why this subnet: {within} of {len(rows)} measured candidates kept the budget{said}",
        "Every candidate that the search compiled and measured on the target. After each round the model of "
        f"{cost_noun(shipped.latency.unit)} learned from them. The predictor of accuracies knows what was "
        "measured, and ranks the candidates, as one measurement has noise of its own; that is the column "
        '"validated".',
        None,
        (
            "round",
            f"predicted {unit}",
            f"measured {unit}",
            "margin",
            "accuracy, %",
            "validated, %",
            "within budget",
        ),
        rows,
        open=True,
        more=reasons(shipped, _tolerance(content)),
    )
