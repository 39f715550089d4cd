"""ofa-tvm predictor fit | eval | adapt | suggest | predict | table."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ofa_tvm.cli.console import Console, common_options
from ofa_tvm.cli.options import (
    INPUT_PATH,
    OUTPUT_PATH,
    dtype_option,
    resolutions_option,
    space_option,
    target_option,
    threads_option,
)
from ofa_tvm.errors import UsageError, UserError

if TYPE_CHECKING:
    from ofa_tvm.latency.dataset import Column, LatencyTable
    from ofa_tvm.latency.generalized import GeneralizedLatency
    from ofa_tvm.latency.regression import LatencyRegressor
    from ofa_tvm.spaces import LayeredSpace
    from ofa_tvm.targets import DType
    from ofa_tvm.targets.devices import Platform

_FILE, _NEW_FILE = INPUT_PATH, OUTPUT_PATH
_column_option = click.option(
    "--target-column", help="Heading of the column (as x86_ms) or its target; by default all or the only one."
)
_space_of_table = click.option("--space", help="Search space; by default the one that the file names.")
_targets_dir_option = click.option(
    "--targets-dir", type=_FILE, help="Folder of device files and targets; by default those that ship."
)
_source_option = click.option(
    "--source", help="Data set whose way of measuring is meant, for a model of several (see docs/latency.md)."
)
_batch_option = click.option(
    "--batch", type=click.IntRange(min=1), default=1, show_default=True, help="Images an inference."
)
_model_option = click.option(
    "--model",
    type=_FILE,
    help="Model file that `fit` or `adapt` wrote; by default the one over many devices that ships.",
)


@click.group(short_help="Fit, evaluate and use latency predictors.")
def command() -> None:
    """Latency predictors are learned from tables of measured subnets (`ofa-tvm collect`)."""


@command.command("fit")
@click.option("--data", required=True, type=_FILE, multiple=True, help="Latency table (CSV); again for more.")
@_column_option
@_space_of_table
@click.option(
    "--model",
    "kind",
    type=click.Choice(["regression", "kernel-sum", "generalized"]),
    help="regression: of one column (the default for one). kernel-sum: the same, starting from the sums of "
    "the tuning log's kernel times. generalized: of all columns, by hardware (the default for several).",
)
@click.option("-t", "--target", help="Whose tuning log a kernel-sum takes; by default the column's target.")
@threads_option
@_targets_dir_option
@click.option("-o", "--output", required=True, type=_NEW_FILE, help="The model file to write.")
@common_options
def fit_command(
    console: Console,
    data: tuple[Path, ...],
    target_column: str | None,
    space: str | None,
    kind: str | None,
    target: str | None,
    threads: int | None,
    targets_dir: Path | None,
    output: Path,
) -> None:
    """Fit a predictor and say how well it predicts what was left out: rows, or whole devices."""
    from ofa_tvm.latency.dataset import read_table
    from ofa_tvm.latency.regression import LatencyRegressor

    tables = [read_table(path, space) for path in data]
    several = len(tables) > 1 or (len(tables[0].columns) > 1 and target_column is None)
    kind = kind or ("generalized" if several else "regression")
    if kind == "generalized":
        _fit_generalized(console, tables, target_column, targets_dir, output)
        return
    if len(tables) > 1:
        raise UsageError(f"a {kind} model is of one table; give --data once, or --model generalized")
    table = tables[0]
    column, values = table.column(target_column)
    console.say(
        f"{table.path}: {len(table)} subnets of {table.space.name}, column {column.name}, {kind} model, "
        f"{table.n_classes} classes, into {output}"
    )
    start = time.monotonic()
    prior = None
    if kind == "kernel-sum":
        prior = _kernel_sum(
            console,
            target or column.target,
            threads,
            column,
            table.space,
            table.archs,
            values,
            table.n_classes,
        )
    model = LatencyRegressor(
        table.space, prior, target=column.series, unit=column.unit, n_classes=table.n_classes
    ).fit(table.archs, values)
    model.save(output)
    _report_fit(console, output, model, column, kind, time.monotonic() - start)


def _report_fit(
    console: Console, output: Path, model: LatencyRegressor, column: Column, kind: str, seconds: float
) -> None:
    quality, n = model.validation_, len(model.latency_)
    console.print(
        f"{output}: fitted to {n} subnets in {seconds:.1f} s"
        + (
            f"; each predicted from the others: mean error {quality['mae']:.4g} {column.unit} "
            f"({quality['mape']:.1%}), rank correlation {quality['spearman']:.4f}"
            if quality
            else "; one subnet says nothing about the error"
        )
    )
    console.result(
        {
            "path": str(output),
            "space": model.space.name,
            "column": column.name,
            "model": kind,
            "rows": n,
            "seconds": round(seconds, 3),
            "leave_one_out": _with_unit(quality, column.unit),
        }
    )


def _fit_generalized(
    console: Console,
    tables: list[LatencyTable],
    target_column: str | None,
    targets_dir: Path | None,
    output: Path,
) -> None:
    from ofa_tvm.latency.generalized import GeneralizedLatency
    from ofa_tvm.latency.series import series_of
    from ofa_tvm.targets.devices import list_devices

    devices = list_devices(targets_dir)
    series = [s for table in tables for s in series_of(table, devices, target_column)]
    console.say(
        f"{', '.join(table.path for table in tables)}: {len(series)} columns, generalized model, "
        f"into {output}"
    )
    start = time.monotonic()
    model = GeneralizedLatency().fit(series)
    model.save(output)
    seconds = time.monotonic() - start
    console.print(f"{output}: fitted to {len(series)} columns in {seconds:.1f} s; each device left out:")
    console.table(
        ["column", "rows", "mean error", "rank correlation"],
        [
            [name, int(scores["n"]), f"{scores['mape']:.1%}", f"{scores['spearman']:.3f}"]
            for name, scores in model.validation_.items()
        ],
    )
    console.result(
        {
            "path": str(output),
            "model": "generalized",
            "columns": [s.name for s in series],
            "seconds": round(seconds, 3),
            "leave_one_device_out": model.validation_,
        }
    )


@command.command("eval")
@_model_option
@click.option("--data", required=True, type=_FILE, help="Latency table (CSV) to compare with.")
@_column_option
@_space_of_table
@_targets_dir_option
@_source_option
@common_options
def eval_command(
    console: Console,
    model: Path | None,
    data: Path,
    target_column: str | None,
    space: str | None,
    targets_dir: Path | None,
    source: str | None,
) -> None:
    """Compare a predictor with measured latencies that it was not fitted to.

    mape, within5 and within10 (predictions no more than 5 and 10 % off) are fractions of 1.
    """
    from ofa_tvm.estimators.metrics import errors
    from ofa_tvm.latency.dataset import read_table
    from ofa_tvm.latency.generalized import GeneralizedLatency
    from ofa_tvm.latency.series import series_of
    from ofa_tvm.targets.devices import list_devices

    predictor = _load(model)
    rows: dict[str, dict[str, float | None]] = {}
    if isinstance(predictor, GeneralizedLatency):
        table = read_table(data, space)
        console.say(f"{_named(model)} on {data}, {len(table)} subnets")
        for s in series_of(table, list_devices(targets_dir), target_column):
            known = predictor.known(s.space, s.platform, s.name, s.n_classes)
            if known is not None:
                predicted = known.tables(s.genes)
            else:
                console.say(f"{s.name} is none of the model's columns: predicted from its descriptor alone")
                predicted = predictor.zero_shot(s.space, s.platform, source, s.n_classes)(s.genes)
            rows[s.name] = _with_unit(errors(predicted, s.ms), "ms")
    else:
        table = _table_for(predictor, model, data, space)
        if target_column is None and len(table.columns) > 1:
            target_column = next((c.name for c in table.columns if c.series == predictor.target), None)
        column, values = table.column(target_column)
        if column.unit != predictor.unit:
            raise UsageError(f"{model} predicts {predictor.unit}, but {column.name} is in {column.unit}")
        seen = set(predictor.space.decode(predictor.genes_))
        repeated = sum(arch in seen for arch in table.archs)
        console.say(
            f"{model} ({predictor.space.name}, {predictor.target}, {len(predictor.genes_)} subnets) "
            f"on {data}, column {column.name}, {len(table)} subnets"
            + (f"; {repeated} of them are among those that it was fitted to" if repeated else "")
        )
        rows[column.series] = _with_unit(errors(predictor.predict(table.archs), values), column.unit)
    console.table(["target", *next(iter(rows.values()))], [[name, *r.values()] for name, r in rows.items()])
    console.result(rows)


@command.command("adapt")
@_model_option
@click.option("--data", required=True, type=_FILE, help="Latency table (CSV) of few subnets of the target.")
@_column_option
@_space_of_table
@_targets_dir_option
@_source_option
@click.option("-o", "--output", required=True, type=_NEW_FILE, help="The model file to write.")
@common_options
def adapt_command(
    console: Console,
    model: Path | None,
    data: Path,
    target_column: str | None,
    space: str | None,
    targets_dir: Path | None,
    source: str | None,
    output: Path,
) -> None:
    """Move a predictor to a new target by a few measurements, one at least.

    The predictor may be of another target in the same space, or a generalized one, which starts from the
    hardware of the column's target. `suggest` says which subnets to measure.
    """
    from ofa_tvm.latency.dataset import read_table
    from ofa_tvm.latency.generalized import GeneralizedLatency
    from ofa_tvm.latency.regression import LatencyRegressor

    predictor = _load(model)
    start = time.monotonic()
    if isinstance(predictor, GeneralizedLatency):
        table = read_table(data, space)
        column, values = table.column(target_column)
        _only_ms(column)
        platform = _platform(column.target, column.batch, targets_dir)
        estimator = predictor.prior(table.space, platform, source, table.n_classes)
    else:
        table = _table_for(predictor, model, data, space)
        column, values = table.column(target_column)
        estimator = LatencyRegressor(predictor.space, predictor.tables, n_classes=predictor.n_classes)
    estimator.target, estimator.unit = column.series, column.unit
    console.say(f"{_named(model)} adapted to {column.name} by {len(table)} subnets of {data}, into {output}")
    estimator.fit(table.archs, values)
    estimator.save(output)
    _report_fit(console, output, estimator, column, "adapted", time.monotonic() - start)


@command.command("suggest")
@_model_option
@click.option("-t", "--target", help="Device or target to be measured; for a generalized model.")
@_batch_option
@threads_option
@_space_of_table
@resolutions_option
@_targets_dir_option
@click.option("-n", "count", type=click.IntRange(min=1), default=10, show_default=True, help="Subnets.")
@click.option(
    "-o", "--output", required=True, type=_NEW_FILE, help="File for one architecture (JSON) a line."
)
@common_options
def suggest_command(
    console: Console,
    model: Path | None,
    target: str | None,
    batch: int,
    threads: int | None,
    space: str | None,
    resolutions: tuple[int, ...] | None,
    targets_dir: Path | None,
    count: int,
    output: Path,
) -> None:
    """Say which subnets to measure next: those that tell most about all others.

    `ofa-tvm collect --archs FILE` measures them, `adapt` takes them in.
    """
    from ofa_tvm.files import write_atomic
    from ofa_tvm.latency.generalized import GeneralizedLatency

    predictor = _load(model)
    if isinstance(predictor, GeneralizedLatency):
        platform = _platform(_needed(target, "--target"), batch, targets_dir, threads)
        predictor = predictor.prior(_space(space), platform)
    console.say(f"{_named(model)}: {count} subnets of {predictor.space.name}, seed {console.seed}")
    archs = predictor.suggest(count, seed=console.seed, resolutions=resolutions)
    write_atomic(output, "".join(f"{arch.to_json()}\n" for arch in archs))
    console.print(f"{output}: {len(archs)} subnets to measure")
    console.result({"path": str(output), "archs": [json.loads(arch.to_json()) for arch in archs]})


@command.command("predict")
@_model_option
@click.option("--archs", required=True, type=_FILE, help="One architecture (JSON) a line.")
@click.option("-t", "--target", help="Device or target; for a generalized model.")
@_batch_option
@threads_option
@_space_of_table
@_targets_dir_option
@_source_option
@common_options
def predict_command(
    console: Console,
    model: Path | None,
    archs: Path,
    target: str | None,
    batch: int,
    threads: int | None,
    space: str | None,
    targets_dir: Path | None,
    source: str | None,
) -> None:
    """Predict latencies, each with the standard deviation of a measurement around it.

    A generalized model predicts the devices that it was fitted to from their measurements, others from their
    hardware.
    """
    import numpy as np

    from ofa_tvm.latency.generalized import GeneralizedLatency

    predictor = _load(model)
    if isinstance(predictor, GeneralizedLatency):
        platform = _platform(_needed(target, "--target"), batch, targets_dir, threads)
        where, unit, name = _space(space), "ms", platform.device.name
        found = read_archs(archs, where)
        known = predictor.known(where, platform)
        if known is not None:
            mean = known.tables(where.encode(found))
            deviation = np.full(len(found), known.deviation_ms)
            basis = f"{platform.device.name}, batch {platform.batch}, from {known.rows} measurements"
        else:
            mean = predictor.zero_shot(where, platform, source)(where.encode(found))
            deviation = mean * predictor.spread(platform, source)
            basis = f"{platform.device.name}, batch {platform.batch}, by descriptor alone"
    else:
        where, unit, name = predictor.space, predictor.unit, predictor.target
        found = read_archs(archs, where)
        mean, deviation = predictor.predict(found, return_std=True)
        basis = name
    console.say(f"{_named(model)} ({where.name}, {basis}) for {len(found)} subnets of {archs}")
    console.table(
        [f"predicted {unit}", f"deviation {unit}", "r", "arch"],
        [
            [float(value), float(std), arch.r, arch.to_json()]
            for arch, value, std in zip(found, mean, deviation, strict=True)
        ],
    )
    console.result(
        {
            "space": where.name,
            "target": name,
            "predictions": [
                {
                    "arch": json.loads(arch.to_json()),
                    f"predicted_{unit.lower()}": float(value),
                    f"deviation_{unit.lower()}": float(std),
                }
                for arch, value, std in zip(found, mean, deviation, strict=True)
            ],
        }
    )


@command.command("table")
@target_option
@threads_option
@dtype_option
@space_option
@resolutions_option
@click.option(
    "--data", type=_FILE, help="Latency table of whole networks, to fit what running them as networks adds."
)
@_column_option
@click.option("--format", "suffix", type=click.Choice(["yaml", "json"]), default="yaml", show_default=True)
@click.option("-o", "--output", required=True, type=_NEW_FILE, help="Folder for the tables.")
@common_options
def table_command(
    console: Console,
    target: str,
    threads: int | None,
    dtype: DType | None,
    space: str | None,
    resolutions: tuple[int, ...] | None,
    data: Path | None,
    target_column: str | None,
    suffix: str,
    output: Path,
) -> None:
    """Write lookup tables in the official Once-for-All format from the target's tuning log."""
    from ofa_tvm.latency.dataset import read_table
    from ofa_tvm.latency.log_model import kernel_sum_from_log
    from ofa_tvm.latency.lookup_table import table_entries, write_tables
    from ofa_tvm.logs import find_records
    from ofa_tvm.tuning import kernel_union
    from ofa_tvm.workflow.settings import resolve

    settings = resolve(target, threads=threads, dtype=dtype, space=space, resolutions=resolutions)
    console.say(f"{settings.describe()}, lookup tables into {output}")
    measured = None
    if data is not None:
        table = read_table(data, settings.space)
        column, values = table.column(target_column)
        _only_ms(column)
        if column.dtype != settings.target.dtype:
            raise UsageError(
                f"{column.name} is of {column.dtype} networks; add --dtype {column.dtype}, or choose another "
                "column by --target-column"
            )
        measured = table.archs, values
    union = kernel_union(
        settings.space, settings.chosen_resolutions, settings.target, progress=console.progress
    )
    kernel_sum = kernel_sum_from_log(settings.space, union, find_records(settings.target, [settings.logs]))
    if measured is not None:
        kernel_sum.fit(*measured)
    entries = table_entries(settings.space, kernel_sum.tables, settings.chosen_resolutions)
    files = write_tables(entries, output, suffix)
    console.print(
        f"{output}: {len(files)} tables of {sum(map(len, entries.values())) // len(files)} operators each"
        + ("" if measured else "; kernel times only: --data adds what whole networks take beyond them")
    )
    console.result({"files": [str(file) for file in files], "unit": settings.target.unit})


def _load(model: Path | None) -> LatencyRegressor | GeneralizedLatency:
    """A predictor of either kind; without a path the one that ships."""
    from ofa_tvm.estimators.base import kind_among
    from ofa_tvm.latency.generalized import GeneralizedLatency, shipped_model
    from ofa_tvm.latency.regression import LatencyRegressor

    if model is None:
        return shipped_model()
    kinds: tuple[type[LatencyRegressor | GeneralizedLatency], ...] = (LatencyRegressor, GeneralizedLatency)
    return kind_among(model, kinds).load(model)


def _table_for(
    predictor: LatencyRegressor, model: Path | None, data: Path, space: str | None
) -> LatencyTable:
    """A table of the predictor's space."""
    from ofa_tvm.latency.dataset import read_table

    table = read_table(data, predictor.space if space is None else space)
    if table.space.name != predictor.space.name:
        raise UsageError(f"{model} is for {predictor.space.name}, {data} for {table.space.name}")
    return table


def _named(model: Path | None) -> str:
    return "the model that ships" if model is None else str(model)


def _needed(value: str | None, option: str) -> str:
    if value is None:
        raise UsageError(f"a generalized model needs {option}")
    return value


def _space(name: str | None) -> LayeredSpace:
    from ofa_tvm.spaces import get_layered_space

    return get_layered_space(_needed(name, "--space"))


def _platform(name: str, batch: int, folder: Path | None, threads: int | None = None) -> Platform:
    """A device by a column's name, its own or a target's."""
    from dataclasses import replace

    from ofa_tvm.targets.devices import Platform, find_platform, list_devices

    devices = list_devices(folder)
    named = next((device for device in devices if device.name == name), None)
    if named is not None:
        return Platform(named, batch, threads)
    return replace(find_platform(name, batch, devices), threads=threads)


def _only_ms(column: Column) -> None:
    if column.unit != "ms":
        raise UsageError(f"{column.name} counts instructions of an emulator, which hardware does not predict")


def _kernel_sum(
    console: Console,
    target: str,
    threads: int | None,
    column: Column,
    space: LayeredSpace,
    archs: tuple[Any, ...],
    values: Any,
    n_classes: int,
) -> Any:
    from ofa_tvm.latency.log_model import kernel_sum_from_log
    from ofa_tvm.logs import find_records
    from ofa_tvm.spaces import get_space
    from ofa_tvm.tuning import kernel_union
    from ofa_tvm.workflow.settings import resolve

    settings = resolve(
        target,
        threads=threads,
        dtype=column.dtype,
        space=space.name,
        resolutions=sorted({arch.r for arch in archs}),
    )
    console.say(settings.describe())
    union = kernel_union(
        get_space(space.name),
        settings.chosen_resolutions,
        settings.target,
        n_classes=n_classes,
        batch=column.batch,
        progress=console.progress,
    )
    records = find_records(settings.target, [settings.logs])
    return (
        kernel_sum_from_log(get_space(space.name), union, records, n_classes=n_classes)
        .fit(archs, values)
        .tables
    )


def _with_unit(scores: dict[str, float], unit: str) -> dict[str, float | None]:
    """Scores as JSON has them: units in the names, and null for a rank correlation that does not exist."""
    return {
        f"{name}_{unit.lower()}" if name in ("mae", "rmse") else name: None if value != value else value
        for name, value in scores.items()
    }


def read_archs(path: Path, space: LayeredSpace) -> list[Any]:
    """Architectures of a space, one JSON a line.

    Raises
    ------
    UserError
        If the file cannot be read or is empty, or a line is no architecture of the space.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    found: list[Any] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            arch = space.parse(line)
        except UserError as error:
            raise UserError(f"{path}, line {number}: {error}") from None
        found.append(arch)
    if not found:
        raise UserError(f"{path} holds no architectures; write one JSON object a line")
    return found
