"""ofa-tvm collect."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ofa_tvm.cli.competing import say_if_only_stored
from ofa_tvm.cli.console import Console, common_options
from ofa_tvm.cli.durations import dry_run_option, time_limit_option
from ofa_tvm.cli.options import (
    INPUT_PATH,
    OUTPUT_PATH,
    batch_option,
    dtype_option,
    resolutions_option,
    space_option,
    target_option,
    threads_option,
)
from ofa_tvm.cli.plans import show_plan
from ofa_tvm.errors import counted
from ofa_tvm.progress import duration

if TYPE_CHECKING:
    from ofa_tvm.logs import KernelTable
    from ofa_tvm.targets import DType
    from ofa_tvm.workflow.settings import Settings


@click.command(short_help="Measure random subnets of a space into a latency table.")
@target_option
@threads_option
@dtype_option
@batch_option
@space_option
@resolutions_option
@click.option(
    "-n",
    "count",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="Rows that the table gets.",
)
@click.option("--spread", is_flag=True, help="Spread the subnets evenly over their predicted latency.")
@click.option(
    "--archs",
    type=INPUT_PATH,
    help="Measure these, one architecture (JSON) a line, e.g. those of `ofa-tvm predictor suggest`.",
)
@click.option(
    "-o",
    "--output",
    type=OUTPUT_PATH,
    default=Path("latency.csv"),
    show_default=True,
    help="CSV.",
)
@time_limit_option
@dry_run_option
@common_options
def command(
    console: Console,
    target: str,
    threads: int | None,
    dtype: DType | None,
    batch: int | None,
    space: str | None,
    resolutions: tuple[int, ...] | None,
    count: int,
    spread: bool,
    archs: Path | None,
    output: Path,
    time_limit: float | None,
    dry_run: bool,
) -> None:
    """Draw subnets by --seed, compile them with the tuning log and measure them on the target.

    The table is written row by row, with what else is known of each row beside it in <name>.meta.jsonl:
    stopped at any time, the same command goes on. Where the machine slowed down meanwhile, or samples
    scatter, subnets are measured again. A latency does not depend on the weights, so no trained supernet is
    needed.
    """
    import time

    from ofa_tvm.workflow.settings import resolve

    settings = resolve(
        target, threads=threads, dtype=dtype, batch=batch, space=space, resolutions=resolutions
    )
    weights = settings.checkpoint or "random weights: latency does not depend on them"
    wanted = counted(count, "subnet") if archs is None else f"the subnets of {archs}"
    console.say(f"{settings.describe()}, {weights}, {wanted} into {output}, seed {console.seed}")
    from ofa_tvm.latency.bench import SubnetBench
    from ofa_tvm.latency.collect import collect
    from ofa_tvm.spaces.archs_file import read_archs
    from ofa_tvm.workflow.plan import time_measurement
    from ofa_tvm.workflow.steps import Plan, Step

    say_if_only_stored(console, settings.target)
    records = _records(console, settings, target)
    net, chosen = settings.supernet(), None if archs is None else read_archs(archs, settings.space)
    if dry_run:
        left = (count if chosen is None else len(chosen)) - _rows(output, settings)
        median = settings.space.median_arch(settings.chosen_resolutions[-1])
        unit_s = time_measurement(net, settings.target, records, median)
        show_plan(console, Plan((Step("measure a subnet", left, unit_s),) if left > 0 else ()))
        return
    start = time.monotonic()
    with SubnetBench(net, settings.target, records, progress=console.progress) as bench:
        table = collect(
            bench,
            output,
            count,
            settings.chosen_resolutions,
            seed=console.seed,
            archs=chosen,
            spread=spread,
            deadline=console.deadline(time_limit),
            progress=console.progress,
        )
    seconds = time.monotonic() - start
    values = sorted(table.measured.values())
    unit = settings.target.unit
    console.print(
        f"{output}: {counted(len(values), 'subnet')}, {table.added} of them new in {duration(seconds)}; "
        f"{values[0]:.4g} to {values[-1]:.4g} {unit}"
    )
    if chosen is None and len(values) < count and time_limit is not None:
        console.print(f"{count - len(values)} are left; the same command goes on")
    console.result(
        {
            "path": str(output),
            "space": settings.space.name,
            "column": table.column.name,
            "rows": len(values),
            "new": table.added,
            "seconds": round(seconds, 2),
            f"least_{unit.lower()}": values[0],
            f"largest_{unit.lower()}": values[-1],
        }
    )


def _rows(path: Path, settings: Settings) -> int:
    from ofa_tvm.latency.dataset import read_table

    return len(read_table(path, settings.space)) if path.exists() else 0


def _records(console: Console, settings: Settings, target: str) -> KernelTable:
    from ofa_tvm.logs import find_records
    from ofa_tvm.targets import Variant

    records = find_records(settings.target, [settings.logs])
    for problem in records.notes:
        console.say(problem)
    if not records.records:
        console.say(
            f"there is no tuning log for {settings.target.name}, so untuned kernels are measured; to tune: "
            f"ofa-tvm tune {Variant.of(settings.target).options(target)} --space {settings.space.name}"
        )
    return records
