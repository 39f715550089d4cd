"""Rates that `docs/at-scale.md` multiplies, of one core of this machine: `python benchmarks/at_scale.py`.

`seconds` are of the clock, `cpu_seconds` of this process: on a machine with other work only these count.
Evaluating a subnet (calibration and counting in PyTorch), compiling and measuring one for a latency table,
adapting the model that ships by such a table, and writing to a cache that several processes share.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from provenance import save

import ofa_tvm
from ofa_tvm.accuracy.evaluate import evaluate_subnets
from ofa_tvm.latency.bench import Measured, SubnetBench
from ofa_tvm.latency.collect import collect
from ofa_tvm.lines import append_line
from ofa_tvm.logs import find_records
from ofa_tvm.spaces import Arch
from ofa_tvm.training import digits
from ofa_tvm.training.distributed import choose_device

RESULTS = Path(__file__).resolve().parent / "results" / "at_scale.json"
CALIBRATION = 100
APPENDS = 300


class TimedBench(SubnetBench):
    """Knows how long measuring took: what is left of the whole time is compiling."""

    measuring_s = 0.0

    def each(self, groups, work, reference=None, *, repeats=None):  # type: ignore[no-untyped-def]
        def timed(group: Sequence[Arch], measure: Measured) -> None:
            start = time.perf_counter()
            work(group, measure)
            self.measuring_s += time.perf_counter() - start

        super().each(groups, timed, reference, repeats=repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--space", default="ofa_mbv3_w1.0")
    parser.add_argument("--device", default="cpu", help="of the evaluation: cpu or cuda")
    parser.add_argument("--evaluated", type=int, default=3, help="subnets to evaluate")
    parser.add_argument("--rows", type=int, default=10, help="subnets to compile and measure")
    parser.add_argument("--json", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    space, target, data = ofa_tvm.get_space(options.space), ofa_tvm.get_target("x86"), digits()
    net = ofa_tvm.build_supernet(space, data.n_classes).to(choose_device(options.device))
    archs = space.decode(space.sample_genes(np.random.default_rng(0), options.evaluated))
    for side in sorted({arch.r for arch in archs}):
        data.resized("train", side), data.resized("val", side)  # once for all subnets of a run
    start, cpu = time.perf_counter(), time.process_time()
    evaluate_subnets(net, archs, data, calibration_images=CALIBRATION)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    images = options.evaluated * (CALIBRATION + data.size("val"))
    result = {"evaluate": {"device": options.device, "images": images, "seconds": seconds,
                           "cpu_seconds": cpu, "images_per_s": images / seconds}}  # fmt: skip
    print(result)

    with tempfile.TemporaryDirectory() as folder:
        table, cache = Path(folder) / "lat.csv", Path(folder) / "cache.jsonl"
        sides, records = space.default_resolutions, find_records(target, [])
        start, cpu = time.perf_counter(), time.process_time()
        with TimedBench(ofa_tvm.build_supernet(space, 1000).eval(), target, records) as bench:
            collect(bench, table, options.rows, sides)
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        result["collect"] = {"rows": options.rows, "seconds": seconds, "cpu_seconds": cpu,
                             "measuring_s": bench.measuring_s,
                             "compile_s_a_row": (seconds - bench.measuring_s) / options.rows,
                             "measure_s_a_row": bench.measuring_s / options.rows}  # fmt: skip
        print(result["collect"])
        start = time.perf_counter()
        words = ["predictor", "adapt", "--data", table, "-o", Path(folder) / "x86.model"]
        subprocess.run([sys.executable, "-m", "ofa_tvm", *map(str, words)], check=True, cwd=folder)
        result["adapt"] = {"rows": options.rows, "seconds": time.perf_counter() - start}
        print(result["adapt"])
        line = json.dumps({"key": "0" * 32, "arch": archs[0].to_dict(), "accuracy": 0.75})
        start = time.perf_counter()
        for _ in range(APPENDS):
            append_line(cache, line)
        result["append"] = {"lines": APPENDS, "seconds": time.perf_counter() - start,
                            "bytes_a_line": len(line) + 1}  # fmt: skip
        print(result["append"])
    save(options.json, {"space": options.space, **result})


if __name__ == "__main__":
    main()
