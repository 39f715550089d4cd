"""What a report says, one finding a section: its sentence, its picture, and its data as a table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ofa_tvm.latency.learning_curve import GUIDED, LearningCurve
from ofa_tvm.report import figures
from ofa_tvm.report.content import Content, Deployed, Measured, Training
from ofa_tvm.report.latency_figures import error_by_group, learning_curve
from ofa_tvm.report.style import Style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FEWEST_BY_GROUP = 20  # subnets, before their errors are told apart


@dataclass(frozen=True)
class Section:
    """One picture with what it says.

    Attributes
    ----------
    name
        Of its PNG file and its anchor.
    title
        The finding, as a sentence.
    text
        How to read it.
    draw
        Draws it in a style; None for a section that is a table alone.
    columns, rows
        Its data, for readers who cannot see the picture.
    open
        Whether the table is shown at once.
    """

    name: str
    title: str
    text: str
    draw: Callable[[Style], Figure] | None
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    open: bool = False


def sections(content: Content) -> list[Section]:
    """What there is to show, in order."""
    found: list[Section] = []
    shipped = content.artefacts[0] if content.artefacts else None
    for measured in content.targets:
        if measured.accuracy is not None:
            found.append(_trade_off(measured, _of_target(content, measured)))
    if shipped is not None:
        if shipped.candidates:
            found.append(_candidates(shipped))
        if shipped.arch is not None and shipped.space is not None:
            found.append(_architecture(shipped))
        if 2 * len(figures.kernel_shares(shipped)) > len(shipped.kernels):  # else too little is known
            found.append(_kernels(shipped))
    if len(content.artefacts) > 1:
        found.append(_side_by_side(content))
    if content.targets or content.accuracies:
        found.append(_quality(content))
    for measured in content.targets:
        if _comparable(measured):
            found.append(_errors_by_group(measured))
        if measured.learning is not None:
            found.append(_learning(measured, measured.learning))
    if content.training is not None:
        found.append(_training(content))
    return found


def _of_target(content: Content, measured: Measured) -> Deployed | None:
    return next((a for a in content.artefacts if a.series == measured.target), None)


def _trade_off(measured: Measured, deployed: Deployed | None) -> Section:
    scale, unit = figures.cost_scale(float(measured.cost.mean()), measured.unit)
    title = (
        f"{len(measured.cost)} random subnets on {measured.target} take {scale * measured.cost.min():.3g} to "
        f"{scale * measured.cost.max():.3g} {unit}"
    )
    latency = None if deployed is None else deployed.latency
    if latency is not None and latency.measured is not None and latency.budget is not None:
        slack = 100 * (1 - latency.measured / latency.budget)
        kept = f"{slack:.0f} % below" if slack >= 0 else f"{-slack:.0f} % above"
        title = f"What shipped takes {scale * latency.measured:.3g} {unit}, {kept} its budget"
    front = measured.front
    rows = tuple(
        (f"{scale * cost:.4g}", f"{100 * accuracy:.2f}")
        for cost, accuracy in front[:: max(1, len(front) // 15)]
    )
    return Section(
        f"trade-off-{measured.target}",
        title,
        f"Accuracy on the validation images against {_cost(measured.unit)}. Dots are measured there; the "
        "accuracies of random subnets, and the line of the best that the space can do, are predicted.",
        lambda style: figures.trade_off(measured, deployed, style),
        (f"predicted front: {unit}", "accuracy, %"),
        rows,
    )


def _candidates(shipped: Deployed) -> Section:
    scale, unit = figures.cost_scale(shipped.candidates[0].measured, shipped.latency.unit)
    errors = [abs(c.predicted / c.measured - 1) for c in shipped.candidates if c.round > 0]
    within = sum(c.within for c in shipped.candidates)
    said = f"; predictions were off by {100 * sum(errors) / len(errors):.1f} % on average" if errors else ""
    rows = tuple(
        (
            "earlier" if c.round == 0 else str(c.round),
            f"{scale * c.predicted:.4g}",
            f"{scale * c.measured:.4g}",
            f"{100 * c.accuracy:.2f}",
            ("shipped" if c.arch == shipped.arch else "yes") if c.within else "no",
        )
        for c in shipped.candidates
    )
    return Section(
        "candidates",
        f"{within} of {len(rows)} measured candidates kept the budget{said}",
        "Every candidate that the search compiled and measured on the target. After each round the model of "
        f"its {_cost(shipped.latency.unit)} learned from them.",
        None,
        ("round", f"predicted {unit}", f"measured {unit}", "accuracy, %", "within budget"),
        rows,
        open=True,
    )


def _architecture(shipped: Deployed) -> Section:
    arch, space = shipped.arch, shipped.space
    if arch is None or space is None:
        raise ValueError("an artefact without an architecture cannot be drawn")
    active = space.active_blocks(space.encode([arch]))[0]
    macs, params = space.macs(arch, shipped.n_classes), space.params(arch, shipped.n_classes)
    rows, position = [], 0
    for stage, spec in enumerate(space.stages):
        on = [i for i in range(position, position + spec.blocks) if active[i]]
        kernels = ", ".join(str(arch.ks[i]) for i in on) if arch.ks else "3"
        rows.append((str(stage + 1), str(len(on)), kernels, ", ".join(f"{arch.e[i]:g}" for i in on)))
        position += spec.blocks
    return Section(
        "architecture",
        f"{int(active.sum())} of {len(active)} blocks run, at {arch.r} x {arch.r} pixels: {_millions(macs)} "
        f"multiply-adds and {_millions(params)} parameters",
        "The subnet, block by block: a bar's height is its expand ratio, the number on it and its shade the "
        "kernel size. Dashed places are blocks that this subnet leaves out.",
        lambda style: figures.architecture(shipped, style),
        ("stage", "blocks", "kernel sizes", "expand ratios"),
        tuple(rows),
    )


def _kernels(shipped: Deployed) -> Section:
    shares = figures.kernel_shares(shipped)
    n = next((i + 1 for i in range(len(shares)) if sum(s for _, s in shares[: i + 1]) >= 0.5), len(shares))
    unknown = sum(time is None for _, time, _ in shipped.kernels)
    return Section(
        "kernels",
        f"{n} of {len(shipped.kernels)} kernels take half of the time"
        if n > 1
        else f"One of {len(shipped.kernels)} kernels takes half of the time",
        (
            "Share of the network's kernel time, each kernel timed inside the network."
            if shipped.inside
            else "Share of the network's kernel time, by the tuning log's measurements of each kernel alone."
        )
        + (f" {unknown} kernels without a record are not counted." if unknown else ""),
        lambda style: figures.kernel_time(shipped, style),
        ("kernel", "% of kernel time"),
        tuple((str(signature), f"{100 * share:.1f}") for signature, share in shares[:25]),
    )


def _side_by_side(content: Content) -> Section:
    timed = [a for a in content.artefacts if a.latency.measured is not None and a.latency.unit == "ms"]
    rows = tuple(map(_beside_others, content.artefacts))
    n = len({a.target for a in content.artefacts})
    title = f"{len(rows)} artefacts on {n} target{'s' if n > 1 else ''}, side by side"
    if len(timed) > 1:
        fast, slow = (choose(timed, key=lambda a: a.latency.measured or 0.0) for choose in (min, max))
        times = (slow.latency.measured or 0) / (fast.latency.measured or 1)
        title += f": {fast.name} is {times:.1f} times as fast as {slow.name}"
    return Section(
        "targets",
        title,
        "Measured on each target. A target that is emulated counts instructions and has no latency.",
        (lambda style: figures.targets(list(content.artefacts), style)) if timed else None,
        ("artefact", "target", "measured", "budget", "accuracy, %", "side", "multiply-adds"),
        rows,
        open=True,
    )


def _beside_others(shipped: Deployed) -> tuple[str, ...]:
    latency, accuracy, kind = shipped.latency, shipped.accuracy.measured, shipped.manifest.target.kind
    arch, space = shipped.arch, shipped.space
    return (
        shipped.name,
        shipped.target if shipped.target.startswith(kind) else f"{shipped.target} ({kind})",
        "-" if latency.measured is None else f"{latency.measured:.4g} {latency.unit}",
        "-" if latency.budget is None else f"{latency.budget:.4g} {latency.unit}",
        "-" if accuracy is None else f"{100 * accuracy:.2f}",
        "-" if arch is None else str(arch.r),
        "-" if arch is None or space is None else _millions(space.macs(arch, shipped.n_classes)),
    )


def _quality(content: Content) -> Section:
    measured = content.targets[0] if content.targets else None
    parts, rows = [], []
    for target in content.targets:
        mape, rank = target.errors.get("mape"), target.errors.get("spearman")
        if mape is not None and rank is not None:
            rows.append(
                (
                    f"{_cost(target.unit)} on {target.target}",
                    str(int(target.errors["n"])),
                    f"{100 * mape:.2f} %",
                    f"{rank:.3f}",
                )
            )
            if target is measured:
                are = "are" if measured.unit == "Minstr" else "is"
                parts.append(f"{_cost(measured.unit)} {are} predicted within {100 * mape:.1f} %")
    if content.accuracies is not None:
        e = content.accuracies.errors
        rows.append(
            ("accuracy", str(int(e["n"])), f"{100 * e['rmse']:.2f} points (RMSE)", f"{e['spearman']:.3f}")
        )
        parts.append(f"accuracy within {100 * e['rmse']:.2f} points")
    title = " and ".join(parts)
    return Section(
        "predictors",
        title[:1].upper() + title[1:] if title else "What the predictors know",
        "Each dot is a measured subnet, predicted by a model that was fitted to all others but not to it.",
        lambda style: figures.predictor_quality(measured, content.accuracies, style),
        ("predictor", "subnets", "error", "rank correlation"),
        tuple(rows),
    )


def _comparable(measured: Measured) -> bool:
    """Whether each measured subnet has a prediction by the others, and there are several kinds of them."""
    several = any(len(np.unique(values)) > 1 for values in measured.groups.values())
    return len(measured.loo) == len(measured.cost) >= _FEWEST_BY_GROUP and several


def _errors_by_group(measured: Measured) -> Section:
    relative = 100 * (measured.loo / measured.cost - 1)
    rows = tuple(
        (heading, f"{level:g}", str(int(on.sum())), f"{np.median(relative[on]):+.1f}")
        for heading, values in measured.groups.items()
        for level in np.unique(values)
        if (on := values == level).any()
    )
    worst = float(np.quantile(np.abs(relative), 0.95))
    return Section(
        f"errors-{measured.target}",
        f"19 of 20 {'counts' if measured.unit == 'Minstr' else 'latencies'} on {measured.target} are "
        f"predicted within {worst:.1f} %",
        "Error of each measured subnet's prediction by a model of all others: the dot is the median, the "
        "thick line the middle half, the thin one nine of ten.",
        lambda style: error_by_group(measured.cost, measured.loo, measured.groups, style),
        ("by", "value", "subnets", "median error, %"),
        rows,
    )


def _learning(measured: Measured, curve: LearningCurve) -> Section:
    best = next(iter(curve.errors.values()))
    guided = GUIDED in curve.errors
    return Section(
        f"learning-{measured.target}",
        f"{curve.samples[0]} measured subnets predict others on {measured.target} within "
        f"{100 * best[0]:.1f} % on average, {curve.samples[-1]} within {100 * best[-1]:.1f} %",
        f"Mean error on {curve.held_out} measured subnets that were held out, over the number that the model "
        "was fitted to; means over random choices of them."
        + (
            " A first guess is the sum of the tuning log's kernel times, or another target's model; it stays "
            "the one that the model in use has, overheads fitted to all subnets included."
            if guided
            else ""
        ),
        lambda style: learning_curve(
            curve.samples,
            {name: [100 * e for e in errors] for name, errors in curve.errors.items()},
            style,
            what="mean error, %",
        ),
        ("measured subnets", *(f"mean error {name}, %" for name in curve.errors)),
        tuple(
            (str(n), *(f"{100 * errors[i]:.2f}" for errors in curve.errors.values()))
            for i, n in enumerate(curve.samples)
        ),
    )


def _training(content: Content) -> Section:
    training = content.training
    if training is None:
        raise ValueError("there is no training to show")
    n = len(training.phases)
    title = f"{n} phase{'s' if n > 1 else ''} of training"
    if training.accuracies:
        _, low, high = training.accuracies[-1]
        title += f"; at the end all validated subnets reach {100 * low:.1f} to {100 * high:.1f} %"
    return Section(
        "training",
        title,
        "Loss of each epoch, phase by phase (each phase has a loss of its own), and the accuracy of the best "
        "and the worst validated subnet when a phase ends.",
        lambda style: figures.training_curves(training, style),
        ("phase", "steps", "last loss"),
        tuple(
            (name, f"{last - first:.0f}", _last_loss(training, first, last))
            for name, first, last in training.phases
        ),
    )


def _last_loss(training: Training, first: float, last: float) -> str:
    inside = training.loss[(training.step > first) & (training.step <= last)]
    return f"{inside[-1]:.4g}" if len(inside) else "-"


def _cost(unit: str) -> str:
    """What is counted in a unit."""
    return "instructions" if unit == "Minstr" else "latency"


def _millions(count: float) -> str:
    return f"{count / 1e6:.3g} M"
