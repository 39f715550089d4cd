"""What `ofa-tvm search` reads before it starts: predictors, supernet and images."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from ofa_tvm.cli.console import Console
from ofa_tvm.errors import UsageError

if TYPE_CHECKING:
    from ofa_tvm.accuracy.predictor import AccuracyPredictor
    from ofa_tvm.estimators.contract import AccuracyModel, CostModel
    from ofa_tvm.search.budget import Budget
    from ofa_tvm.spaces.space import Space
    from ofa_tvm.supernet import Supernet
    from ofa_tvm.training.data import ImageData
    from ofa_tvm.workflow.request import TargetRequest
    from ofa_tvm.workflow.settings import Settings


def accuracy_of(
    settings: Settings, given: Path | None, *, evaluates: bool
) -> tuple[AccuracyModel | None, AccuracyPredictor | None]:
    """What predicts accuracies in the settings' number format, else what that can be learned from.

    Parameters
    ----------
    given
        The predictor that was named; None for the project's.
    evaluates
        Whether subnets will be evaluated where there is something to learn.

    Returns
    -------
    A predictor of that format, None where there is none; else one of float32 that a few evaluations correct.

    Raises
    ------
    UsageError, UserError
        As `load_accuracy`.
    """
    from ofa_tvm.accuracy.predictor import AccuracyPredictor
    from ofa_tvm.workflow.models import load_accuracy

    dtype, space = settings.arithmetic, settings.space
    path = given or settings.accuracy_predictor(dtype)
    try:
        if path is not None:
            return load_accuracy(path, space, dtype), None
    except UsageError:
        if not evaluates or dtype == "float32":
            raise
    start = path or settings.accuracy_predictor("float32")
    if start is None or not evaluates:
        return None, None
    model = load_accuracy(start, space)
    return None, model if isinstance(model, AccuracyPredictor) else None


def require_accuracy(settings: Settings, known: AccuracyModel | None, pareto: str | None) -> None:
    """Where no accuracy is measured, one has to be predicted.

    Raises
    ------
    UsageError
        If it is needed and not `known`; says how to make one.
    """
    if known is None and (pareto is None or "accuracy" in pareto):
        if settings.arithmetic != "float32":
            start = settings.accuracy_predictor("float32")
            options = f"--fit {settings.store.accuracy_model(settings.arithmetic).name}"
            options += "" if start is None else f" --from {start} -n 12"
            raise UsageError(
                f"there is no predictor of accuracies in {settings.arithmetic}; make one in the project's "
                f"folder (ofa-tvm evaluate --dtype {settings.arithmetic} {options}), or name one with "
                "--accuracy-predictor"
            )
        raise settings.missing(
            "accuracy_predictor",
            "a predictor of subnets' accuracies; or name one with --accuracy-predictor",
        )


def say_tables(
    console: Console, every_target: Sequence[Settings], budgets: Sequence[Budget], tables: Sequence[Path]
) -> None:
    """What a search by published tables works with: latencies are those of the tables' devices."""
    first = every_target[0]
    pairs = zip_longest(budgets, tables)
    wanted = ", ".join(f"{budget} by {table}" if budget else str(table) for budget, table in pairs)
    where = (
        first.describe_space() if first.resolutions else f"space {first.space.name}, all resolutions there"
    )
    console.say(
        f"{'budget' if budgets else 'latencies of'} {wanted}, {where}, seed {console.seed}; "
        "nothing is compiled or measured"
    )


def check_models(
    targets: Sequence[str], tables: Sequence[Path], predictors: Sequence[Path], formats: int
) -> None:
    """Each target once, with one latency model or none.

    Raises
    ------
    UsageError
        If it is otherwise.
    """
    if (tables or predictors) and formats > 1:
        raise UsageError("a latency model is of one number format; choose that by --dtype, not auto")
    if len(set(targets)) < len(targets):
        raise UsageError("a target is named twice; give each target once, with its budget")
    if tables and predictors:
        raise UsageError("give a --latency-table or a --latency-predictor, not both")
    given = tables or predictors
    if given and len(given) != len(targets):
        raise UsageError(
            f"{len(targets)} targets but {len(given)} latency models; give one for each, in order"
        )


def given_models(
    space: Space, n_targets: int, tables: Sequence[Path], predictors: Sequence[Path]
) -> list[CostModel | None]:
    """The latency models that options name, one a target; None where none does."""
    from ofa_tvm.latency.lookup_table import LookupTable
    from ofa_tvm.workflow.models import load_latency

    if tables:
        return [LookupTable.read(path, space) for path in tables]
    return [load_latency(path, space) for path in predictors] or [None] * n_targets


def supernet_and_images(
    console: Console, settings: Settings, *, random: bool
) -> tuple[Supernet, ImageData | None]:
    """The project's supernet and images; with `random` weights no images belong to it."""
    from ofa_tvm.cli.networks import images_for
    from ofa_tvm.cli.verified import RANDOM

    if random:
        console.say(RANDOM)
        return settings.supernet(random=True), None
    net = settings.supernet()
    data = images_for(console, settings.checkpoint, net.n_classes, settings.data(progress=console.progress))
    if settings.arithmetic == "int8" and net.trained_dtype != "int8":
        console.say(
            f"{settings.checkpoint} was not trained for int8: this is post-training quantisation. To train "
            f"it: ofa-tvm train --init {settings.checkpoint} --phases quantize -o int8"
        )
    return net, data


def target_requests(
    every_target: Sequence[Settings],
    budgets: Sequence[Budget],
    models: Sequence[CostModel | None],
    output: Path | None,
) -> tuple[TargetRequest, ...]:
    """What is asked of each target; of several, each has a folder of its own within the output's."""
    from ofa_tvm.workflow.request import TargetRequest

    several = len(every_target) > 1
    return tuple(
        TargetRequest(
            s.target, budget, model, output / s.target.name if output is not None and several else output
        )
        for s, budget, model in zip(every_target, budgets, models, strict=True)
    )
