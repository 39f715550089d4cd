"""Why a search shipped what it shipped, told from what it measured; and where more time buys nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ofa_tvm.deploy.manifest import CandidateEntry
from ofa_tvm.report.content import Deployed
from ofa_tvm.report.units import cost_scale, rough
from ofa_tvm.search.budget import budget_above

_ROOM = 1.03
_WORTH_SAYING = 0.9  # of the largest cost: a front that is flat from there on is news


@dataclass(frozen=True)
class Flat:
    """A front that no longer rises.

    Attributes
    ----------
    cost
        From which on.
    best
        The highest accuracy on the front, 0..1.
    tolerance
        Differences up to this are none that can be told, 0..1.
    """

    cost: float
    best: float
    tolerance: float


def flat_from(front: np.ndarray, dearest: float, tolerance: float) -> Flat | None:
    """Where a front (m, 2) of costs and accuracies comes within `tolerance` of its best.

    None if that is about where the space ends, at the cost of its `dearest` subnets.
    """
    if len(front) < 2:
        return None
    best = float(front[:, 1].max())
    cost = float(front[front[:, 1] >= best - tolerance, 0].min())
    return Flat(cost, best, tolerance) if cost <= _WORTH_SAYING * dearest else None


def least_difference(rmse: float | None, validation_images: int | None) -> float:
    """Which differences of accuracy cannot be told: the predictor's error, or one image."""
    return max(rmse or 0.0, 1 / validation_images if validation_images else 0.0, 1e-4)


def saturation(flat: Flat, shipped: Deployed | None, unit: str, validation_images: int | None) -> str:
    """That accuracy saturates, and what this means for what was shipped."""
    scale, name = cost_scale(flat.cost, unit)
    text = (
        f"Accuracy saturates: from {scale * flat.cost:.3g} {name} on, the predicted best lies within "
        f"{100 * flat.tolerance:.2g} points of its highest, {100 * flat.best:.1f} %; too little to tell"
    )
    text += f" on {validation_images} validation images." if validation_images else "."
    if shipped is None or not beyond(flat, shipped):
        return text
    return (
        f"{text} What shipped lies beyond, at {scale * (shipped.latency.measured or 0):.3g} {name}: a budget "
        "is a limit, and of what was measured within it the search takes the most accurate subnet; a faster "
        "one only if it got as many of the validation images right."
    )


def beyond(flat: Flat, shipped: Deployed) -> bool:
    """Whether an artefact costs more than where the front becomes flat."""
    return shipped.latency.measured is not None and shipped.latency.measured > flat.cost


def faster(flat: Flat, shipped: Deployed) -> str:
    """What to type for a subnet about where the front becomes flat; its measurement needs some room."""
    budget = budget_above(_ROOM * flat.cost, shipped.latency.unit)
    return f"ofa-tvm search {shipped.manifest.variant.options()} --latency {budget} -o NEW"


def reasons(shipped: Deployed, tolerance: float) -> tuple[str, ...]:
    """Sentences on why this candidate was chosen: budget, margin, rank, the next best and why not that."""
    chosen = next((c for c in shipped.candidates if c.arch == shipped.arch), None)
    if chosen is None:
        return ()
    budget = shipped.latency.budget
    others = sorted(
        (c for c in shipped.candidates if c.arch != shipped.arch), key=lambda c: -c.predicted_accuracy
    )
    return tuple(
        text
        for text in (
            _first(shipped, chosen, budget),
            _next_within(shipped, chosen, others, tolerance),
            _too_slow(shipped, chosen, others, budget),
        )
        if text
    )


def _first(shipped: Deployed, chosen: CandidateEntry, budget: float | None) -> str:
    unit = shipped.latency.unit
    scale, name = cost_scale(chosen.measured, unit)
    within = sum(c.within for c in shipped.candidates)
    text = f"Of {len(shipped.candidates)} subnets with a measured cost, {within} kept the budget"
    if budget is not None:
        text += f" of {scale * budget:.4g} {name}"
    text += (
        f", noise margin included: this one took {scale * chosen.measured:.4g} {name} and has a margin of "
        f"{rough(scale * chosen.noise)}"
    )
    if budget is not None:
        text += f", which leaves {rough(scale * (budget - chosen.measured - chosen.noise))} {name}"
    text += f". Its accuracy, {_percent(chosen)} by the predictor that knows all measured subnets, is "
    best = max(
        (c for c in shipped.candidates if c.within), key=lambda c: c.predicted_accuracy, default=chosen
    )
    if best.predicted_accuracy > chosen.predicted_accuracy:
        text += (
            f"less than one validation image below the highest among those, {_percent(best)}; as it got no "
            f"fewer images right, the faster one ships: the other took {scale * best.measured:.4g} {name}."
        )
    else:
        text += "the highest among those."
    if chosen.validation_accuracy is not None:
        text += f" Measured on the validation images: {100 * chosen.validation_accuracy:.2f} %."
    return text


def _percent(candidate: CandidateEntry) -> str:
    return f"{100 * candidate.predicted_accuracy:.2f} %"


def _next_within(
    shipped: Deployed, chosen: CandidateEntry, others: Sequence[CandidateEntry], tolerance: float
) -> str:
    after = next((c for c in others if c.within and c.predicted_accuracy <= chosen.predicted_accuracy), None)
    if after is None:
        return ""
    scale, name = cost_scale(after.measured, shipped.latency.unit)
    less = chosen.predicted_accuracy - after.predicted_accuracy
    worse = f"{100 * less:.2f} points less" if less >= 5e-5 else "just as"
    text = f"The next best within the budget took {scale * after.measured:.4g} {name} and is {worse} accurate"
    faster = 100 * (1 - after.measured / chosen.measured)
    if less <= tolerance:
        text += ": a difference that these images cannot tell" if less >= 5e-5 else ""
        if faster >= 1:
            text += f"; it is {faster:.0f} % faster"
        if (after.validation_accuracy or 0.0) < (chosen.validation_accuracy or 0.0):
            text += f"; it got fewer of these images right, {100 * (after.validation_accuracy or 0.0):.2f} %"
    return text + "."


def _too_slow(
    shipped: Deployed, chosen: CandidateEntry, others: Sequence[CandidateEntry], budget: float | None
) -> str:
    over = next(
        (c for c in others if not c.within and c.predicted_accuracy > chosen.predicted_accuracy), None
    )
    if over is None or budget is None:
        return ""
    scale, name = cost_scale(over.measured, shipped.latency.unit)
    more = 100 * (over.predicted_accuracy - chosen.predicted_accuracy)
    took = f"{scale * over.measured:.4g} {name}"
    if over.measured > budget:
        why = f"it took {took}, {rough(scale * (over.measured - budget))} {name} more than the budget"
    elif over.measured + over.noise > budget:
        why = f"with its noise margin of {rough(scale * over.noise)}, its {took} may exceed the budget"
    else:
        why = f"it took {took} here, but too much on another target"
    return f"One that is predicted {more:.2f} points more accurate was left: {why}."
