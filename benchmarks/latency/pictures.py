"""Pictures of the predictors on public data: `python benchmarks/latency/pictures.py -o FOLDER`.

Predicted against measured, the error by resolution and depth, and the learning curve, as PNG, for the
RTX 2080 Ti and the Tesla P40 of arXiv 2101.00732: fitted to its training rows, drawn for its validation rows.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from public_data import data_folder

from ofa_tvm.estimators.metrics import errors
from ofa_tvm.latency.dataset import read_table
from ofa_tvm.latency.lookup_table import LookupTable
from ofa_tvm.latency.regression import LatencyRegressor
from ofa_tvm.report.latency_figures import error_by_group, learning_curve, predicted_against_measured
from ofa_tvm.report.style import LIGHT, PNG_DPI, WIDE_IN, Style, drawing
from ofa_tvm.spaces import get_space

SAMPLES = (10, 30, 100, 300, 700)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=Path("latency-pictures"))
    parser.add_argument("--rows", type=int, default=2000, help="training rows of the first two pictures")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    space = get_space("ofa_mbv3_w1.2")
    train = read_table(data_folder() / "latency" / "ofa_mbv3_paper_train.csv.gz", space)
    test = read_table(data_folder() / "latency" / "ofa_mbv3_paper_val.csv.gz", space)
    genes, test_genes = space.encode(train.archs), space.encode(test.archs)
    table = LookupTable.read(data_folder() / "luts" / "note10", space).tables
    style = Style(LIGHT, WIDE_IN)
    for target in ("rtx2080ti", "tesla_p40"):
        (_, ms), (_, truth) = train.column(target), test.column(target)
        predicted = LatencyRegressor(space).fit(genes[: options.rows], ms[: options.rows]).predict(test_genes)
        groups = {
            "resolution": np.array([arch.r for arch in test.archs]),
            "blocks (sum of the depths)": np.array([sum(arch.d) for arch in test.archs]),
        }
        curves: dict[str, list[float]] = {"alone": [], "from a Note10's table": []}
        for n in SAMPLES:
            for name, prior in zip(curves, (None, table), strict=True):
                found = []
                for seed in range(3):
                    rows = np.random.default_rng(seed).permutation(len(ms))[:n]
                    model = LatencyRegressor(space, prior).fit(genes[rows], ms[rows])
                    found.append(errors(model.predict(test_genes), truth)["mae"])
                curves[name].append(float(np.mean(found)))
        with drawing(LIGHT):
            for name, figure in {
                "predicted": predicted_against_measured(truth, predicted, style),
                "error": error_by_group(truth, predicted, groups, style),
                "learning": learning_curve(SAMPLES, curves, style, what="mean error, ms"),
            }.items():
                path = options.output / f"{target}-{name}.png"
                figure.savefig(path, dpi=PNG_DPI, facecolor="white")
                print(path)


if __name__ == "__main__":
    main()
