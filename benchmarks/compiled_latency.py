"""Compiled subnets against ONNX Runtime and PyTorch: `python benchmarks/compiled_latency.py`.

Random subnets that nobody tuned for are compiled with the logs that are found (`--logs` and those that ship)
and timed on one image, in interleaved rounds, pinned, with the same number of threads. ONNX Runtime runs with
all its graph optimisations. Ratios are paired by round.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from provenance import save

import ofa_tvm
from ofa_tvm.export import export_onnx
from ofa_tvm.logs import find_records
from ofa_tvm.measurement import Measurer, measure_callables, torch_subject

RESULTS = Path(__file__).resolve().parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--space", default="ofa_mbv3_w1.0")
    parser.add_argument("--resolutions", type=int, nargs="+", default=[160, 192, 224])
    parser.add_argument("-n", type=int, default=12, help="subnets")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--logs", type=Path, nargs="*", default=[], help="folders of tuning logs")
    parser.add_argument("--torch", action="store_true", help="time eager PyTorch as well")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    space = ofa_tvm.get_space(options.space)
    target = ofa_tvm.get_target("x86").with_threads(options.threads)
    records = find_records(target, options.logs)
    net = ofa_tvm.build_supernet(space, n_classes=1000).eval()
    rng = np.random.default_rng(options.seed)
    rows: list[dict[str, Any]] = []
    print(f"{'r':>4} {'M MACs':>7} {'tuned':>6} {'ofa-tvm ms':>11} {'ORT ms':>8} {'ratio':>6} "
          f"{'GFLOP/s':>8} {'kernel sum':>11} {'compile s':>10} {'PyTorch ms':>11}")  # fmt: skip
    with Measurer(target) as measurer, tempfile.TemporaryDirectory() as name:
        for number in range(options.n):
            arch = space.sample(rng).replace(r=options.resolutions[number % len(options.resolutions)])
            sub = net.extract(arch)
            onnx, so = Path(name) / f"{number}.onnx", Path(name) / f"{number}.so"
            export_onnx(sub, onnx, resolution=arch.r)
            start = time.perf_counter()
            module = ofa_tvm.compile(onnx, target, so, records=records)
            compile_s = time.perf_counter() - start
            ours, theirs = measurer.measure_many([so, onnx])
            eager = None
            if options.torch:
                x = rng.standard_normal((1, 3, arch.r, arch.r)).astype(np.float32)
                eager = measure_callables({"torch": torch_subject(sub, x)}, target)["torch"].median_ms
            ratio = (
                float(np.median(np.array(ours.samples_ms) / np.array(theirs.samples_ms)))
                if len(ours.samples_ms) == len(theirs.samples_ms)
                else ours.cost / theirs.cost
            )
            row = {
                "arch": arch.to_json(),
                "r": arch.r,
                "macs": space.macs(arch),
                "tuned_fraction": module.tuned_fraction,
                "ofa_tvm_ms": ours.cost,
                "mad_ms": ours.mad_ms,
                "onnxruntime_ms": theirs.cost,
                "ratio": ratio,
                "gflops_per_s": 2 * space.macs(arch) / ours.cost / 1e6,
                "kernel_sum_ms": sum((k.cost or 0.0) * k.calls for k in module.kernels),
                "compile_s": compile_s,
                "pytorch_ms": eager,
            }
            rows.append(row)
            print(f"{arch.r:4} {row['macs'] / 1e6:7.1f} {row['tuned_fraction']:6.2f} {ours.cost:11.3f} "
                  f"{theirs.cost:8.3f} {ratio:6.3f} {row['gflops_per_s']:8.1f} {row['kernel_sum_ms']:11.3f} "
                  f"{compile_s:10.2f} {eager or float('nan'):11.3f}", flush=True)  # fmt: skip
    ratios = np.array([row["ratio"] for row in rows])
    geometric = float(np.exp(np.log(ratios).mean()))
    print(f"time over ONNX Runtime's: geometric mean {geometric:.3f}, worst {ratios.max():.3f}, "
          f"{options.threads} thread(s)")  # fmt: skip
    if options.json:
        content = {"settings": vars(options) | {"logs": [str(p) for p in options.logs]}, "rows": rows}
        content["settings"].pop("json")
        save(options.json, {**content, "geometric_mean_ratio": geometric, "worst_ratio": float(ratios.max())})


if __name__ == "__main__":
    main()
