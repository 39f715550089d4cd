"""Accuracy predictors on measured ImageNet accuracies: `python benchmarks/accuracy_predictors.py`.

1,336 distinct subnets of the published OFA-MobileNetV3 w1.0 weights with their measured top-1
(IntelLabs/DyNAS-T @251cb5e, Apache-2.0). Each model is fitted to random subsets (mean over seeds) and judged
on all other rows; then it is fitted to 500 of the less accurate half and judged on the more accurate one,
where a search goes: rank correlation, error, and bias (predicted minus measured). Data from `OFA_TVM_DATA`,
else from `../shared/data` beside the checkout.
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
Fit = Callable[[np.ndarray, np.ndarray, int], Callable[[np.ndarray], np.ndarray]]


def imagenet(data: Path, space: Space) -> tuple[np.ndarray, np.ndarray]:
    """Genes and mean top-1, in percent, of the distinct subnets."""
    found: dict[Arch, list[float]] = {}
    for path in sorted((data / "accuracy").glob("imagenet_top1_*.csv.gz")):
        with gzip.open(path, "rt", newline="") as file:
            for row in csv.DictReader(file):
                found.setdefault(Arch.from_json(row["arch"]), []).append(float(row["top1_percent"]))
    return space.encode(list(found)), np.array([np.mean(v) for v in found.values()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
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
    order = np.argsort(top1)
    worse, better = np.split(order, [len(order) // 2])
    rows: list[dict[str, Any]] = []
    print(f"{'model':18} {'trained on':>16} {'RMSE':>7} {'Spearman':>9} {'bias':>7} {'fit s':>6}")
    for name, fit in models.items():
        for n in [*options.rows, -500]:
            scores, seconds = [], []
            for seed in range(options.seeds):
                pool = np.random.default_rng(seed).permutation(worse if n < 0 else np.arange(len(top1)))
                train = pool[: abs(n)]
                test = better if n < 0 else pool[n:]
                start = time.perf_counter()
                model = fit(genes[train], top1[train], seed)
                seconds.append(time.perf_counter() - start)
                gap = model(genes[test]) - top1[test]
                rank = spearmanr(top1[test] + gap, top1[test]).statistic
                scores.append((float(np.sqrt(np.mean(gap**2))), float(rank), float(gap.mean())))
            rmse, rank, bias = np.mean(scores, axis=0).tolist()
            on = f"{n}" if n > 0 else "500, worse half"
            rows.append(
                {"model": name, "rows": abs(n), "beyond": n < 0, "rmse_points": rmse, "spearman": rank,
                 "bias_points": bias, "seeds": options.seeds, "fit_seconds": float(np.median(seconds))}
            )  # fmt: skip
            print(
                f"{name:18} {on:>16} {rmse:7.3f} {rank:9.4f} {bias:+7.3f} {np.median(seconds):6.1f}",
                flush=True,
            )
    save(
        RESULTS / "accuracy_predictors.json",
        {"data": "1,336 subnets of OFA-MBv3 w1.0, measured ImageNet top-1 in percent", "rows": rows},
    )


if __name__ == "__main__":
    main()
