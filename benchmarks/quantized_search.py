"""What a latency buys in float32 and in int8: CIFAR-10, the supernet of benchmarks/shrinking_cifar.py.

    python benchmarks/shrinking_cifar.py --seeds 0 --arms shrinking   # the supernet, some core-hours
    python benchmarks/quantized_search.py            # the rest; run it again after a kill
    python benchmarks/quantized_search.py --table    # what is done so far, and the results file

The supernet is trained on for int8 (phase `quantize`), and as long in float32; the kernels of its space are
tuned in both formats. Then the most accurate subnet within each of five budgets is searched, measured and
shipped: in float32; in int8 of the float32 weights (post-training); in int8 of those trained for it; and with
the first and the last competing (`auto`). Subnets are chosen by validation images; accuracies are of the test
images through the module.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from provenance import save
from quantized_supernet import QUANTIZE
from shrinking_cifar import HERE, SIDE, SPACE, Lines, config, default_images, folder_of

from ofa_tvm.accuracy.evaluate import evaluate_subnets
from ofa_tvm.accuracy.predictor import AccuracyPredictor
from ofa_tvm.errors import UserError
from ofa_tvm.files import write_atomic
from ofa_tvm.latency.bench import SubnetBench
from ofa_tvm.logs import find_records
from ofa_tvm.number_formats import Arithmetic
from ofa_tvm.search.budget import Budget
from ofa_tvm.supernet import Supernet, build_supernet, set_dtype
from ofa_tvm.targets import Target, get_target
from ofa_tvm.training import ArrayData, Phase, load_data, train
from ofa_tvm.training.validation import accuracy, calibrated_subnet
from ofa_tvm.workflow.learn import learn_accuracy
from ofa_tvm.workflow.loop import tune_space
from ofa_tvm.workflow.pipeline import run_search
from ofa_tvm.workflow.request import SearchOutcome, SearchRequest, TargetRequest
from ofa_tvm.workflow.store import Store

RESULTS = HERE / "results" / "quantized_search.json"
RANDOM = [SPACE.sample(np.random.default_rng(100 + i)).replace(r=SIDE) for i in range(20)]
BUDGETS = 5
CALIBRATION = 1000  # images
FLOAT32, POST_TRAINING, TRAINED = ARMS = ("float32", "int8 post-training", "int8 trained")
SEARCHES = {**{arm: (arm,) for arm in ARMS}, "auto": (FLOAT32, TRAINED)}


def dtype_of(arm: str) -> Arithmetic:
    return "float32" if arm == FLOAT32 else "int8"


class Campaign:
    """The folder of a run: supernets, logs, models, and what the searches found."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.out = options, options.out
        self.data: ArrayData = load_data(options.data)  # type: ignore[assignment]
        base = folder_of(options.base, "shrinking", 0) / "supernet.pt"
        if not base.is_file():
            raise UserError(f"there is no {base}: run shrinking_cifar.py --seeds 0 --arms shrinking first")
        weights = {
            "float32": self._trained_on(base, replace(QUANTIZE, name="longer", quantize=False)),
            "int8": self._trained_on(base, QUANTIZE),
        }
        self.nets = {
            arm: _loaded(weights["int8" if arm == TRAINED else "float32"], dtype_of(arm)) for arm in ARMS
        }
        self.stores = {arm: Store(self.out / arm.replace(" ", "-"), Path("../tuning_logs")) for arm in ARMS}
        for store in self.stores.values():
            store.folder.mkdir(parents=True, exist_ok=True)
        self.path = self.out / "results.json"
        self.results: dict[str, Any] = json.loads(self.path.read_text()) if self.path.exists() else {}

    def _trained_on(self, base: Path, phase: Phase) -> Path:
        settings = config((phase,), resolutions=(SIDE,), threads=self.options.threads)
        folder, lines = self.out / f"training-{phase.name}", Lines(phase.name)
        return train(settings, self.data, folder, space=SPACE, init=base, progress=lines).checkpoint

    def run(self) -> None:
        for arm in ARMS:
            self._once(f"random {arm}", self._random, arm)
        for arm in (FLOAT32, TRAINED):
            self._once(f"tuned {arm}", self._tune, arm)
        for arm in ARMS:
            if not self.stores[arm].accuracy_model(dtype_of(arm)).is_file():
                learn_accuracy(
                    self.nets[arm], self.data, self.stores[arm], (SIDE,), calibration_images=CALIBRATION,
                    progress=Lines(arm),
                )  # fmt: skip
        self._once("budgets", self._budgets)
        for number, budget in enumerate(self.results["budgets"]):
            for name in SEARCHES:
                self._once(f"{name} {number}", self._search, name, Budget(budget))

    def _once(self, key: str, work: Any, *arguments: Any) -> None:
        if key not in self.results:
            self.results[key] = work(*arguments)
            write_atomic(self.path, json.dumps(self.results))

    def _target(self, arm: str) -> Target:
        return get_target("x86").with_dtype(dtype_of(arm))

    def _random(self, arm: str) -> list[float]:
        """Test accuracies of random subnets."""
        found = evaluate_subnets(
            self.nets[arm], RANDOM, self.data, "test", calibration_images=CALIBRATION,
            cache_path=self.out / "random.jsonl", progress=Lines(arm),
        )  # fmt: skip
        return [float(value) for value in found]

    def _tune(self, arm: str) -> dict[str, int]:
        tuned = tune_space(
            SPACE, self._target(arm), self.out, n_classes=10, resolutions=(SIDE,), trials=self.options.trials,
            seconds=60 * self.options.minutes, progress=Lines(f"tune {arm}"),
        )  # fmt: skip
        return {"kernels": tuned.kernels, "tuned": tuned.tuned}

    def _budgets(self) -> list[float]:
        """From what the smallest subnet takes in float32 to what nearly the largest does, in ms."""
        target = self._target(FLOAT32)
        with SubnetBench(self.nets[FLOAT32], target, find_records(target, [Store(self.out).logs])) as bench:
            least, most = (one.cost for one in bench.measure([SPACE.min_arch(SIDE), SPACE.max_arch(SIDE)]))
        return [float(f"{value:.3g}") for value in np.geomspace(1.05 * least, 0.75 * most, BUDGETS)]

    def _search(self, name: str, budget: Budget) -> dict[str, Any]:
        requests = [
            SearchRequest(
                self.stores[arm], self.nets[arm], self.data,
                (TargetRequest(self._target(arm), budget, artefact=self.out / "shipped"),),
                resolutions=(SIDE,),
                accuracy=AccuracyPredictor.load(self.stores[arm].accuracy_model(dtype_of(arm)), SPACE),
                calibration_images=CALIBRATION,
            )
            for arm in SEARCHES[name]
        ]  # fmt: skip
        lines = Lines(f"{name} within {budget}")
        outcome = run_search(*requests, progress=lines)
        row = self._described(outcome)
        lines.say(f"{row['dtype']}: test accuracy {row['test_accuracy']:.2%} in {row['measured_ms']:.4f} ms")
        return row

    def _described(self, outcome: SearchOutcome) -> dict[str, Any]:
        (done,), chosen, net = outcome.targets, outcome.chosen, outcome.request.net
        if done.shipped is None:
            raise RuntimeError("a target with a folder ships")
        module = calibrated_subnet(net, chosen.arch, self.data, CALIBRATION)
        return {
            "dtype": outcome.dtype,
            "arch": chosen.arch.to_dict(),
            "macs": SPACE.macs(chosen.arch, 10),
            "validation_accuracy": chosen.measured_accuracy,
            "test_accuracy": done.shipped.accuracy,
            "pytorch_test_accuracy": accuracy(module, self.data, "test", SIDE),
            "measured_ms": done.shipped.measurement.cost,
            "candidates": [[c.costs[0].predicted, c.costs[0].measured] for c in outcome.found.record],
        }


def _loaded(checkpoint: Path, dtype: Arithmetic) -> Supernet:
    net = build_supernet(SPACE, 10)
    net.load_checkpoint(checkpoint)
    set_dtype(net, dtype)
    return net.eval()


def rows_of(known: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for number, budget in enumerate(known.get("budgets", [])):
        found = {name: known[f"{name} {number}"] for name in SEARCHES if f"{name} {number}" in known}
        if found:
            yield {"budget_ms": budget, **found}


def _cell(found: dict[str, Any] | None) -> str:
    return "-" if found is None else f"{100 * found['test_accuracy']:.2f} % {found['macs'] / 1e6:.1f} M"


def table(options: argparse.Namespace) -> None:
    known = json.loads((options.out / "results.json").read_text())
    before = 100 * np.array(known[f"random {FLOAT32}"])
    drops = {}
    for arm in (POST_TRAINING, TRAINED):
        if f"random {arm}" in known:
            drop = before - 100 * np.array(known[f"random {arm}"])
            drops[arm] = {"mean": float(drop.mean()), "largest": float(drop.max())}
            print(
                f"{len(drop)} random subnets, {arm}: {drop.mean():.2f} points lost, {drop.max():.2f} at most"
            )
    rows = list(rows_of(known))
    print(f"{'budget':>10}" + "".join(f"{name:>22}" for name in SEARCHES))
    for row in rows:
        print(
            f"{1e3 * row['budget_ms']:7.1f} us" + "".join(f"{_cell(row.get(name)):>22}" for name in SEARCHES)
        )
    shipped = [one for row in rows for name, one in row.items() if name != "budget_ms"]
    kept = sum(one["measured_ms"] <= row["budget_ms"] for row in rows for name, one in row.items()
               if name != "budget_ms")  # fmt: skip
    gaps = [
        100 * abs(one["test_accuracy"] - one["pytorch_test_accuracy"])
        for one in shipped
        if one["dtype"] == "int8"
    ]
    pairs = np.array([pair for row in rows for name in (POST_TRAINING, TRAINED) if name in row
                      for pair in row[name]["candidates"]])  # fmt: skip
    errors = np.abs(pairs[:, 0] / pairs[:, 1] - 1) if len(pairs) else np.zeros(1)
    print(f"{kept} of {len(shipped)} shipped modules keep their budget; latency of int8 candidates predicted "
          f"within {errors.mean():.1%} on average; accuracy through the module and by PyTorch differ by "
          f"{max(gaps, default=0):.2f} points at most")  # fmt: skip
    save(options.results, {
        "tuned": {arm: known.get(f"tuned {arm}") for arm in (FLOAT32, TRAINED)},
        "random_subnets": len(RANDOM), "points_below_float32": drops, "table": rows,
        "kept": kept, "shipped": len(shipped), "latency_error": float(errors.mean()),
        "accuracy_gap_points": max(gaps, default=0.0),
    })  # fmt: skip
    print(f"written to {options.results}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("-o", "--out", type=Path, default=Path("quantized_search"), help="folder of the run")
    parser.add_argument(
        "--base", type=Path, default=Path("shrinking_cifar"), help="folder of shrinking_cifar.py"
    )
    parser.add_argument("--data", type=Path, default=default_images(), help="CIFAR-10 as an .npz")
    parser.add_argument("--minutes", type=float, default=10.0, help="of tuning in each format")
    parser.add_argument("--trials", type=int, default=16, help="of each kernel")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="show what is done, run nothing")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    if not options.table:
        options.out.mkdir(parents=True, exist_ok=True)
        torch.set_num_threads(options.threads)
        Campaign(options).run()
    table(options)


if __name__ == "__main__":
    main()
