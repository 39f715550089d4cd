"""ofa-tvm predictor fit | eval | predict."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ofa_tvm.cli.console import Console, common_options
from ofa_tvm.cli.options import threads_option
from ofa_tvm.errors import UsageError, UserError

if TYPE_CHECKING:
    from ofa_tvm.spaces import LayeredSpace

_FILE = click.Path(path_type=Path)
_column_option = click.option(
    "--target-column", help="Heading of the column (as x86_ms) or its target; needed if there are several."
)


@click.group(short_help="Fit, evaluate and use latency predictors.")
def command() -> None:
    """Latency predictors are learned from tables of measured subnets (`ofa-tvm collect`)."""


@command.command("fit")
@click.option("--data", required=True, type=_FILE, help="Latency table (CSV).")
@_column_option
@click.option("--space", help="Search space; by default the one that the table was measured in.")
@click.option(
    "--model",
    "kind",
    type=click.Choice(["regression", "kernel-sum"]),
    default="regression",
    show_default=True,
    help="kernel-sum: starts from the sums of the tuning log's kernel times and learns what they get wrong.",
)
@click.option("-t", "--target", help="Whose tuning log a kernel-sum takes; by default the column's target.")
@threads_option
@click.option("-o", "--output", required=True, type=_FILE, help="The model file to write.")
@common_options
def fit_command(
    console: Console,
    data: Path,
    target_column: str | None,
    space: str | None,
    kind: str,
    target: str | None,
    threads: int | None,
    output: Path,
) -> None:
    """Fit a predictor of one target's latencies and say how well it predicts rows left out."""
    from ofa_tvm.latency.dataset import read_table
    from ofa_tvm.latency.regression import LatencyRegressor

    table = read_table(data, space)
    column, values = table.column(target_column)
    found, n_classes = table.space, table.n_classes
    console.say(
        f"{data}: {len(table)} subnets of {found.name}, column {column.name}, {kind} model, "
        f"{n_classes} classes, into {output}"
    )
    start = time.monotonic()
    prior = None
    if kind == "kernel-sum":
        prior = _kernel_sum(
            console, target or column.target, threads, column.batch, found, table.archs, values, n_classes
        )
    model = LatencyRegressor(found, prior, target=column.series, unit=column.unit, n_classes=n_classes).fit(
        table.archs, values
    )
    model.save(output)
    seconds = time.monotonic() - start
    quality = model.validation_
    console.print(
        f"{output}: fitted to {len(table)} subnets in {seconds:.1f} s"
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
            "space": found.name,
            "column": column.name,
            "model": kind,
            "rows": len(table),
            "seconds": round(seconds, 3),
            "leave_one_out": _with_unit(quality, column.unit),
        }
    )


@command.command("eval")
@click.option("--model", required=True, type=_FILE, help="Model file that `fit` wrote.")
@click.option("--data", required=True, type=_FILE, help="Latency table (CSV) to compare with.")
@_column_option
@common_options
def eval_command(console: Console, model: Path, data: Path, target_column: str | None) -> None:
    """Compare a predictor with measured latencies that it was not fitted to.

    mape, within5 and within10 (predictions no more than 5 and 10 % off) are fractions of 1.
    """
    from ofa_tvm.latency.dataset import read_table
    from ofa_tvm.latency.regression import LatencyRegressor, errors

    predictor = LatencyRegressor.load(model)
    table = read_table(data, predictor.space)
    if target_column is None and len(table.columns) > 1:
        target_column = next((c.name for c in table.columns if c.series == predictor.target), None)
    column, values = table.column(target_column)
    if column.unit != predictor.unit:
        raise UsageError(f"{model} predicts {predictor.unit}, but {column.name} is in {column.unit}")
    seen = set(predictor.space.decode(predictor.genes_))
    known = sum(arch in seen for arch in table.archs)
    console.say(
        f"{model} ({predictor.space.name}, {predictor.target}, {len(predictor.genes_)} subnets) on {data}, "
        f"column {column.name}, {len(table)} subnets"
        + (f"; {known} of them are among those that it was fitted to" if known else "")
    )
    scores = _with_unit(errors(predictor.predict(table.archs), values), column.unit)
    console.table(
        ["target", *scores],
        [[column.series, *scores.values()]],
    )
    console.result({column.series: scores})


@command.command("predict")
@click.option("--model", required=True, type=_FILE, help="Model file that `fit` wrote.")
@click.option("--archs", required=True, type=_FILE, help="One architecture (JSON) a line.")
@common_options
def predict_command(console: Console, model: Path, archs: Path) -> None:
    """Predict latencies, each with the standard deviation of a measurement around it."""
    from ofa_tvm.latency.regression import LatencyRegressor

    predictor = LatencyRegressor.load(model)
    found = _read_archs(archs, predictor.space)
    console.say(f"{model} ({predictor.space.name}, {predictor.target}) for {len(found)} subnets of {archs}")
    mean, deviation = predictor.predict(found, return_std=True)
    unit = predictor.unit
    console.table(
        ["r", "d", f"predicted {unit}", f"deviation {unit}", "arch"],
        [
            [arch.r, " ".join(map(str, arch.d)), float(value), float(std), arch.to_json()]
            for arch, value, std in zip(found, mean, deviation, strict=True)
        ],
    )
    console.result(
        {
            "space": predictor.space.name,
            "target": predictor.target,
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


def _kernel_sum(
    console: Console,
    target: str,
    threads: int | None,
    batch: int,
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
        target, threads=threads, space=space.name, resolutions=sorted({arch.r for arch in archs})
    )
    console.say(settings.describe())
    union = kernel_union(
        get_space(space.name),
        settings.chosen_resolutions,
        settings.target,
        n_classes=n_classes,
        batch=batch,
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


def _read_archs(path: Path, space: LayeredSpace) -> list[Any]:
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
