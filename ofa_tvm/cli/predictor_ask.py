"""ofa-tvm predictor suggest | predict | table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ofa_tvm.cli.console import Console, common_options
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
from ofa_tvm.cli.predictor_options import (
    classes_option,
    column_option,
    device_options,
    model_option,
    source_option,
    space_of_table,
    targets_dir_option,
)

if TYPE_CHECKING:
    from ofa_tvm.targets import DType
    from ofa_tvm.workflow.asked import Device


@click.command("suggest")
@model_option
@device_options(
    click.option("-t", "--target", help="Device or target to be measured; for a generalized model."),
    batch_option,
    threads_option,
    space_of_table,
    classes_option,
    targets_dir_option,
)
@resolutions_option
@click.option("-n", "count", type=click.IntRange(min=1), default=10, show_default=True, help="Subnets.")
@click.option(
    "-o", "--output", required=True, type=OUTPUT_PATH, help="File for one architecture (JSON) a line."
)
@common_options
def suggest_command(
    console: Console,
    model: Path | None,
    device: Device,
    resolutions: tuple[int, ...] | None,
    count: int,
    output: Path,
) -> None:
    """Say which subnets to measure next: those that tell most about all others.

    `ofa-tvm collect --archs FILE` measures them, `adapt` takes them in.
    """
    from ofa_tvm.files import write_atomic
    from ofa_tvm.workflow.latency_models import open_model

    predictor = open_model(model)
    regressor = predictor.regressor(device)
    console.say(f"{predictor.name}: {count} subnets of {regressor.space.name}, seed {console.seed}")
    archs = regressor.suggest(count, seed=console.seed, resolutions=resolutions)
    write_atomic(output, "".join(f"{arch.to_json()}\n" for arch in archs))
    console.print(f"{output}: {len(archs)} subnets to measure")
    console.result({"path": str(output), "archs": [json.loads(arch.to_json()) for arch in archs]})


@click.command("predict")
@model_option
@click.option("--archs", required=True, type=INPUT_PATH, help="One architecture (JSON) a line.")
@device_options(
    click.option("-t", "--target", help="Device or target; for a generalized model."),
    batch_option,
    threads_option,
    space_of_table,
    classes_option,
    targets_dir_option,
    source_option,
)
@common_options
def predict_command(console: Console, model: Path | None, archs: Path, device: Device) -> None:
    """Predict latencies, each with the standard deviation of a measurement around it.

    A generalized model predicts the devices that it was fitted to from their measurements, others from their
    hardware.
    """
    from ofa_tvm.workflow.latency_models import open_model

    predictor = open_model(model)
    space, found, remark = predictor.archs(archs, device)
    if remark:
        console.say(f"{archs}: {remark}")
    answer = predictor.predict(space, found, device)
    unit, rows = answer.unit, list(zip(found, answer.mean.tolist(), answer.deviation.tolist(), strict=True))
    console.say(f"{predictor.name} ({answer.space.name}, {answer.basis}) for {len(found)} subnets of {archs}")
    console.table(
        [f"predicted {unit}", f"deviation {unit}", "r", "arch"],
        [[value, std, arch.r, arch.to_json()] for arch, value, std in rows],
    )
    key = unit.lower()
    predictions = [
        {"arch": json.loads(arch.to_json()), f"predicted_{key}": value, f"deviation_{key}": std}
        for arch, value, std in rows
    ]
    console.result({"space": answer.space.name, "target": answer.target, "predictions": predictions})


@click.command("sources")
@model_option
@common_options
def sources_command(console: Console, model: Path | None) -> None:
    """List the data sets that a model over many devices was fitted to: what --source may be.

    Software and way of timing are part of a latency. The level is that of a data set's latencies against the
    mean of all data sets, for the same hardware and networks.
    """
    from ofa_tvm.errors import UsageError
    from ofa_tvm.latency.sources import list_sources
    from ofa_tvm.workflow.latency_models import ManyDevices, open_model

    predictor = open_model(model)
    if not isinstance(predictor, ManyDevices):
        raise UsageError(f"{predictor.name} is of one target, which it was measured on: it has no sources")
    sources = list_sources(predictor.model)
    console.table(
        ["source", "spaces", "columns", "batches", "level", "devices"],
        [
            [
                source.name,
                ", ".join(source.spaces),
                len(source.references),
                ", ".join(map(str, source.batches)),
                ", ".join(f"{kind} x{level:.2f}" for kind, level in source.levels.items()),
                ", ".join(source.devices),
            ]
            for source in sources
        ],
        title=f"data sets of {predictor.name}",
    )
    content = {
        source.name: {
            "spaces": source.spaces,
            "columns": [r.name for r in source.references],
            "devices": source.devices,
            "batches": source.batches,
            "levels": {kind: round(level, 3) for kind, level in source.levels.items()},
        }
        for source in sources
    }
    console.result({"sources": content})


@click.command("table")
@target_option
@threads_option
@dtype_option
@batch_option
@space_option
@resolutions_option
@click.option(
    "--data",
    type=INPUT_PATH,
    help="Latency table of whole networks, to fit what running them as networks adds.",
)
@column_option
@click.option("--format", "suffix", type=click.Choice(["yaml", "json"]), default="yaml", show_default=True)
@click.option("-o", "--output", required=True, type=OUTPUT_PATH, help="Folder for the tables.")
@common_options
def table_command(
    console: Console,
    target: str,
    threads: int | None,
    dtype: DType | None,
    batch: int | None,
    space: str | None,
    resolutions: tuple[int, ...] | None,
    data: Path | None,
    target_column: str | None,
    suffix: str,
    output: Path,
) -> None:
    """Write lookup tables in the official Once-for-All format from the target's tuning log."""
    from ofa_tvm.targets import Variant
    from ofa_tvm.workflow.log_tables import log_times, measured_networks, write_lookup_tables
    from ofa_tvm.workflow.settings import resolve

    settings = resolve(
        target, threads=threads, dtype=dtype, batch=batch, space=space, resolutions=resolutions
    )
    console.say(f"{settings.describe()}, lookup tables into {output}")
    measured = None if data is None else measured_networks(settings, data, target_column)
    times = log_times(settings, progress=console.progress)
    if measured is not None:
        times.sums.fit(*measured)
    remark = times.remark(settings.target.name, fitted=measured is not None)
    if remark:
        options = f"{Variant.of(settings.target).options(target)} --space {settings.space.name}"
        console.say(f"note: {remark}. To time them here: ofa-tvm tune --retime {options}")
    files, operators = write_lookup_tables(settings, times.sums, output, suffix, remark)
    console.print(
        f"{output}: {len(files)} tables of {operators} operators each"
        + ("" if measured else "; kernel times only: --data adds what whole networks take beyond them")
    )
    console.result(
        {
            "files": [str(file) for file in files],
            "unit": settings.target.unit,
            "kernels": times.kernels,
            "kernels_timed_on_this_device": times.timed_here,
        }
    )
