"""ofa-tvm tune."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ofa_tvm.cli.competing import say_if_only_stored
from ofa_tvm.cli.console import Console, common_options
from ofa_tvm.cli.options import (
    INPUT_PATH,
    batch_option,
    dtype_option,
    resolutions_option,
    shape_option,
    space_option,
    target_option,
    threads_option,
)
from ofa_tvm.errors import UsageError, counted
from ofa_tvm.progress import duration

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ofa_tvm.compiler.kernels import Kernel
    from ofa_tvm.targets import DType
    from ofa_tvm.tuning import TuningResult
    from ofa_tvm.workflow.settings import Settings
    from ofa_tvm.workflow.tune import TuningPlan

_NO_DEVICE = "with one device; the tracker has none now"


@click.command(short_help="Tune all kernels of a space, or of one ONNX model.")
@click.argument("model", required=False, type=INPUT_PATH)
@target_option
@threads_option
@dtype_option
@space_option
@resolutions_option
@batch_option
@shape_option
@click.option(
    "--trials", type=click.IntRange(min=1), default=16, show_default=True, help="Of each kernel, in all."
)
@click.option(
    "--seconds", type=click.FloatRange(min=0), help="Stop after this time; the command goes on there."
)
@click.option("--minutes", type=click.FloatRange(min=0), help="The same in minutes.")
@click.option("--retime", is_flag=True, help="Only time the known best schedules on this machine.")
@click.option("--dry-run", is_flag=True, help="Only say what there is to do and how long it takes.")
@common_options
def command(
    console: Console,
    model: Path | None,
    target: str,
    threads: int | None,
    dtype: DType | None,
    space: str | None,
    resolutions: tuple[int, ...] | None,
    batch: int | None,
    shapes: tuple[tuple[str, tuple[int, ...]], ...],
    trials: int,
    seconds: float | None,
    minutes: float | None,
    retime: bool,
    dry_run: bool,
) -> None:
    """Tune every kernel that any subnet of a space can need, or with MODEL those of one ONNX file.

    Records go to the tuning_logs folder of the nearest ofa-tvm.yaml's project, one a trial: stopped at any
    time, the same command goes on. Kernels that stand for the most time come first and get more trials.

    Logs that ship with ofa-tvm carry another machine's times. With --retime, their schedules are timed here,
    without any search: minutes for a whole space, after which `compile` takes the best here and the log
    predicts this machine's latencies. Stopped or out of time, the same command goes on.
    """
    if retime and dry_run:
        raise UsageError("--retime searches for nothing; there is no --dry-run of it")
    _check_shapes(model, bool(space or resolutions), bool(shapes))
    if minutes is not None:
        if seconds is not None:
            raise UsageError("give --seconds or --minutes, not both")
        seconds = 60 * minutes
    from ofa_tvm.workflow.settings import resolve

    settings = resolve(
        target, threads=threads, dtype=dtype, batch=batch, space=space, resolutions=resolutions
    )
    limit = "no time limit" if seconds is None else f"at most {duration(seconds)}"
    work = "known schedules only" if retime else f"{counted(trials, 'trial')} a kernel"
    extent = f"{work}, {limit}, seed {console.seed}"
    if model is None:
        kernels, weights = _space_kernels(console, settings, extent)
    else:
        kernels, weights = _model_kernels(console, settings, model, dict(shapes), extent), None
    from ofa_tvm.workflow.tune import plan_tuning, tune

    say_if_only_stored(console, settings.target)
    plan = plan_tuning(kernels, settings.target, settings.logs, trials, weights)
    answer = {
        "target": settings.target.name,
        "threads": settings.target.threads,
        "logs": str(settings.logs),
        "kernels": len(kernels),
    }
    if dry_run:
        _show(console, plan)
        console.result({**answer, **_plan(plan, kernels)})
        return
    if retime:
        result = _time_again(console, settings, kernels, weights, seconds)
    else:
        console.say(_estimate(plan))
        if plan.elsewhere:
            console.say(_served(plan))
        result = tune(
            kernels,
            settings.target,
            settings.logs,
            trials=trials,
            seconds=seconds,
            seed=console.seed,
            weights=weights,
            progress=console.progress,
        )
    _report(console, answer, result)


def _check_shapes(model: Path | None, of_a_space: bool, of_a_model: bool) -> None:
    if model is not None and of_a_space:
        raise UsageError(
            "MODEL states its own shapes; leave --space and --resolutions out (or leave MODEL out)"
        )
    if model is None and of_a_model:
        raise UsageError("--shape belongs to an ONNX model; a space's shapes follow from --resolutions")


def _time_again(
    console: Console,
    settings: Settings,
    kernels: Sequence[Kernel],
    weights: Mapping[str, float] | None,
    seconds: float | None,
) -> TuningResult:
    from ofa_tvm.logs import find_records
    from ofa_tvm.tuning import time_again

    return time_again(
        kernels,
        settings.target,
        settings.logs,
        find_records(settings.target, [settings.logs]),
        seconds=seconds,
        weights=weights,
        progress=console.progress,
    )


def _space_kernels(
    console: Console, settings: Settings, extent: str
) -> tuple[Sequence[Kernel], Mapping[str, float] | None]:
    """The kernels of a space, and how often a mean subnet calls each."""
    console.say(f"{settings.describe()}, {settings.n_classes} classes, {extent}")
    from ofa_tvm.tuning import kernel_union

    union = kernel_union(
        settings.space,
        settings.chosen_resolutions,
        settings.target,
        n_classes=settings.n_classes,
        progress=console.progress,
    )
    weights = union.mean_calls(settings.space, settings.chosen_resolutions, settings.n_classes)
    return union.kernels, weights


def _model_kernels(
    console: Console, settings: Settings, model: Path, shapes: dict[str, tuple[int, ...]], extent: str
) -> Sequence[Kernel]:
    console.say(f"{model}, {settings.describe_target()}, tuning logs in {settings.logs}, {extent}")
    from ofa_tvm.process import leave_torch_out

    leave_torch_out()
    from ofa_tvm.workflow.tune import model_kernels

    return model_kernels(model, settings.target, shapes)


def _report(console: Console, answer: dict[str, object], result: TuningResult) -> None:
    for problem in result.records.notes:
        console.say(problem)
    console.print(
        f"{result.tuned} of {result.kernels} kernels have times of this device; "
        f"{counted(result.trials, 'trial')} in {duration(result.seconds)}, {result.failed} failed"
        + ("" if result.complete else "; the time was up, the same command goes on")
    )
    console.result(
        answer
        | {
            "tuned": result.tuned,
            "trials": result.trials,
            "failed": result.failed,
            "seconds": round(result.seconds, 2),
            "complete": result.complete,
            "problems": result.records.problems,
        }
    )


def _show(console: Console, plan: TuningPlan) -> None:
    console.table(
        ["kernels of kind", "distinct", "occurrences", "in the log", "trials left"],
        [[kind.kind, kind.kernels, kind.calls, kind.logged, kind.trials] for kind in plan.kinds],
    )
    console.print(f"{plan.kernels} kernels, {plan.logged} already in the log; {_estimate(plan)}")
    if plan.elsewhere:
        console.print(_served(plan))


def _served(plan: TuningPlan) -> str:
    """That nothing has to be tuned before something is compiled."""
    whole = plan.elsewhere == plan.kernels
    return (
        f"for {'all' if whole else plan.elsewhere} of them another log (one that ships, or of a compatible "
        "target) has a schedule, which is used until they are tuned here; --retime only times those"
    )


def _estimate(plan: TuningPlan) -> str:
    if not plan.trials:
        return "every kernel has its trials: nothing is left to do"
    source = "as timed in this log's campaigns" if plan.timed else "the stated default, too few timed yet"
    workers = counted(plan.workers, "worker") if plan.workers else _NO_DEVICE
    return (
        f"{counted(plan.trials, 'trial')} left, about {duration(plan.seconds)} "
        f"({plan.trial_s:.2g} s a trial and worker, {source}; {workers})"
    )


def _plan(plan: TuningPlan, kernels: Sequence[Kernel]) -> dict[str, object]:
    return {
        "logged": plan.logged,
        "in_other_logs": plan.elsewhere,
        "trials_left": plan.trials,
        "estimated_seconds": round(plan.seconds, 1),
        "seconds_per_trial": plan.trial_s,
        "timed": plan.timed,
        "workers": plan.workers,
        "kinds": [
            {
                "kind": kind.kind,
                "kernels": kind.kernels,
                "calls": kind.calls,
                "logged": kind.logged,
                "trials_left": kind.trials,
            }
            for kind in plan.kinds
        ],
        "by_kernel": [{"name": kernel.name, "calls": kernel.calls} for kernel in kernels],
    }
