"""Which predictors a search goes by, and what it may ask of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ofa_tvm.errors import UsageError, UserError
from ofa_tvm.estimators.contract import Function, Predictor
from ofa_tvm.latency.estimate import Estimate, first_estimate
from ofa_tvm.latency.generalized import shipped_model
from ofa_tvm.search.budget import Budget
from ofa_tvm.spaces.space import Space
from ofa_tvm.targets import Target
from ofa_tvm.targets.devices import Platform


def require_unit(budget: Budget, target: Target) -> None:
    """Refuse a budget that the target's cost cannot be compared with.

    Raises
    ------
    UsageError
        Says which unit to type.
    """
    if budget.unit == target.unit:
        return
    if target.unit == "Minstr":
        raise UsageError(
            f"target {target.name} is emulated here, so it counts instructions and has no latency; type the "
            "budget in millions of instructions, for example 120Minstr; where a device is at hand, name its "
            "tracker in OFA_TVM_TRACKER"
        )
    raise UsageError(f"target {target.name} is measured in ms; type the budget so, for example 25ms")


def as_share(accuracy: Function) -> Function:
    """An accuracy predictor that knows that no accuracy is above 1; where it decides alone, ties are ties."""
    return lambda genes: np.minimum(accuracy(genes), 1.0)


def estimate_latency(space: Space, target: Target, n_classes: int = 1000) -> Estimate:
    """A first estimate by the model that ships, where nothing was measured.

    Raises
    ------
    UserError
        If it cannot say anything of the target or the space.
    """
    if target.unit != "ms":
        raise UserError(f"{target.name} is emulated, and counts of instructions do not follow from hardware")
    if target.dtype != "float32":
        raise UserError(f"the model that ships knows float32 networks, not {target.dtype} ones")
    return first_estimate(shipped_model(), space, Platform.of(target), n_classes)


def covered_resolutions(space: Space, models: Sequence[Predictor]) -> tuple[int, ...]:
    """Resolutions of the space that all models know, ascending.

    Raises
    ------
    UsageError
        If they have none in common.
    """
    common = set(space.resolutions).intersection(*(model.resolutions for model in models))
    if not common:
        raise UsageError(
            "the latency model and the accuracy predictor know no common resolution of the space "
            f"{space.name}; make one of them anew at the other's resolutions"
        )
    return tuple(sorted(common))


def search_resolutions(
    space: Space, models: Sequence[Predictor], asked: Sequence[int] | None
) -> tuple[int, ...]:
    """Those asked for, all of which the models have to know; without any, all that the models know.

    Raises
    ------
    UsageError
        If a model does not know one that was asked for.
    """
    known = covered_resolutions(space, models)
    for side in asked or ():
        if side not in known:
            raise UsageError(
                f"the latency model or the accuracy predictor does not know resolution {side}; "
                f"both know {', '.join(map(str, known))}, of which --resolutions chooses"
            )
    return tuple(asked or known)
