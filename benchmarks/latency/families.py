"""Model families against each other: `python benchmarks/latency/families.py`.

One target, the RTX 2080 Ti of arXiv 2101.00732: 10, 100, 700 and 7,000 training rows, mean absolute error on
the validation rows. Many targets, one GPU of the data set left out and predicted by its descriptor alone.
Prints two tables and writes `benchmarks/results/latency_families.json`. The losers live in this file only.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from public_data import data_folder, public_series
from scipy import sparse
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from provenance import save

from ofa_tvm.estimators.metrics import errors
from ofa_tvm.latency.dataset import read_table
from ofa_tvm.latency.families import fit_families
from ofa_tvm.latency.features import context_features
from ofa_tvm.latency.generalized import GeneralizedLatency
from ofa_tvm.latency.regression import LatencyRegressor
from ofa_tvm.latency.roofline import Rates
from ofa_tvm.latency.series import Series
from ofa_tvm.spaces import LayeredSpace, get_space
from ofa_tvm.spaces.blocks import block_structure, stacked_contexts

OUTPUT = Path(__file__).resolve().parents[1] / "results" / "latency_families.json"
ROWS = (10, 100, 700, 7000)
# Of every series of another GPU: trees need more rows than a roofline.
ROWS_OF_OTHERS = 1000
Scores = dict[str, float]


def one_hots(space: LayeredSpace, genes: np.ndarray) -> sparse.csr_matrix:
    """One entry a block and its context: what a lookup table has."""
    index = stacked_contexts(block_structure(space), genes)
    size = sum(len(block.contexts) for block in block_structure(space).blocks)
    starts = np.arange(0, index.size + 1, index.shape[1])
    return sparse.csr_matrix((np.ones(index.size), index.ravel(), starts), shape=(len(genes), size))


def physical(space: LayeredSpace, genes: np.ndarray, n_classes: int = 1000) -> np.ndarray:
    """Kernels, multiply-adds, elements and weights of each kernel class, whole network."""
    structure = block_structure(space, n_classes)
    return np.concatenate(context_features(structure))[stacked_contexts(structure, genes)].sum(axis=1)


def choices(space: LayeredSpace, genes: np.ndarray) -> np.ndarray:
    """Physical features, and the genes as indicators, unused ones included."""
    columns = [genes[:, i : i + 1] == np.arange(k) for i, k in enumerate(space.cardinalities)]
    return np.hstack([physical(space, space.canonical(genes)), *columns]).astype(np.float64)


def _ridge(space: LayeredSpace, genes: np.ndarray, ms: np.ndarray, test: np.ndarray) -> np.ndarray:
    x = one_hots(space, genes)
    if len(ms) >= 1000:
        return Ridge(1.0).fit(x, ms).predict(one_hots(space, test))
    return RidgeCV(np.logspace(-2, 3, 11)).fit(x.toarray(), ms).predict(one_hots(space, test).toarray())


def _boosting(space: LayeredSpace, genes: np.ndarray, ms: np.ndarray, test: np.ndarray) -> np.ndarray:
    model = HistGradientBoostingRegressor(
        max_iter=500, learning_rate=0.05, min_samples_leaf=min(20, max(2, len(ms) // 5)), random_state=0
    )
    return model.fit(choices(space, genes), ms).predict(choices(space, test))


def _mlp(space: LayeredSpace, genes: np.ndarray, ms: np.ndarray, test: np.ndarray) -> np.ndarray:
    network = MLPRegressor(
        hidden_layer_sizes=(400, 400, 400),
        max_iter=300,
        n_iter_no_change=30,
        early_stopping=len(ms) >= 100,
        random_state=0,
    )
    model = TransformedTargetRegressor(make_pipeline(StandardScaler(), network), transformer=StandardScaler())
    return model.fit(choices(space, genes), ms).predict(choices(space, test))


def _ours(space: LayeredSpace, genes: np.ndarray, ms: np.ndarray, test: np.ndarray) -> np.ndarray:
    return LatencyRegressor(space).fit(genes, ms).predict(test)


PER_TARGET: dict[str, Callable[[LayeredSpace, np.ndarray, np.ndarray, np.ndarray], np.ndarray]] = {
    "ridge, block one-hots": _ridge,
    "gradient boosting": _boosting,
    "MLP 3x400": _mlp,
    "ours": _ours,
}


def per_target(seeds: int) -> list[dict[str, Any]]:
    """Errors of every family at every number of rows, means over random subsets."""
    space, folder = get_space("ofa_mbv3_w1.2"), data_folder() / "latency"
    train = read_table(folder / "ofa_mbv3_paper_train.csv.gz", space)
    test = read_table(folder / "ofa_mbv3_paper_val.csv.gz", space)
    genes, test_genes = space.encode(train.archs), space.encode(test.archs)
    (_, ms), (_, truth) = train.column("rtx2080ti"), test.column("rtx2080ti")
    print(f"{'RTX 2080 Ti, batch 64':24} {'rows':>5} {'MAE ms':>8} {'MAPE %':>7} {'rho':>7} {'fit s':>6}")
    found = []
    for n in ROWS:
        for name, family in PER_TARGET.items():
            several, start = [], time.perf_counter()
            for seed in range(seeds if n < len(ms) else 1):
                chosen = np.random.default_rng(seed).permutation(len(ms))[:n]
                several.append(errors(family(space, genes[chosen], ms[chosen], test_genes), truth))
            seconds = (time.perf_counter() - start) / len(several)
            scores = {key: float(np.nanmean([s[key] for s in several])) for key in several[0]}
            found.append({"family": name, "rows": n, "seeds": len(several), "seconds": seconds, **scores})
            print(
                f"{name:24} {n:5} {scores['mae']:8.3f} {100 * scores['mape']:7.2f} {scores['spearman']:7.4f} "
                f"{seconds:6.1f}",
                flush=True,
            )
    return found


def joined(s: Series, rows: np.ndarray) -> np.ndarray:
    """Logarithms of the network's features and of the descriptor's, and which data set it is."""
    platform, rates = s.platform, Rates.of(s.platform)
    network = physical(s.space, s.genes[rows], s.n_classes)
    device = np.log(
        [platform.batch, rates.gflops, rates.gb_s, rates.cache, platform.device.hardware.sms or 1]
    )
    device = np.append(device, s.source == "help")
    return np.hstack([np.log1p(network), np.tile(device, (len(rows), 1))])


def _trees(model: Any) -> Callable[[Sequence[Series], Sequence[Series]], list[np.ndarray]]:
    """Learn the logarithm of an image's time against the roofline's arithmetic, which scales to new cards."""

    def work(s: Series, rows: np.ndarray) -> np.ndarray:
        macs = 1e6 * physical(s.space, s.genes[rows], s.n_classes)[:, 1::4].sum(axis=1)
        return 2 * macs * s.platform.batch / Rates.of(s.platform).gflops / 1e6

    def predict(rest: Sequence[Series], left_out: Sequence[Series]) -> list[np.ndarray]:
        rows = [np.random.default_rng(0).permutation(len(s.ms))[:ROWS_OF_OTHERS] for s in rest]
        x = np.vstack([joined(s, r) for s, r in zip(rest, rows, strict=True)])
        y = np.concatenate([np.log(s.ms[r] / work(s, r)) for s, r in zip(rest, rows, strict=True)])
        model.fit(x, y)
        every = [np.arange(len(s.ms)) for s in left_out]
        return [
            np.exp(model.predict(joined(s, r))) * work(s, r) for s, r in zip(left_out, every, strict=True)
        ]

    return predict


def _rooflines(rest: Sequence[Series], left_out: Sequence[Series]) -> list[np.ndarray]:
    model = GeneralizedLatency()
    model.families, model.references = fit_families(rest), ()
    return [model.zero_shot(s.space, s.platform, s.source, s.n_classes)(s.genes) for s in left_out]


GENERALIZED = {
    "random forest": _trees(RandomForestRegressor(200, min_samples_leaf=3, random_state=0)),
    "gradient boosting": _trees(HistGradientBoostingRegressor(random_state=0)),
    "ours": _rooflines,
}


def generalized() -> list[dict[str, Any]]:
    """Errors of every family on each GPU that was left out, by its descriptor alone."""
    series = public_series("ofa_mbv3_gpus", "ofa_mbv3_paper_train")
    gpus = [s for s in series if s.family == "gpu"]
    print(f"\n{'GPU left out':24} {'column':16} {'MAPE %':>7} {'rho':>7}")
    found = []
    for device in sorted({s.platform.device.identity for s in gpus}):
        left_out = [s for s in gpus if s.platform.device.identity == device]
        rest = [s for s in gpus if s.platform.device.identity != device]
        for name, family in GENERALIZED.items():
            for s, predicted in zip(left_out, family(rest, left_out), strict=True):
                scores: Scores = errors(predicted, s.ms)
                found.append({"family": name, "column": s.name, **scores})
                print(
                    f"{name:24} {s.name:16} {100 * scores['mape']:7.1f} {scores['spearman']:7.3f}", flush=True
                )
    for name in GENERALIZED:
        mean = float(np.mean([row["mape"] for row in found if row["family"] == name]))
        print(f"{name:24} {'mean':16} {100 * mean:7.1f}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="random subsets of each size")
    options = parser.parse_args()
    save(
        OUTPUT,
        {
            "data": "see benchmarks/latency/public_data.py",
            "per_target": per_target(options.seeds),
            "generalized": generalized(),
        },
    )


if __name__ == "__main__":
    main()
