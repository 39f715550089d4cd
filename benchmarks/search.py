"""Searches compared: `python benchmarks/search.py` (`--device` adds what has to be measured on this machine).

1. Quality and speed on the published problem: ofa_mbv3_w1.2 with the official accuracy predictor and the
   Note10 tables, 20 seeds at each budget, for evolution, NSGA-II (one run serves all budgets) and random
   search, beside the official finder's means (mit-han-lab/once-for-all @f03b267, same work, 20 seeds).
2. CPU seconds of a search of 100 x 500 with each kind of predictor.
3. The claim of arXiv 2101.00732, that searches under a learned predictor find subnets at least as accurate
   at the same true latency as searches under a table: on its RTX 2080 Ti and P40. The table is the published
   one (Note10), scaled to the device by the same 100 measured subnets that the predictor learns from. True
   latencies are those of a model of all 8,500 measured subnets, within 0.4 and 0.5 ms (MAE) of a measurement.
4. `--device`: the same on this machine. The table is what `ofa-tvm predictor table` writes from the tuning
   log, the predictor learns from 40 measured subnets, all latencies are measured. It needs a quiet machine.

Data come from `OFA_TVM_DATA`, else from `../shared/data` beside the checkout.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from provenance import save

from ofa_tvm.accuracy.official import OfficialPredictor, load_official
from ofa_tvm.accuracy.predictor import AccuracyPredictor
from ofa_tvm.latency.dataset import read_table
from ofa_tvm.latency.lookup_table import LookupTable
from ofa_tvm.latency.regression import LatencyRegressor
from ofa_tvm.search.evolution import Evolution, search
from ofa_tvm.search.objectives import make_objectives
from ofa_tvm.search.pareto import pareto_search
from ofa_tvm.search.random import random_search
from ofa_tvm.spaces import Arch, get_space
from ofa_tvm.spaces.blocks import block_structure
from ofa_tvm.spaces.space import Space

RESULTS = Path(__file__).resolve().parent / "results"
# The best known: of an evolution of 500 x 1,500, but at 30 ms, where that found 0.83058 and searches more.
BEST = {15: 0.78800, 20: 0.80789, 25: 0.82222, 30: 0.83187, 35: 0.83791}
OFFICIAL = {15: 0.78495, 20: 0.80454, 25: 0.81788, 30: 0.82614, 35: 0.83170}
DEVICE_SPACE, DEVICE_SIDES = "ofa_mbv3_w1.0", (160, 192, 224)
_DEVICE_SEEDS, _DEVICE_REPEATS = 3, 60


def published(data: Path) -> tuple[Space, OfficialPredictor, LookupTable]:
    """The published tutorial's space, accuracy predictor and latency table."""
    space = get_space("ofa_mbv3_w1.2")
    accuracy = load_official(data / "accuracy" / "acc_predictor.pth", space)
    return space, accuracy, LookupTable.read(data / "luts" / "note10", space)


def quality(data: Path, seeds: int) -> list[dict[str, Any]]:
    """Best predicted accuracy by budget and method: mean and standard deviation over seeds."""
    space, accuracy, table = published(data)
    sides = table.resolutions
    found: dict[str, dict[int, list[float]]] = {
        name: {b: [] for b in OFFICIAL} for name in ("search", "evolution", "NSGA-II", "random")
    }
    seconds: dict[str, list[float]] = {name: [] for name in found}
    objectives = make_objectives(["latency", "accuracy"], space, accuracy=accuracy, latency={"t": table})
    for seed in range(seeds):
        front = pareto_search(space, objectives, seed=seed, resolutions=sides)
        seconds["NSGA-II"].append(front.seconds)
        for budget in OFFICIAL:
            within = front.values[:, 0] <= budget
            found["NSGA-II"][budget].append(float(front.values[within, 1].max()))
            limit = float(budget)
            best = search(space, accuracy, table, limit, k=1, seed=seed, resolutions=sides)
            evolved = search(
                space, accuracy, table, limit, k=1, seed=seed, resolutions=sides, settings=Evolution()
            )
            luck = random_search(
                space, accuracy, table, limit, k=1, seed=seed, resolutions=sides, samples=best.evaluations
            )
            for name, result in (("search", best), ("evolution", evolved), ("random", luck)):
                assert result.latency[0] <= budget
                found[name][budget].append(float(result.accuracy[0]))
                seconds[name].append(result.seconds)
    print(f"{'budget ms':>9} {'official':>9}" + "".join(f"{name:>20}" for name in found))
    for budget, official in OFFICIAL.items():
        cells = (f"{np.mean(by[budget]):.5f} ± {np.std(by[budget]):.5f}" for by in found.values())
        print(f"{budget:9} {official:9.5f}" + "".join(f"{cell:>20}" for cell in cells))
    print(
        f"{'median s':>9} {'9 to 19':>9}"
        + "".join(f"{statistics.median(s):>20.2f}" for s in seconds.values())
    )
    for name, by in found.items():
        gaps = [BEST[budget] - np.array(values) for budget, values in by.items()]
        print(f"{name:10} {100 * np.mean(gaps):.3f} points behind the best known on average, at most "
              f"{100 * np.max(gaps):.3f}")  # fmt: skip
    return [
        {
            "method": name,
            "budget_ms": budget,
            "official": OFFICIAL[budget],
            "best_known": BEST[budget],
            "mean_gap_points": 100 * (BEST[budget] - float(np.mean(values))),
            "mean": float(np.mean(values)),
            "std": float(np.std(values)),
            "seeds": seeds,
            "median_seconds": statistics.median(seconds[name]),
        }
        for name, by in found.items()
        for budget, values in by.items()
    ]


def speed(data: Path) -> list[dict[str, Any]]:
    """Median CPU seconds of five searches of 100 x 500 on one thread, by the predictors that they use."""
    space, official, table = published(data)
    rng = np.random.default_rng(0)
    genes = space.sample_genes(rng, 500, table.resolutions)
    tables = block_structure(space).tables(lambda layers: float(sum(la.macs for la in layers)) ** 0.2)
    kinds = {
        "tables, tables": (tables, table),
        "tables, regression": (tables, LatencyRegressor(space).fit(genes[:200], table(genes[:200]))),
        "official network, table": (official, table),
        "Gaussian process of 100, table": (
            AccuracyPredictor(space).fit(genes[:100], official(genes[:100])),
            table,
        ),
        "Gaussian process of 500, table": (AccuracyPredictor(space).fit(genes, official(genes)), table),
    }
    rows = []
    for name, (accuracy, latency) in kinds.items():
        seconds = []
        for seed in range(5):
            start = time.process_time()
            search(space, accuracy, latency, 25.0, k=1, seed=seed, resolutions=table.resolutions)
            seconds.append(time.process_time() - start)
        rows.append({"predictors": name, "median_cpu_seconds": statistics.median(seconds)})
        print(f"{name:32} {statistics.median(seconds):6.2f} s")
    return rows


def claim(data: Path) -> list[dict[str, Any]]:
    """Accuracy at the same true latency, under a scaled table and under a predictor learned from 100."""
    space, accuracy, table = published(data)
    parts = [
        read_table(data / "latency" / f"ofa_mbv3_paper_{name}.csv.gz", space) for name in ("train", "val")
    ]
    genes = np.concatenate([space.encode(part.archs) for part in parts])
    rows: list[dict[str, Any]] = []
    print(f"{'device':18} {'seed':>4} {'true ms':>8} {'learned':>9} {'table':>9} {'points':>7}")
    for column in ("rtx2080ti_b64_ms", "tesla_p40_b64_ms"):
        ms = np.concatenate([part.column(column)[1] for part in parts])
        truth = LatencyRegressor(space).fit(genes, ms).collapsed
        for seed in range(3):
            chosen = np.random.default_rng(seed).permutation(len(ms))[:100]
            learned = LatencyRegressor(space).fit(genes[chosen], ms[chosen]).collapsed
            scale = float(np.median(ms[chosen] / table(genes[chosen])))
            budgets = np.quantile(ms, [0.05, 0.2, 0.4, 0.6])
            limits = np.geomspace(0.8 * budgets[0], 1.25 * budgets[-1], 12)

            def find(model: Callable[[np.ndarray], np.ndarray], budget: float, seed: int = seed) -> Any:
                return search(space, accuracy, model, budget, k=1, seed=seed, resolutions=table.resolutions)

            rivals = [find(table, float(limit) / scale) for limit in limits if limit / scale > 10]
            points = sorted((float(truth(r.genes)[0]), float(r.accuracy[0])) for r in rivals)
            x, y = (np.array(values) for values in zip(*points, strict=True))
            y = np.maximum.accumulate(y)  # the best that the table found up to there
            for budget in budgets:
                found = find(learned, float(budget))
                true, acc = float(truth(found.genes)[0]), float(found.accuracy[0])
                if not x[0] <= true <= x[-1]:
                    continue
                rival = float(np.interp(true, x, y))
                rows.append(
                    {"device": column, "seed": seed, "budget_ms": float(budget), "true_ms": true,
                     "learned": acc, "table": rival}
                )  # fmt: skip
                gain = 100 * (acc - rival)
                print(f"{column:18} {seed:4} {true:8.2f} {acc:9.4f} {rival:9.4f} {gain:+7.2f}", flush=True)
        gains = [100 * (row["learned"] - row["table"]) for row in rows if row["device"] == column]
        better = sum(gain > 0 for gain in gains)
        print(f"{column:18} mean {np.mean(gains):+.2f} points, {better} of {len(gains)} better")
    return rows


def device(data: Path, folder: Path, target_name: str, samples: int) -> dict[str, Any]:
    """Accuracy at the same measured latency, under the lookup table of the log and under a learned predictor.

    What was learned from and what was found is kept in the folder, so a stopped run goes on.
    """
    from ofa_tvm.cli.main import invoke
    from ofa_tvm.latency.bench import SubnetBench
    from ofa_tvm.latency.collect import collect
    from ofa_tvm.latency.log_model import kernel_sum_from_log
    from ofa_tvm.logs import find_records
    from ofa_tvm.supernet import build_supernet
    from ofa_tvm.targets import get_target
    from ofa_tvm.tuning import kernel_union

    space, target = get_space(DEVICE_SPACE), get_target(target_name)
    accuracy = load_official(data / "accuracy" / "acc_predictor.pth", space)
    folder.mkdir(parents=True, exist_ok=True)
    sides = ",".join(map(str, DEVICE_SIDES))
    words = ["predictor", "table", "--target", target_name, "--space", space.name, "--resolutions", sides]
    if not (folder / "tables").is_dir() and invoke([*words, "-o", str(folder / "tables")]) != 0:
        raise SystemExit("no table was written")
    table = LookupTable.read(folder / "tables", space)
    records = find_records(target, [])
    kernel_sum = kernel_sum_from_log(
        space, kernel_union(space, DEVICE_SIDES, target, n_classes=1000), records
    )

    def find(model: Callable[[np.ndarray], np.ndarray], budget: float) -> tuple[str, float]:
        """The best of a few seeds, so that the searches' own luck does not decide."""
        runs = [
            search(space, accuracy, model, budget, k=1, seed=seed, resolutions=DEVICE_SIDES)
            for seed in range(_DEVICE_SEEDS)
        ]
        best = max(runs, key=lambda run: float(run.accuracy[0]))
        return best.archs[0].to_json(), float(best.accuracy[0])

    with SubnetBench(build_supernet(space, 1000).eval(), target, records) as bench:
        measured = collect(bench, folder / f"latency-{target.name}.csv", samples, DEVICE_SIDES).measured
        archs, ms = list(measured), np.array(list(measured.values()))
        learned = LatencyRegressor(space, kernel_sum.fit(archs, ms).tables, target=target.name).fit(archs, ms)
        # The table is asked for more budgets, in a wider range: its latencies shall enclose the others'.
        budgets = np.quantile(ms, [0.05, 0.15, 0.3, 0.45, 0.6, 0.75])
        level = float(np.median(ms / table(space.encode(archs))))
        asked = np.geomspace(0.85 * budgets[0], 1.2 * budgets[-1], 10) / level
        arms = {"learned": (learned, budgets), "table": (table, asked)}
        kept = folder / "found.json"  # what the searches found, by the predictor that they used
        if not kept.is_file():
            said = {name: [find(model, float(b)) for b in limits] for name, (model, limits) in arms.items()}
            kept.write_text(json.dumps(said, indent=1))
        found = {
            name: [(Arch.from_json(text), float(acc)) for text, acc in results]
            for name, results in json.loads(kept.read_text()).items()
        }
        every = list(dict.fromkeys(arch for results in found.values() for arch, _ in results))
        # In turns, and of each the least sample: what else ran on the machine only ever adds to a time.
        timed = bench.measure(every, repeats=_DEVICE_REPEATS)
        true = {arch: min(result.samples_ms) for arch, result in zip(every, timed, strict=True)}
    points = {name: sorted((true[arch], acc) for arch, acc in results) for name, results in found.items()}
    x, y = (np.array(values) for values in zip(*points["table"], strict=True))
    y = np.maximum.accumulate(y)  # the best that the table found up to there
    rows: list[dict[str, float]] = []
    print(f"{'true ms':>8} {'learned':>9} {'table':>9} {'points':>7}")
    for true_ms, acc in points["learned"]:
        if not x[0] <= true_ms <= x[-1]:
            continue
        rival = float(np.interp(true_ms, x, y))
        rows.append({"true_ms": true_ms, "learned": acc, "table": rival})
        print(f"{true_ms:8.3f} {acc:9.4f} {rival:9.4f} {100 * (acc - rival):+7.2f}")
    gains = [100 * (row["learned"] - row["table"]) for row in rows]
    truth, genes = np.array([true[arch] for arch in every]), space.encode(every)
    off = {
        "learned": learned(genes),
        "table": table(genes),
        "table, scaled": level * table(genes),
    }
    errors = {name: float(np.abs(predicted / truth - 1).mean()) for name, predicted in off.items()}
    said = ", ".join(f"{name} {100 * value:.1f} %" for name, value in errors.items())
    print(f"mean {np.mean(gains):+.3f} points, {sum(g > 0 for g in gains)} of {len(gains)} better")
    print(f"mean error on what the searches found: {said}")
    return {
        "space": space.name,
        "target": target.name,
        "resolutions": list(DEVICE_SIDES),
        "training_subnets": len(archs),
        "seeds_per_search": _DEVICE_SEEDS,
        "rows": rows,
        "table_points": [list(point) for point in points["table"]],
        "mean_difference_points": float(np.mean(gains)),
        "mean_relative_error_on_found": errors,
        "noisy_measurements": sum(result.noisy for result in timed),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument(
        "--device", metavar="TARGET", help="also measure, compiled for this target of this machine"
    )
    parser.add_argument(
        "--samples", type=int, default=40, help="subnets that the device's predictor learns from"
    )
    parser.add_argument(
        "--folder", type=Path, default=Path("search-benchmark"), help="keeps what was measured"
    )
    parser.add_argument("--parts", nargs="*", default=["quality", "speed", "claim"], help="besides --device")
    options = parser.parse_args()
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    data = Path(os.environ.get("OFA_TVM_DATA", beside))
    parts: dict[str, Callable[[], Any]] = {
        "quality": lambda: quality(data, options.seeds),
        "speed": lambda: speed(data),
        "claim": lambda: claim(data),
    }
    for name, part in parts.items():
        if name in options.parts:
            save(RESULTS / f"search_{name}.json", {name: part()})
    if options.device:
        save(RESULTS / "search_device.json", device(data, options.folder, options.device, options.samples))


if __name__ == "__main__":
    main()
