"""Whether budgets can be kept at all, as far as is known before anything is loaded that takes long."""

from __future__ import annotations

from collections.abc import Sequence

from ofa_tvm.errors import UsageError
from ofa_tvm.estimators.contract import CostModel, Predictor
from ofa_tvm.search.budget import Budget
from ofa_tvm.search.constraints import Limits, latency_limit, require_reachable
from ofa_tvm.targets import Variant
from ofa_tvm.workflow.models import KnownLatency
from ofa_tvm.workflow.predictors import search_resolutions
from ofa_tvm.workflow.settings import Settings


def require_budgets(
    alternatives: Sequence[Sequence[Settings]],
    budgets: Sequence[Budget],
    models: Sequence[CostModel | None],
    accuracies: Sequence[Predictor | None],
) -> None:
    """Refuse budgets below what every subnet costs, where the latency models are there already.

    Parameters
    ----------
    alternatives
        The targets' settings, in each number format that competes.
    budgets, models
        Of each target; a model that is None is looked for in the project.
    accuracies
        Of each format what predicts accuracies, which knows some of the resolutions only.

    Raises
    ------
    UsageError
        If no format can keep them; says what the first one can reach. What has to be learned first is
        refused when it was learned.
    """
    refused: list[UsageError] = []
    for every_target, accuracy in zip(alternatives, accuracies, strict=True):
        try:
            for settings, budget, model in zip(every_target, budgets, models, strict=True):
                _require(settings, budget, model, accuracy)
        except UsageError as error:
            refused.append(error)
        else:
            return
    raise refused[0]


def _require(settings: Settings, budget: Budget, given: CostModel | None, accuracy: Predictor | None) -> None:
    space, asked = settings.space, settings.resolutions
    known = (
        settings.store.latency(Variant.of(settings.target), space)
        if given is None
        else KnownLatency(given, {})
    )
    if known is None or not set(asked or ()) <= set(known.model.resolutions):
        return  # it will be learned
    sides = search_resolutions(space, [known.model, *([] if accuracy is None else [accuracy])], asked)
    if any(cost <= budget.value for arch, cost in known.measured.items() if arch.r in sides):
        return
    require_reachable(space, Limits((latency_limit(known.model, budget),)), sides)
