"""What `ofa-tvm search` answers from predictors alone (--no-verify), and what it asks of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ofa_tvm.cli.console import Console
from ofa_tvm.errors import UsageError, UserError
from ofa_tvm.estimators.contract import AccuracyModel, CostModel
from ofa_tvm.latency.estimate import Estimate
from ofa_tvm.search.budget import Budget
from ofa_tvm.search.constraints import Constraint, latency_limit
from ofa_tvm.search.evolution import search_within
from ofa_tvm.search.limits import hard_limits
from ofa_tvm.targets import DType, Variant
from ofa_tvm.workflow.models import KnownLatency
from ofa_tvm.workflow.predictors import estimate_latency, search_resolutions
from ofa_tvm.workflow.settings import Settings


@dataclass(frozen=True)
class PredictorQuery:
    """What is asked of the predictors.

    Parameters
    ----------
    settings
        Of the first target; the space is the same for all.
    accuracy
        None if it plays no part.
    latency
        Target name -> its model.
    budgets
        Target name -> its budget, if there is one.
    resolutions
        To choose from: those that all models know.
    doubts
        Target name -> the factor by which its model, an estimate from its descriptor, may be off.
    limits
        What holds beside the budgets.
    """

    settings: Settings
    accuracy: AccuracyModel | None
    latency: dict[str, CostModel]
    budgets: dict[str, Budget]
    resolutions: tuple[int, ...]
    doubts: dict[str, float]
    limits: tuple[Constraint, ...] = ()

    @classmethod
    def each(
        cls,
        console: Console,
        alternatives: Sequence[Sequence[Settings]],
        budgets: Sequence[Budget],
        accuracies: Sequence[AccuracyModel | None],
        models: Sequence[CostModel | None],
        *,
        limits: Mapping[str, float],
        needs_latency: bool,
    ) -> list[PredictorQuery]:
        """One for each number format; of several, what lacks a model is only said.

        Raises
        ------
        UsageError
            As `of`, if none has its models.
        """
        found: list[PredictorQuery] = []
        for settings, accuracy in zip(alternatives, accuracies, strict=True):
            try:
                if found and (accuracy is None) != (found[0].accuracy is None):
                    raise UsageError("there is no accuracy predictor of it")
                one = cls.of(console, settings, budgets, accuracy, models, needs_latency=needs_latency)
                first = settings[0]
                bounds = hard_limits(
                    first.space, limits, first.n_classes if limits else 0, one.dtype, first.target.batch
                )
                found.append(replace(one, limits=bounds))
            except UsageError as error:
                if not found and settings is alternatives[-1]:
                    raise
                console.say(f"{settings[0].target.dtype} is left out: {error}")
        return found

    @property
    def constraints(self) -> tuple[Constraint, ...]:
        """The budgets, where there are any, and the other limits."""
        names = {name: f"latency on {name}" if len(self.latency) > 1 else "latency" for name in self.budgets}
        return (
            *(latency_limit(self.latency[name], self.budgets[name], label) for name, label in names.items()),
            *self.limits,
        )

    @property
    def dtype(self) -> DType:
        """The number format of the subnets."""
        return self.settings.target.dtype

    @classmethod
    def of(
        cls,
        console: Console,
        every_target: Sequence[Settings],
        budgets: Sequence[Budget],
        accuracy: AccuracyModel | None,
        models: Sequence[CostModel | None],
        *,
        needs_latency: bool,
    ) -> PredictorQuery:
        """Collect it from a command line.

        Where that names no latency model, the project's counts, and where there is none, the model that
        ships estimates.

        Raises
        ------
        UsageError
            If a target has no latency model and none can be estimated; says what to run. If the models know
            no common resolution.
        """
        latency: dict[str, CostModel] = {}
        doubts: dict[str, float] = {}
        for settings, model in zip(every_target, models, strict=True):
            name = settings.target.name
            stored = None if model is not None else _stored(settings)
            if model is not None:
                latency[name] = model
            elif stored is not None:
                latency[name] = stored.model
            elif needs_latency or budgets:
                latency[name] = estimate = _estimate(console, settings)
                doubts[name] = estimate.factor
        space, asked = every_target[0].space, every_target[0].resolutions
        known = [*latency.values(), *([] if accuracy is None else [accuracy])]
        sides = search_resolutions(space, known, asked or (None if known else space.default_resolutions))
        names = (settings.target.name for settings in every_target)
        return cls(every_target[0], accuracy, latency, dict(zip(names, budgets, strict=False)), sides, doubts)


def _stored(settings: Settings) -> KnownLatency | None:
    return settings.store.latency(Variant.of(settings.target), settings.space)


def _estimate(console: Console, settings: Settings) -> Estimate:
    name = settings.target.name
    advice = (
        "give --latency-table or --latency-predictor (ofa-tvm collect, then ofa-tvm predictor fit), or leave "
        "out --no-verify to learn one by measuring"
    )
    try:
        estimate = estimate_latency(settings.space, settings.target, settings.n_classes)
    except UserError as error:
        raise UsageError(f"there is no latency model for target {name} ({error}); {advice}") from error
    console.say(
        f"there is no latency model for target {name}: a first estimate by its descriptor alone. "
        f"{_doubt(estimate)}; to know better, {advice}"
    )
    return estimate


def _doubt(estimate: Estimate) -> str:
    return f"The true latency may be up to {estimate.factor:.1f} times more or less (95 %)"


def find_predicted(console: Console, questions: Sequence[PredictorQuery]) -> None:
    """Print the most accurate subnet within every target's budget, in the best of the number formats."""
    several = len(questions) > 1
    answers = [_answer(console, question, f" in {question.dtype}" * several) for question in questions]
    first, *others = sorted(answers, key=lambda answer: -answer["predicted_accuracy"])
    if several:
        console.print(f"the best is in {first['dtype']}")
    console.result({**first, **({"other_dtypes": others} if several else {})})


def _answer(console: Console, question: PredictorQuery, where: str) -> dict[str, Any]:
    """The best subnet in one number format, shown and as plain data."""
    if question.accuracy is None:
        raise RuntimeError("a search for accuracy has a predictor of it")
    space = question.settings.space
    several = len(question.latency) > 1
    found = search_within(
        space,
        question.accuracy,
        question.constraints,
        k=1,
        seed=console.seed,
        resolutions=question.resolutions,
        progress=console.progress,
    )
    arch, accuracy = found.archs[0], min(float(found.accuracy[0]), 1.0)
    predicted = {name: float(model(found.genes)[0]) for name, model in question.latency.items()}
    on = [
        f"{predicted[name]:.4g} {budget.unit} of {budget}"
        + (f" on {name}" if several else "")
        + (" (by descriptor)" if name in question.doubts else "")
        for name, budget in question.budgets.items()
    ]
    console.print(
        f"predicted accuracy {accuracy:.4f}{where}, predicted latency {', '.join(on)} (not verified); best "
        f"of {found.evaluations} subnets at resolutions {', '.join(map(str, question.resolutions))} in "
        f"{found.seconds:.1f} s",
        arch.to_json(),
    )
    costs = [
        {
            "target": name,
            f"predicted_latency_{budget.unit.lower()}": predicted[name],
            f"budget_{budget.unit.lower()}": budget.value,
        }
        for name, budget in question.budgets.items()
    ]
    return {
        "space": space.name,
        "dtype": question.dtype,
        "arch": arch.to_dict(),
        "predicted_accuracy": accuracy,
        **({"targets": costs} if several else costs[0]),
        **estimates(question),
        "seconds": round(found.seconds, 3),
        "verified": False,
    }


def estimates(question: PredictorQuery) -> dict[str, dict[str, float]]:
    """For JSON: targets whose latency is estimated by descriptor, and how far off it may be."""
    factors = {name: round(factor, 2) for name, factor in question.doubts.items()}
    return {"estimated_within_factor": factors} if factors else {}
