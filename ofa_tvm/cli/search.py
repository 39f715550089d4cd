"""ofa-tvm search."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ofa_tvm.cli.console import Console, common_options
from ofa_tvm.cli.options import (
    INPUT_PATH,
    OUTPUT_PATH,
    dtype_option,
    resolutions_option,
    space_option,
    threads_option,
)
from ofa_tvm.errors import UsageError

if TYPE_CHECKING:
    from ofa_tvm.estimators.contract import AccuracyModel, CostModel
    from ofa_tvm.search.budget import Budget
    from ofa_tvm.spaces.space import Space
    from ofa_tvm.supernet import Supernet
    from ofa_tvm.targets import DType
    from ofa_tvm.training.data import ImageData
    from ofa_tvm.workflow.request import TargetRequest
    from ofa_tvm.workflow.settings import Settings


@click.command(short_help="Find, verify and ship the most accurate subnet within a latency budget.")
@click.option(
    "--latency",
    "latencies",
    multiple=True,
    metavar="BUDGET",
    help="Budget with its unit: 25ms, 800us, or 120Minstr if emulated; again for each --target.",
)
@click.option(
    "-t",
    "--target",
    "targets",
    multiple=True,
    default=("x86",),
    show_default=True,
    help="A target's name or YAML file; again for one subnet that keeps a budget on each of several targets.",
)
@threads_option
@dtype_option
@space_option
@resolutions_option
@click.option(
    "--pareto",
    is_flag=False,
    flag_value="latency,accuracy",
    metavar="[OBJECTIVES]",
    help="Predict the trade-off (NSGA-II) of latency,accuracy or of any among latency, accuracy, macs, "
    "params, memory, size; budgets are optional then. -o names a JSON file for the front.",
)
@click.option(
    "--latency-table",
    "tables",
    type=INPUT_PATH,
    multiple=True,
    help="Lookup table of Once-for-All: a file, or a folder of them; again for each --target.",
)
@click.option(
    "--latency-predictor",
    "predictors",
    type=INPUT_PATH,
    multiple=True,
    help="Model file of `ofa-tvm predictor fit`; again for each --target.",
)
@click.option("--accuracy-predictor", type=INPUT_PATH, help="By default the nearest ofa-tvm.yaml's.")
@click.option("--no-verify", is_flag=True, help="Predict only: nothing is measured, nothing shipped.")
@click.option("--arch-only", is_flag=True, help="Go on without a checkpoint: measure, but ship nothing.")
@click.option(
    "--candidates", type=click.IntRange(min=1), default=4, show_default=True, help="Measured in each round."
)
@click.option(
    "--rounds", type=click.IntRange(min=1), default=3, show_default=True, help="Of searching and measuring."
)
@click.option(
    "--latency-samples", type=click.IntRange(min=2), default=40, show_default=True,
    help="Measured to learn a latency model where there is none.",
)  # fmt: skip
@click.option(
    "-o",
    "--output",
    type=OUTPUT_PATH,
    help="Folder of the artefact, or of one for each of several targets; without it nothing is shipped.",
)
@click.option("--with-runtime", is_flag=True, help="Add the target's TVM runtime libraries to the artefact.")
@common_options
def command(
    console: Console,
    latencies: tuple[str, ...],
    targets: tuple[str, ...],
    threads: int | None,
    dtype: DType | None,
    space: str | None,
    resolutions: tuple[int, ...] | None,
    pareto: str | None,
    tables: tuple[Path, ...],
    predictors: tuple[Path, ...],
    accuracy_predictor: Path | None,
    no_verify: bool,
    arch_only: bool,
    candidates: int,
    rounds: int,
    latency_samples: int,
    output: Path | None,
    with_runtime: bool,
) -> None:
    """Search the space for the most accurate subnet whose latency is within the budget.

    What the search proposes is compiled, and its latency measured on the target and its accuracy on the
    validation images; both predictors learn from that and the search is repeated. What is shipped with -o has
    a measured latency within the budget. Space, checkpoint, images, accuracy predictor and tuning logs come
    from the nearest ofa-tvm.yaml; the latency model is the project's, else it is learned from the tuning log
    and some measurements. With --no-verify the hardware in the target's descriptor gives a first estimate.
    """
    from ofa_tvm.search.budget import parse_budget
    from ofa_tvm.workflow.models import load_accuracy
    from ofa_tvm.workflow.predictors import require_unit
    from ofa_tvm.workflow.settings import resolve

    budgets = [parse_budget(text) for text in latencies]
    _check_budgets(len(targets), len(budgets), pareto)
    every_target = [
        resolve(name, threads=threads, dtype=dtype, space=space, resolutions=resolutions) for name in targets
    ]
    settings = every_target[0]
    _check_models([s.target.name for s in every_target], tables, predictors)
    no_verify = no_verify or pareto is not None
    if no_verify and output and pareto is None:
        raise UsageError("-o ships only what was measured; leave out --no-verify or -o")
    if not (no_verify and (tables or predictors)):
        for budget, s in zip(budgets, every_target, strict=False):
            require_unit(budget, s.target)
    if not no_verify and not arch_only:
        _require_project(settings)
    else:
        _require_accuracy(settings, accuracy_predictor, pareto)
    accuracy_path = accuracy_predictor or settings.accuracy_predictor
    _say_settings(console, every_target, budgets, accuracy_path)
    accuracy = None if accuracy_path is None else load_accuracy(accuracy_path, settings.space)
    models = _given_models(settings.space, len(every_target), tables, predictors)
    if no_verify:
        _predict(console, every_target, budgets, accuracy, models, pareto, output)
        return
    from ofa_tvm.cli.verified import show
    from ofa_tvm.workflow.pipeline import run_search
    from ofa_tvm.workflow.request import SearchRequest

    net, data = _supernet(console, settings, random=arch_only)
    request = SearchRequest(
        settings.store,
        net,
        data,
        _target_requests(every_target, budgets, models, None if arch_only else output),
        resolutions=settings.resolutions,
        accuracy=accuracy,
        latency_samples=latency_samples,
        calibration_images=settings.project.calibration_images,
        candidates=candidates,
        rounds=rounds,
        with_runtime=with_runtime,
        seed=console.seed,
    )
    show(console, request, run_search(request, progress=console.progress))


def _predict(
    console: Console,
    every_target: Sequence[Settings],
    budgets: Sequence[Budget],
    accuracy: AccuracyModel | None,
    models: Sequence[CostModel | None],
    pareto: str | None,
    output: Path | None,
) -> None:
    from ofa_tvm.cli.predicted import PredictorQuery, find_predicted, trade_off

    question = PredictorQuery.of(
        console, every_target, budgets, accuracy, models, needs_latency="latency" in (pareto or "latency")
    )
    if pareto is not None:
        trade_off(console, question, pareto.split(","), output)
    else:
        find_predicted(console, question)


def _check_budgets(n_targets: int, n_budgets: int, pareto: str | None) -> None:
    """One budget a target; a Pareto front may do without."""
    if not n_budgets and pareto is None:
        raise UsageError("Missing option '--latency': the budget, for example --latency 25ms")
    if n_targets != n_budgets and not (pareto is not None and not n_budgets):
        raise UsageError(
            f"{n_targets} target{'s' if n_targets > 1 else ''} but {n_budgets} budgets; type one "
            "--latency for each --target"
        )


def _check_models(targets: Sequence[str], tables: Sequence[Path], predictors: Sequence[Path]) -> None:
    """Each target once, with one latency model or none."""
    if len(set(targets)) < len(targets):
        raise UsageError("a target is named twice; give each target once, with its budget")
    if tables and predictors:
        raise UsageError("give a --latency-table or a --latency-predictor, not both")
    given = tables or predictors
    if given and len(given) != len(targets):
        raise UsageError(
            f"{len(targets)} targets but {len(given)} latency models; give one for each, in order"
        )


def _require_project(settings: Settings) -> None:
    if settings.checkpoint is None:
        raise settings.missing(
            "checkpoint",
            "the trained supernet whose subnets are shipped; train one (ofa-tvm train), or go on with random "
            "weights by --arch-only, which ships nothing",
        )
    if settings.project.data is None:
        raise settings.missing("data", "the images that subnets are calibrated and evaluated with")


def _require_accuracy(settings: Settings, given: Path | None, pareto: str | None) -> None:
    """Where no accuracy is measured, one has to be predicted."""
    if not (given or settings.accuracy_predictor) and (pareto is None or "accuracy" in pareto):
        raise settings.missing(
            "accuracy_predictor", "a predictor of subnets' accuracies; or name one with --accuracy-predictor"
        )


def _say_settings(
    console: Console, every_target: Sequence[Settings], budgets: Sequence[Budget], accuracy: Path | None
) -> None:
    wanted = ", ".join(f"{b} on {s.target.name}" for b, s in zip(budgets, every_target, strict=False))
    console.say(
        f"budget {wanted or 'none'}, {every_target[0].describe()}, "
        f"checkpoint {every_target[0].checkpoint or 'none'}, "
        f"accuracy predictor {accuracy or 'to be learned'}, seed {console.seed}"
    )
    for other in every_target[1:]:
        console.say(f"and {other.describe_target()}")


def _given_models(
    space: Space, n_targets: int, tables: Sequence[Path], predictors: Sequence[Path]
) -> list[CostModel | None]:
    """The latency models that options name, one a target; None where none does."""
    from ofa_tvm.latency.lookup_table import LookupTable
    from ofa_tvm.workflow.models import load_latency

    if tables:
        return [LookupTable.read(path, space) for path in tables]
    return [load_latency(path, space) for path in predictors] or [None] * n_targets


def _supernet(console: Console, settings: Settings, *, random: bool) -> tuple[Supernet, ImageData | None]:
    """The project's supernet and images; with `random` weights no images belong to it."""
    from ofa_tvm.cli.networks import check_classes
    from ofa_tvm.cli.verified import RANDOM

    if random:
        console.say(RANDOM)
        return settings.supernet(random=True), None
    net = settings.supernet()
    data = settings.data(progress=console.progress)
    check_classes(net, settings.checkpoint, data)
    return net, data


def _target_requests(
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
