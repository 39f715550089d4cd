"""NASFLAT's protocol on the FBNet devices: `python benchmarks/latency/nasflat_splits.py`.

A task (arXiv 2403.02446) names devices to test; a model may be fitted to the devices of its training list
only, and is then adapted to each test device by 10 or 20 random subnets. The score is Spearman's rank
correlation on other subnets, its mean over the task's test devices, and here also over several choices of the
measured subnets. The published figures are of the authors' repository (abdelfattah-lab/nasflat_latency):
HELP with 10 samples, MultiPredict and NASFLAT with 20.

Columns that a table lacks are left out and named: the public table here has not all of NASFLAT's devices.
`--data FILE` takes a table with more. Writes `benchmarks/results/nasflat_splits.json`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from public_data import data_folder

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from provenance import save

from ofa_tvm.estimators.metrics import spearman
from ofa_tvm.latency.adaptation import adapted
from ofa_tvm.latency.dataset import read_table
from ofa_tvm.latency.families import fit_families
from ofa_tvm.latency.generalized import GeneralizedLatency
from ofa_tvm.latency.references import Reference, reference_of
from ofa_tvm.latency.series import Series, series_of
from ofa_tvm.targets.devices import Device, list_devices

OUTPUT = Path(__file__).resolve().parents[1] / "results" / "nasflat_splits.json"
GPUS = tuple(
    f"{name}_{batch}"
    for name in ("1080ti", "2080ti", "titanx", "titanxp", "titan_rtx")
    for batch in (1, 32, 64)
)
# Task -> training columns, test columns; a single device has no batch in its column.
TASKS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "FD": (
        ("1080ti_1", "1080ti_32", "1080ti_64", "silver_4114", "silver_4210r", "samsung_a50", "pixel3",
         "essential_ph_1", "samsung_s7"),
        ("fpga", "raspi4", "eyeriss"),
    ),
    "FA": (GPUS, ("gold_6226", "essential_ph_1", "samsung_s7", "pixel2")),
    "F1": (
        ("2080ti_1", "essential_ph_1", "silver_4114", "titan_rtx_1", "titan_rtx_32"),
        ("eyeriss", "fpga", "raspi4", "samsung_a50", "samsung_s7"),
    ),
    "F2": (
        ("essential_ph_1", "gold_6226", "gold_6240", "pixel3", "raspi4"),
        ("1080ti_1", "1080ti_32", "2080ti_32", "titan_rtx_1", "titanxp_1"),
    ),
    "F3": (
        ("essential_ph_1", "pixel2", "pixel3", "raspi4", "samsung_s7"),
        ("1080ti_1", "1080ti_32", "2080ti_1", "titan_rtx_1", "titan_rtx_32"),
    ),
    "F4": (
        ("1080ti_64", "2080ti_1", "eyeriss", "gold_6226", "gold_6240", "raspi4", "samsung_s7", "silver_4210r",
         "titan_rtx_1", "titan_rtx_32"),
        ("1080ti_1", "pixel2", "essential_ph_1"),
    ),
}  # fmt: skip
# HELP (10 samples), MultiPredict (20), NASFLAT (20), mean over the whole task's test devices.
PUBLISHED = {
    "FD": (0.910, 0.960, 0.961),
    "FA": (0.37, 0.45, 0.577),
    "F1": (0.793, 0.756, 0.809),
    "F2": (0.543, 0.567, 0.871),
    "F3": (0.413, 0.434, 0.814),
    "F4": (0.799, 0.763, 0.734),
}
_TESTED = 2000  # subnets, of those that were not measured


class Task:
    """A model of a task's training columns, adapted to its test columns."""

    def __init__(
        self, series: dict[str, Series], references: dict[str, Reference], train: tuple[str, ...]
    ) -> None:
        known = [name for name in train if name in series]
        self._model = GeneralizedLatency()
        self._model.families = fit_families([series[name] for name in known])
        self._model.references = tuple(references[name] for name in known)
        self._model.validation_ = {}

    def score(self, s: Series, samples: int, seed: int, devices: list[Device]) -> float:
        """Rank correlation on subnets that were not measured."""
        order = np.random.default_rng(seed).permutation(len(s.ms))
        chosen, test = order[:samples], order[samples : samples + _TESTED]
        fitted = adapted(
            self._model, s.space, s.platform, s.genes[chosen], s.ms[chosen], n_classes=100, devices=devices
        )
        return spearman(fitted(s.genes[test]), s.ms[test])


def _line(name: str, means: dict[int, float], published: Sequence[float]) -> str:
    ours = "".join(f"{value:12.3f}" for value in means.values())
    return f"{name:5}{ours}" + "{:7.3f}{:14.3f}{:9.3f}".format(*published)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5, help="random choices of the measured subnets")
    parser.add_argument("--samples", type=int, nargs="+", default=[10, 20])
    parser.add_argument("--data", type=Path, default=data_folder() / "latency" / "fbnet_devices.csv.gz")
    options = parser.parse_args()
    devices = list_devices()
    table = read_table(options.data, "fbnet")
    series = {s.name: s for s in series_of(table, devices, source="help-fbnet")}
    used = {name for train, _ in TASKS.values() for name in train if name in series}
    references = {name: reference_of(series[name]) for name in sorted(used)}
    rows: list[dict[str, Any]] = []
    heading = "".join(f"{n:>4} samples" for n in options.samples)
    print(f"{'task':5}{heading}   HELP  MultiPredict  NASFLAT")
    for name, (train, test) in TASKS.items():
        task = Task(series, references, train)
        tested = [column for column in test if column in series]
        scores = {
            n: {
                column: float(
                    np.mean([task.score(series[column], n, seed, devices) for seed in range(options.seeds)])
                )
                for column in tested
            }
            for n in options.samples
        }
        means = {n: float(np.mean(list(by.values()))) for n, by in scores.items()}
        missing = {
            "training": [column for column in train if column not in series],
            "test": [column for column in test if column not in series],
        }
        published = dict(zip(("HELP_10", "MultiPredict_20", "NASFLAT_20"), PUBLISHED[name], strict=True))
        rows.append(
            {"task": name, "spearman": means, "by_device": scores, "published": published, "missing": missing}
        )
        lacks = " -> ".join(", ".join(columns) or "none" for columns in missing.values())
        print(f"{_line(name, means, PUBLISHED[name])}   without {lacks}", flush=True)
    mean = {n: float(np.mean([row["spearman"][n] for row in rows])) for n in options.samples}
    every = [float(np.mean(figures)) for figures in zip(*PUBLISHED.values(), strict=True)]
    print(_line("mean", mean, every))
    save(OUTPUT, {"table": options.data.name, "seeds": options.seeds, "tasks": rows, "mean": mean})


if __name__ == "__main__":
    main()
