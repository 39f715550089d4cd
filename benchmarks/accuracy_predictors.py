"""Accuracy predictors on measured ImageNet accuracies: `python benchmarks/accuracy_predictors.py`.

1,336 distinct subnets of the published OFA-MobileNetV3 w1.0 weights with their measured top-1
(IntelLabs/DyNAS-T @251cb5e, Apache-2.0). Each model is fitted to rows of one kind and judged on others: rank
correlation, error, and bias (predicted minus measured), means over seeds. "random": judged on the rest of all
rows, and of the more accurate half, where a search goes; "worse": fitted to the less accurate half, judged on
the other; "first" and "last": in the order in which searches met them, who repeat what they liked. Data from
`OFA_TVM_DATA`, else from `../shared/data` beside the checkout.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from provenance import save
from scipy.stats import spearmanr
from sklearn.linear_model import RidgeCV

from ofa_tvm.accuracy.mlp import MLPAccuracyPredictor
from ofa_tvm.accuracy.predictor import AccuracyPredictor
from ofa_tvm.spaces import Arch, get_space
from ofa_tvm.spaces.space import Space

RESULTS = Path(__file__).resolve().parent / "results"
ORDERS = ("random", "worse", "first", "last")
Fit = Callable[[np.ndarray, np.ndarray, int], Callable[[np.ndarray], np.ndarray]]


def imagenet(data: Path, space: Space) -> tuple[np.ndarray, np.ndarray]:
    """Genes and mean top-1, in percent, of the distinct subnets."""
    found: dict[Arch, list[float]] = {}
    for path in sorted((data / "accuracy").glob("imagenet_top1_*.csv.gz")):
        with gzip.open(path, "rt", newline="") as file:
            for row in csv.DictReader(file):
                found.setdefault(Arch.from_json(row["arch"]), []).append(float(row["top1_percent"]))
    return space.encode(list(found)), np.array([np.mean(v) for v in found.values()])


def split(kind: str, n: int, top1: np.ndarray, seed: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Rows to fit to, and rows to judge on by name."""
    rows, better = np.arange(len(top1)), top1 > np.median(top1)
    if kind == "worse":
        return np.random.default_rng(seed).permutation(rows[~better])[:n], {"better half": rows[better]}
    order = {"random": np.random.default_rng(seed).permutation(rows), "first": rows, "last": rows[::-1]}[kind]
    rest = order[n:]
    return order[:n], {"all others": rest, "better half": rest[better[rest]]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, nargs="+", default=[100, 500, 1000])
    options = parser.parse_args()
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    space = get_space("ofa_mbv3_w1.0")
    genes, top1 = imagenet(Path(os.environ.get("OFA_TVM_DATA", beside)), space)
    encode = MLPAccuracyPredictor(space).encode

    def ridge(x: np.ndarray, y: np.ndarray, seed: int) -> Callable[[np.ndarray], np.ndarray]:
        model = RidgeCV(np.logspace(-2, 4, 25)).fit(encode(x), y)
        return lambda population: model.predict(encode(population))

    models: dict[str, Fit] = {
        "Gaussian process": lambda x, y, seed: AccuracyPredictor(space).fit(x, y),
        "3x400 network": lambda x, y, seed: MLPAccuracyPredictor(space, seed=seed).fit(x, y),
        "ridge": ridge,
    }
    rows: list[dict[str, Any]] = []
    heads = "".join(f"{head:>9}" for head in ("RMSE", "Spearman", "bias", "CPU s"))
    print(f"{'model':18} {'fitted to':>14} {'judged on':>12}{heads}")
    for name, fit in models.items():
        for kind, n in [*(("random", n) for n in options.rows), *((k, 500) for k in ORDERS[1:])]:
            scores: dict[str, list[tuple[float, float, float]]] = {}
            seconds = []
            for seed in range(options.seeds if kind in ORDERS[:2] else 1):
                train, tests = split(kind, n, top1, seed)
                start = time.process_time()
                model = fit(genes[train], top1[train], seed)
                seconds.append(time.process_time() - start)
                for where, test in tests.items():
                    gap = model(genes[test]) - top1[test]
                    rank = spearmanr(top1[test] + gap, top1[test]).statistic
                    score = float(np.sqrt(np.mean(gap**2))), float(rank), float(gap.mean())
                    scores.setdefault(where, []).append(score)
            for where, found in scores.items():
                rmse, rank, bias = np.mean(found, axis=0).tolist()
                rows.append(
                    {"model": name, "fitted_to": kind, "rows": n, "judged_on": where, "rmse_points": rmse,
                     "spearman": rank, "bias_points": bias, "seeds": len(found),
                     "fit_cpu_seconds": float(np.median(seconds))}
                )  # fmt: skip
                print(
                    f"{name:18} {n:>6} {kind:>7} {where:>12} {rmse:8.3f} {rank:8.4f} {bias:+8.3f} "
                    f"{np.median(seconds):8.1f}",
                    flush=True,
                )
    save(
        RESULTS / "accuracy_predictors.json",
        {"data": "1,336 subnets of OFA-MBv3 w1.0, measured ImageNet top-1 in percent", "rows": rows},
    )


if __name__ == "__main__":
    main()
