"""ofa-tvm predictor fit-accuracy | eval-accuracy."""

from __future__ import annotations

import time
from pathlib import Path

import click

from ofa_tvm.cli.console import Console, common_options
from ofa_tvm.cli.options import INPUT_PATH, OUTPUT_PATH, space_option

_data_option = click.option(
    "--data",
    required=True,
    type=INPUT_PATH,
    help="CSV with the column arch and one of accuracies, in shares of 1 or in percent.",
)
_column_option = click.option("--column", help="Heading of the accuracies; by default the one so named.")


@click.command("fit-accuracy")
@_data_option
@_column_option
@space_option
@click.option(
    "--model",
    "kind",
    type=click.Choice(["auto", "gp", "mlp"]),
    default="auto",
    show_default=True,
    help="gp: Gaussian process. mlp: the paper's network of 3 layers of 400. auto: gp up to 3,000 subnets.",
)
@click.option("-o", "--output", required=True, type=OUTPUT_PATH, help="The model file to write.")
@common_options
def fit_accuracy_command(
    console: Console, data: Path, column: str | None, space: str | None, kind: str, output: Path
) -> None:
    """Fit an accuracy predictor to measured accuracies, and say how well it predicts those left out.

    `search --accuracy-predictor` takes the file. `ofa-tvm evaluate --fit` measures the accuracies first.
    """
    from ofa_tvm.accuracy.table import read_accuracies
    from ofa_tvm.spaces import get_space
    from ofa_tvm.workflow.models import fit_accuracy
    from ofa_tvm.workflow.project import find_project

    chosen = get_space(space or find_project().space)
    table = read_accuracies(data, chosen, column)
    console.say(
        f"{data}: {len(table.archs)} subnets of {chosen.name}, column {table.column}, into {output}, "
        f"seed {console.seed}"
    )
    start = time.monotonic()
    model = fit_accuracy(chosen, table.archs, table.accuracies, kind=kind, seed=console.seed)
    model.save(output)
    seconds, quality = time.monotonic() - start, model.validation_
    console.print(
        f"{output}: {model.METHOD} fitted to {len(table.archs)} subnets in {seconds:.1f} s; left out: error "
        f"{100 * quality['rmse']:.3f} points (root mean square), rank correlation {quality['spearman']:.4f}"
    )
    console.result(
        {
            "path": str(output),
            "space": chosen.name,
            "column": table.column,
            "model": model.KIND,
            "subnets": len(table.archs),
            "rows": table.rows,
            "seconds": round(seconds, 3),
            "left_out": dict(quality),
        }
    )


@click.command("eval-accuracy")
@click.option("--model", required=True, type=INPUT_PATH, help="Model file, or a published predictor (.pth).")
@_data_option
@_column_option
@space_option
@common_options
def eval_accuracy_command(
    console: Console, model: Path, data: Path, column: str | None, space: str | None
) -> None:
    """Compare an accuracy predictor with measured accuracies that it was not fitted to.

    Errors are in shares of 1; bias is predicted minus measured.
    """
    from ofa_tvm.accuracy.table import read_accuracies
    from ofa_tvm.workflow.models import accuracy_scores, accuracy_space, load_accuracy

    chosen = accuracy_space(model, space)
    predictor = load_accuracy(model, chosen)
    table = read_accuracies(data, chosen, column)
    console.say(f"{model} on {data}, {len(table.archs)} subnets of {chosen.name}, column {table.column}")
    scores = accuracy_scores(predictor, table)
    console.table(list(scores), [list(scores.values())])
    console.result(scores)
