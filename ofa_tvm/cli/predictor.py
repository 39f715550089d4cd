"""ofa-tvm predictor fit | eval | adapt | suggest | predict | sources | table."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ofa_tvm.cli.console import Console, common_options
from ofa_tvm.cli.options import INPUT_PATH, OUTPUT_PATH, threads_option
from ofa_tvm.cli.predictor_accuracy import eval_accuracy_command, fit_accuracy_command
from ofa_tvm.cli.predictor_ask import (
    predict_command,
    sources_command,
    suggest_command,
    table_command,
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
from ofa_tvm.errors import UsageError

if TYPE_CHECKING:
    from ofa_tvm.latency.dataset import Column, LatencyTable
    from ofa_tvm.latency.regression import LatencyRegressor
    from ofa_tvm.workflow.asked import Device


@click.group(short_help="Fit, evaluate and use predictors.")
def command() -> None:
    """Predictors are learned from tables of measured subnets (`ofa-tvm collect`, `ofa-tvm evaluate`)."""


for _verb in (
    suggest_command,
    predict_command,
    sources_command,
    table_command,
    fit_accuracy_command,
    eval_accuracy_command,
):
    command.add_command(_verb)


@command.command("fit")
@click.option(
    "--data", required=True, type=INPUT_PATH, multiple=True, help="Latency table (CSV); again for more."
)
@column_option
@space_of_table
@classes_option
@click.option(
    "--model",
    "kind",
    type=click.Choice(["regression", "kernel-sum", "generalized"]),
    help="regression: of one column (the default for one). kernel-sum: the same, starting from the sums of "
    "the tuning log's kernel times. generalized: of all columns, by hardware (the default for several).",
)
@click.option("-t", "--target", help="Whose tuning log a kernel-sum takes; by default the column's target.")
@threads_option
@targets_dir_option
@click.option("-o", "--output", required=True, type=OUTPUT_PATH, help="The model file to write.")
@common_options
def fit_command(
    console: Console,
    data: tuple[Path, ...],
    target_column: str | None,
    space: str | None,
    classes: int | None,
    kind: str | None,
    target: str | None,
    threads: int | None,
    targets_dir: Path | None,
    output: Path,
) -> None:
    """Fit a predictor and say how well it predicts what was left out: rows, or whole devices."""
    from ofa_tvm.latency.dataset import read_table
    from ofa_tvm.workflow.latency_models import fit_column

    tables = [read_table(path, space, classes) for path in data]
    several = len(tables) > 1 or (len(tables[0].columns) > 1 and target_column is None)
    kind = kind or ("generalized" if several else "regression")
    if kind == "generalized":
        _fit_generalized(console, tables, target_column, classes, targets_dir, output)
        return
    if len(tables) > 1:
        raise UsageError(f"a {kind} model is of one table; give --data once, or --model generalized")
    table = tables[0]
    column, values = table.column(target_column)
    console.say(
        f"{table.path}: {len(table)} subnets of {table.space.name}, column {column.name}, {kind} model, "
        f"{_classes(table, classes)}, into {output}"
    )
    start = time.monotonic()
    prior = None
    if kind == "kernel-sum":
        from ofa_tvm.workflow.log_tables import log_times, settings_of

        settings = settings_of(table, column, target, threads)
        console.say(settings.describe())
        prior = log_times(settings, n_classes=table.n_classes, progress=console.progress).sums
    model = fit_column(table, column, values, prior)
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
    classes: int | None,
    targets_dir: Path | None,
    output: Path,
) -> None:
    from ofa_tvm.workflow.latency_models import fit_devices

    for table in tables:
        console.say(
            f"{table.path}: {len(table)} subnets of {table.space.name}, {len(table.columns)} columns, "
            f"{_classes(table, classes)}"
        )
    console.say(f"generalized model, into {output}")
    start = time.monotonic()
    model, columns = fit_devices(tables, target_column, targets_dir, console.progress)
    model.save(output)
    seconds = time.monotonic() - start
    console.print(f"{output}: fitted to {len(columns)} columns in {seconds:.1f} s; each device left out:")
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
            "columns": columns,
            "seconds": round(seconds, 3),
            "leave_one_device_out": model.validation_,
        }
    )


@command.command("eval")
@model_option
@click.option("--data", required=True, type=INPUT_PATH, help="Latency table (CSV) to compare with.")
@column_option
@device_options(space_of_table, classes_option, targets_dir_option, source_option)
@common_options
def eval_command(
    console: Console, model: Path | None, data: Path, target_column: str | None, device: Device
) -> None:
    """Compare a predictor with measured latencies that it was not fitted to.

    mape, within5 and within10 (predictions no more than 5 and 10 % off) and within95 (measurements inside
    their 95 % interval) are fractions of 1.
    """
    from ofa_tvm.workflow.latency_models import open_model

    predictor = open_model(model)
    table, remark = predictor.table(data, device)
    console.say(f"{predictor.name} on {data}, {_about(table, remark, device.classes)}")
    rows = {}
    for scores in predictor.scores(table, target_column, device):
        if scores.remark:
            console.say(scores.remark)
        rows[scores.name] = _with_unit(scores.values, scores.unit)
    console.table(["target", *next(iter(rows.values()))], [[name, *r.values()] for name, r in rows.items()])
    console.result(rows)


@command.command("adapt")
@model_option
@click.option(
    "--data", required=True, type=INPUT_PATH, help="Latency table (CSV) of few subnets of the target."
)
@column_option
@device_options(space_of_table, classes_option, targets_dir_option, source_option)
@click.option("-o", "--output", required=True, type=OUTPUT_PATH, help="The model file to write.")
@common_options
def adapt_command(
    console: Console,
    model: Path | None,
    data: Path,
    target_column: str | None,
    device: Device,
    output: Path,
) -> None:
    """Move a predictor to a new target by a few measurements, one at least.

    The predictor may be of another target in the same space, or a generalized one, which starts from the
    hardware of the column's target. `suggest` says which subnets to measure.
    """
    from ofa_tvm.workflow.latency_models import open_model

    start = time.monotonic()
    predictor = open_model(model)
    table, remark = predictor.table(data, device)
    column, values = table.column(target_column)
    console.say(
        f"{predictor.name} adapted to {column.name} by {data}, "
        f"{_about(table, remark, device.classes)}, into {output}"
    )
    estimator, remarks = predictor.adapted(table, column, values, device)
    for line in filter(None, remarks):
        console.say(line)
    estimator.save(output)
    _report_fit(console, output, estimator, column, "adapted", time.monotonic() - start)


def _classes(table: LatencyTable, given: int | None) -> str:
    unsure = "" if given or table.classes_noted else " (not noted beside it: --classes says otherwise)"
    return f"{table.n_classes} classes{unsure}"


def _about(table: LatencyTable, remark: str, classes: int | None) -> str:
    return f"{len(table)} subnets, {remark or f'space {table.space.name}'}, {_classes(table, classes)}"


def _with_unit(scores: Mapping[str, float], unit: str) -> dict[str, float | None]:
    """Scores as JSON has them: units in the names, and null for a rank correlation that does not exist."""
    return {
        f"{name}_{unit.lower()}" if name in ("mae", "rmse") else name: None if value != value else value
        for name, value in scores.items()
    }
