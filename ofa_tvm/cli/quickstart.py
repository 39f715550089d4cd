"""ofa-tvm quickstart."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ofa_tvm.cli.competing import DTypeChoice, dtype_or_auto_option, formats_of, say_if_only_stored
from ofa_tvm.cli.console import Console, common_options
from ofa_tvm.cli.durations import dry_run_option, time_limit_option
from ofa_tvm.cli.options import OUTPUT_PATH, batch_option, complete_target
from ofa_tvm.cli.plans import show_plan
from ofa_tvm.errors import UsageError
from ofa_tvm.progress import duration

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ofa_tvm.deploy import Artefact
    from ofa_tvm.search.budget import Budget
    from ofa_tvm.targets import DType, Target
    from ofa_tvm.workflow.quickstart_settings import QuickstartSettings


@click.command(short_help="Train, tune, search and ship on handwritten digits, in a few minutes.")
@click.option("-o", "--out", type=OUTPUT_PATH, default=Path("demo"), show_default=True, help="Folder.")
@click.option(
    "--target",
    "target_name",
    shell_complete=complete_target,
    default="x86",
    show_default=True,
    help="Target name or YAML file.",
)
@click.option("--threads", type=click.IntRange(min=1), help="Threads of the compiled module.")
@click.option(
    "--latency",
    help="Budget with its unit, such as 80us (0.3Minstr if emulated); by default the median subnet's.",
)
@click.option(
    "--compile-only",
    is_flag=True,
    help="Train and compile for a device that is not here; nothing is measured.",
)
@dtype_or_auto_option
@batch_option
@time_limit_option
@dry_run_option
@common_options
def command(
    console: Console,
    out: Path,
    target_name: str,
    threads: int | None,
    latency: str | None,
    compile_only: bool,
    dtype: DTypeChoice,
    batch: int | None,
    time_limit: float | None,
    dry_run: bool,
) -> None:
    """Go the whole way on scikit-learn's handwritten digits and leave everything in one folder.

    A supernet is trained once by progressive shrinking; its kernels are tuned for this machine; accuracy and
    latency are learned from measured subnets; the search finds the most accurate subnet within the budget;
    its module is measured, checked and written to OUT/deploy. Stopped in between, the same command goes on;
    with --time-limit it ships the best so far, and goes on later without that.
    """
    from ofa_tvm.search.budget import parse_budget
    from ofa_tvm.targets import get_target

    budget = parse_budget(latency) if latency is not None else None
    target = get_target(target_name)
    if threads is not None:
        target = target.with_threads(threads)
    if batch is not None:
        target = target.with_batch(batch)
    formats = [chosen or target.dtype for chosen in formats_of([target], dtype)]
    target = target.with_dtype(formats[0])
    _check_folder(out)
    if compile_only:
        if budget is not None:
            raise UsageError("--compile-only measures nothing, so it takes no --latency")
        if len(formats) > 1:
            raise UsageError("--compile-only measures nothing, so it cannot choose a --dtype; name one")
        if dry_run:
            raise UsageError("--dry-run is of a quickstart that measures; leave --compile-only out")
        _compile_only(console, out, target, time_limit)
        return
    from ofa_tvm.workflow.quickstart_settings import QuickstartSettings

    settings = QuickstartSettings()
    _say_settings(console, out, target, formats, budget, settings, time_limit)
    for one in formats:
        say_if_only_stored(console, target.with_dtype(one))
    if dry_run:
        from ofa_tvm.workflow.quickstart_plan import quickstart_plan

        targets = [target.with_dtype(one) for one in formats]
        plan = quickstart_plan(out, targets, budget=budget, seed=console.seed, progress=console.progress)
        show_plan(console, plan)
        return
    from ofa_tvm.workflow.quickstart import quickstart
    from ofa_tvm.workflow.quickstart_result import summary

    result = quickstart(
        out,
        target,
        budget=budget,
        dtypes=formats,
        settings=settings,
        seed=console.seed,
        deadline=console.deadline(time_limit),
        progress=console.progress,
    )
    from ofa_tvm.cli.quickstarted import show
    from ofa_tvm.report.collect import collect
    from ofa_tvm.report.page import write_report
    from ofa_tvm.workflow.project import find_project

    page = write_report(collect(find_project(out), progress=console.progress), out / "report")[0]
    show(console, out, target, result)
    console.print(f"report: {page}")
    from ofa_tvm.cli.retiming import show_retiming
    from ofa_tvm.targets import Variant

    again = show_retiming(
        console,
        result.shipped.retiming,
        f"{Variant.of(target.with_dtype(result.dtype)).options()} (in {out})",
    )
    console.result({**summary(result), "report": str(page), "retiming": again})


def _say_settings(
    console: Console,
    out: Path,
    target: Target,
    formats: Sequence[DType],
    budget: Budget | None,
    settings: QuickstartSettings,
    time_limit: float | None,
) -> None:
    """Three lines; all settings are in a file of the folder."""
    training = settings.training
    limit = "" if time_limit is None else f"; ends after about {duration(time_limit)}"
    console.say(
        f"space ofa_digits, data digits, target {target.name} ({target.summary}), {target.threads} "
        f"thread{'s' if target.threads > 1 else ''}, {' or '.join(formats)}, batch {target.batch}, "
        f"budget {budget or 'of the median subnet'}"
    )
    console.say(
        f"to do: train {training.total_epochs} epochs in {len(training.phases)} phases, tune "
        f"{settings.trials} trials a kernel for {duration(settings.tuning_seconds)} at most, evaluate "
        f"{settings.accuracy_samples} subnets, measure {settings.latency_samples}, search {settings.rounds} "
        f"rounds of {settings.candidates} candidates, ship, compare{limit}"
    )
    console.say(f"seed {console.seed}, folder {out}; all settings: {out / 'settings.yaml'}")
    console.detail(settings.to_yaml(console.seed).rstrip())


def _compile_only(console: Console, out: Path, target: Target, time_limit: float | None) -> None:
    from ofa_tvm.targets import Variant
    from ofa_tvm.workflow.compile_only import compile_only

    console.say(f"space ofa_digits, data digits, target {target.name} ({target.summary}), folder {out}")
    options = Variant.of(target).options()
    artefact = compile_only(
        out,
        target,
        seed=console.seed,
        deadline=console.deadline(time_limit),
        progress=console.progress,
    )
    console.print(
        f"{artefact.folder}: the median subnet, compiled for {target.name} and not measured",
        f"{artefact.module_path.name}: {_product(artefact)}",
        f"the network's test accuracy in PyTorch is {artefact.manifest.accuracy.float32:.2%}",
        f"where the device is: ofa-tvm tune {options} --seconds 600, then "
        f"ofa-tvm search {options} --latency ... -o deploy (both in {out})",
    )
    console.result(
        {
            "artefact": str(artefact.folder),
            "target": target.name,
            "product": _product(artefact),
            "accuracy_in_float32": artefact.manifest.accuracy.float32,
            "measured": False,
        }
    )


def _product(artefact: Artefact) -> str:
    """What a compiled module is, as found in the file."""
    from ofa_tvm.compiler.nvrtc import binary_kind
    from ofa_tvm.runtime import elf_arch

    content, tvm = artefact.module_path.read_bytes(), artefact.manifest.target.tvm
    kernels = len(artefact.manifest.kernels)
    parts = [f"{elf_arch(artefact.module_path)} code", f"{len(content) / 1e6:.1f} MB"]
    if tvm["kind"] == "cuda":
        parts.insert(1, f"{kernels} kernels as a {binary_kind(content)} for {tvm['arch']}")
    else:
        parts.insert(1, f"{kernels} kernels" + (" as OpenCL source" if tvm["kind"] == "opencl" else ""))
    return ", ".join(parts)


def _check_folder(out: Path) -> None:
    """Refuse a folder with other things in it before minutes are spent."""
    from ofa_tvm.workflow.store import Store

    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file; name a folder with -o")
    if out.is_dir() and any(out.iterdir()) and not Store(out).stages.exists():
        raise UsageError(f"{out} is not empty and not a quickstart's folder; name another one with -o")
