"""Errors of the latency predictors on published measurements: `python benchmarks/latency/per_target.py`.

Fits on the published training rows of arXiv 2101.00732's dataset and reports on its validation rows, for
growing numbers of training samples (seeded random subsets; mean over seeds). Reads the data from
`OFA_TVM_DATA`, else from `../shared/data` beside the checkout; prints a table and, with `--json`, writes the
figures with machine and versions.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from provenance import save

from ofa_tvm.latency.dataset import read_table
from ofa_tvm.latency.lookup_table import LookupTable
from ofa_tvm.latency.regression import LatencyRegressor, errors
from ofa_tvm.spaces import get_space

PUBLISHED_MAE = {"rtx2080ti_b64_ms": 0.386, "tesla_p40_b64_ms": 1.181, "note10_lut_sum_ms": 0.352}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, nargs="+", default=[10, 30, 60, 100, 500, 700, 7000])
    parser.add_argument("--seeds", type=int, default=5, help="subsets of each size; 7,000 rows need one")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    data = Path(os.environ.get("OFA_TVM_DATA", beside))

    space = get_space("ofa_mbv3_w1.2")
    train = read_table(data / "latency" / "ofa_mbv3_paper_train.csv.gz", space)
    test = read_table(data / "latency" / "ofa_mbv3_paper_val.csv.gz", space)
    genes, test_genes = space.encode(train.archs), space.encode(test.archs)
    table = LookupTable.read(data / "luts" / "note10", space).tables
    rows: list[dict[str, Any]] = []
    print(f"{'column':20} {'model':22} {'rows':>5} {'MAE ms':>7} {'RMSE ms':>8} {'MAPE %':>7} "
          f"{'Spearman':>9} {'in 95 %':>8} {'fit s':>6}  published MAE")  # fmt: skip
    for column, published in PUBLISHED_MAE.items():
        _, ms = train.column(column)
        _, truth = test.column(column)
        priors = {"regression": None} | ({"Note10 table, adapted": table} if "note10" not in column else {})
        for model_name, prior in priors.items():
            for n in options.samples:
                scores = []
                for seed in range(options.seeds if n < len(ms) else 1):
                    chosen = np.random.default_rng(seed).permutation(len(ms))[:n]
                    start = time.perf_counter()
                    model = LatencyRegressor(space, prior).fit(genes[chosen], ms[chosen])
                    seconds = time.perf_counter() - start
                    mean, std = model.predict(test_genes, return_std=True)
                    inside = float((np.abs(mean - truth) < 1.96 * std).mean())
                    scores.append(errors(mean, truth) | {"within95": inside, "fit_s": seconds})
                row: dict[str, Any] = {key: float(np.mean([s[key] for s in scores])) for key in scores[0]}
                rows.append({"column": column, "model": model_name, "rows": n, "seeds": len(scores)} | row)
                print(f"{column:20} {model_name:22} {n:5} {row['mae']:7.3f} {row['rmse']:8.3f} "
                      f"{100 * row['mape']:7.2f} {row['spearman']:9.4f} {100 * row['within95']:8.1f} "
                      f"{row['fit_s']:6.2f}  {published}", flush=True)  # fmt: skip

    population = space.sample_genes(np.random.default_rng(0), 1_000_000)
    start = time.perf_counter()
    table(population)
    rate = 1e6 / (time.perf_counter() - start)
    print(f"\n{rate:,.0f} predictions a second from genes to milliseconds")
    if options.json:
        record = {
            "data": "arXiv 2101.00732, fitted on train rows, reported on val rows",
            "predictions_per_second": rate,
            "rows": rows,
        }
        save(options.json, record)


if __name__ == "__main__":
    main()
