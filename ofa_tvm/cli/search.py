"""ofa-tvm search."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ofa_tvm.cli.budgets import budgets_of
from ofa_tvm.cli.competing import DTypeChoice, dtype_or_auto_option, formats_of, say_if_only_stored
from ofa_tvm.cli.console import Console, common_options
from ofa_tvm.cli.durations import dry_run_option, time_limit_option
from ofa_tvm.cli.limits import limit_options
from ofa_tvm.cli.options import (
    INPUT_PATH,
    OUTPUT_PATH,
    batch_option,
    complete_target,
    resolutions_option,
    space_option,
    threads_option,
)
from ofa_tvm.cli.plans import say_plan, show_plan
from ofa_tvm.cli.search_inputs import (
    accuracy_of,
    check_models,
    given_models,
    require_accuracy,
    say_tables,
    supernet_and_images,
    target_requests,
)
from ofa_tvm.errors import UsageError

if TYPE_CHECKING:
    from ofa_tvm.estimators.contract import AccuracyModel, CostModel
    from ofa_tvm.search.budget import Budget
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
    "--throughput",
    "rates",
    multiple=True,
    metavar="RATE",
    help="In place of --latency, with --batch: images that have to be classified, for example 5000/s.",
)
@click.option(
    "-t",
    "--target",
    "targets",
    multiple=True,
    default=("x86",),
    show_default=True,
    shell_complete=complete_target,
    help="A target's name or YAML file; again for one subnet that keeps a budget on each of several targets.",
)
@threads_option
@dtype_or_auto_option
@batch_option
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
@limit_options
@click.option("--range", "ranges", is_flag=True, help="Print which budgets can be kept, as far as predicted.")
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
@click.option(
    "--with-runtime",
    is_flag=True,
    help="Add what a bare device needs: run.sh for pictures, and libraries, for phones the C library, too.",
)
@time_limit_option
@dry_run_option
@common_options
def command(
    console: Console,
    latencies: tuple[str, ...],
    rates: tuple[str, ...],
    targets: tuple[str, ...],
    threads: int | None,
    dtype: DTypeChoice,
    batch: int | None,
    space: str | None,
    resolutions: tuple[int, ...] | None,
    pareto: str | None,
    tables: tuple[Path, ...],
    predictors: tuple[Path, ...],
    accuracy_predictor: Path | None,
    limits: dict[str, float],
    ranges: bool,
    no_verify: bool,
    arch_only: bool,
    candidates: int,
    rounds: int,
    latency_samples: int,
    output: Path | None,
    with_runtime: bool,
    time_limit: float | None,
    dry_run: bool,
) -> None:
    """Search the space for the most accurate subnet whose latency is within the budget.

    What the search proposes is compiled, and its latency measured on the target and its accuracy on the
    validation images; both predictors learn from that and the search is repeated. What -o ships was measured
    within the budget. Space, checkpoint, images, accuracy predictor and logs come from the nearest
    ofa-tvm.yaml; the latency model is the project's, else learned from the log and some measurements. With
    --no-verify the hardware in the target's descriptor gives a first estimate.
    """
    from ofa_tvm.targets import get_target
    from ofa_tvm.workflow.predictors import require_unit
    from ofa_tvm.workflow.settings import resolve

    optional = pareto is not None or ranges
    budgets = budgets_of(latencies, rates, batch, len(targets), optional=optional)
    formats = formats_of([get_target(name) for name in targets], dtype)
    alternatives = [
        [
            resolve(name, threads=threads, dtype=one, batch=batch, space=space, resolutions=resolutions)
            for name in targets
        ]
        for one in formats
    ]
    every_target = alternatives[0]
    settings = every_target[0]
    check_models([s.target.name for s in every_target], tables, predictors, len(formats))
    no_verify = no_verify or pareto is not None or ranges
    if no_verify and (dry_run or time_limit is not None):
        raise UsageError("predictions take seconds; --dry-run and --time-limit are of searches that measure")
    if no_verify and output and pareto is None:
        raise UsageError("-o ships only what was measured; leave out --no-verify or -o")
    if not (no_verify and (tables or predictors)):
        for budget, s in zip(budgets, every_target, strict=False):
            require_unit(budget, s.target)
    if ranges:
        if output is not None or pareto is not None:
            raise UsageError("--range only prints; leave out -o and --pareto")
        given = given_models(settings.space, len(every_target), tables, predictors)
        _show_range(console, alternatives, given, limits)
        return
    evaluates = not no_verify and not arch_only
    accuracies = [accuracy_of(each[0], accuracy_predictor, evaluates=evaluates) for each in alternatives]
    if evaluates:
        _require_project(settings)
    else:
        require_accuracy(settings, accuracies[0][0], pareto)
    if no_verify and tables:
        say_tables(console, every_target, budgets, tables)
    else:
        _say_settings(console, alternatives, budgets)
        for one in (one for several in alternatives for one in several):
            say_if_only_stored(console, one.target)
    models = given_models(settings.space, len(every_target), tables, predictors)
    if no_verify:
        own = [own for own, _ in accuracies]
        _predict(console, alternatives, budgets, own, models, limits, pareto, output)
        return
    from ofa_tvm.workflow.reach import require_budgets

    require_budgets(alternatives, budgets, models, [own for own, _ in accuracies])  # before TVM's 4 s
    from ofa_tvm.cli.verified import show
    from ofa_tvm.search.limits import hard_limits
    from ofa_tvm.workflow.pipeline import run_search
    from ofa_tvm.workflow.plan import search_plan
    from ofa_tvm.workflow.request import SearchRequest

    requests = []
    for each, (accuracy, start) in zip(alternatives, accuracies, strict=True):
        net, data = supernet_and_images(console, each[0], random=arch_only)
        request = SearchRequest(
            settings.store,
            net,
            data,
            target_requests(each, budgets, models, None if arch_only else output),
            resolutions=settings.resolutions,
            accuracy=accuracy,
            accuracy_start=start,
            limits=hard_limits(net.space, limits, net.n_classes, each[0].target.dtype, each[0].target.batch),
            latency_samples=latency_samples,
            calibration_images=settings.project.calibration_images,
            candidates=candidates,
            rounds=rounds,
            with_runtime=with_runtime,
            seed=console.seed,
        )
        requests.append(request)
    if dry_run:
        show_plan(console, search_plan(requests, timed=True))
        return
    say_plan(console, search_plan(requests), time_limit)
    show(console, run_search(*requests, deadline=console.deadline(time_limit), progress=console.progress))


def _predict(
    console: Console,
    alternatives: Sequence[Sequence[Settings]],
    budgets: Sequence[Budget],
    accuracies: Sequence[AccuracyModel | None],
    models: Sequence[CostModel | None],
    limits: dict[str, float],
    pareto: str | None,
    output: Path | None,
) -> None:
    from ofa_tvm.cli.predicted import PredictorQuery, find_predicted
    from ofa_tvm.cli.trade_off import trade_off

    needs_latency = "latency" in (pareto or "latency")
    questions = PredictorQuery.each(
        console, alternatives, budgets, accuracies, models, limits=limits, needs_latency=needs_latency
    )
    if pareto is not None:
        trade_off(console, questions, pareto.split(","), output)
    else:
        find_predicted(console, questions)


def _show_range(
    console: Console,
    alternatives: Sequence[Sequence[Settings]],
    models: Sequence[CostModel | None],
    limits: dict[str, float],
) -> None:
    from ofa_tvm.cli.limits import show_range
    from ofa_tvm.cli.predicted import PredictorQuery

    nothing = [None] * len(alternatives)
    asked = PredictorQuery.each(console, alternatives, [], nothing, models, limits=limits, needs_latency=True)
    show_range(console, asked)


def _require_project(settings: Settings) -> None:
    if settings.checkpoint is None:
        raise settings.missing(
            "checkpoint",
            "the trained supernet whose subnets are shipped; train one (ofa-tvm train), or go on with random "
            "weights by --arch-only, which ships nothing",
        )
    if settings.project.data is None:
        raise settings.missing("data", "the images that subnets are calibrated and evaluated with")


def _say_settings(
    console: Console, alternatives: Sequence[Sequence[Settings]], budgets: Sequence[Budget]
) -> None:
    first, *others = alternatives[0]
    wanted = ", ".join(f"{b} on {s.target.name}" for b, s in zip(budgets, [first, *others], strict=False))
    formats = " or ".join(each[0].target.dtype for each in alternatives)
    console.say(
        f"budget {wanted or 'none'}, {first.describe()}, {formats}, "
        f"checkpoint {first.checkpoint or 'none'}, seed {console.seed}"
    )
    for other in others:
        console.say(f"and {other.describe_target()}")
