"""Our tuner against TVM's own `tune_relax`, on the same kernels: `python benchmarks/stock_tuning.py`.

One inverted residual block (expansion, depthwise convolution, projection) is lowered by our compiler; its
kernels are tuned by `tune_relax` with its default builder, runner and search, then by `tune_kernels` for a
tenth of that time. The best schedules of both are then timed in turns.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
import tvm
import tvm_ffi
from provenance import save
from tvm.s_tir import meta_schedule as ms

import ofa_tvm
from ofa_tvm.compiler.build import kernels_of, lower_onnx
from ofa_tvm.compiler.traces import scheduled_by_trace
from ofa_tvm.measurement.pinning import pinned
from ofa_tvm.targets import detect_machine
from ofa_tvm.tuning import tune_kernels
from ofa_tvm.tuning.local import LocalRunner

RESULTS = Path(__file__).resolve().parent / "results" / "stock_tuning.json"


def block(c_in: int, expansion: int, kernel: int, side: int) -> onnx.ModelProto:
    """An inverted residual block with ReLU and a skip connection."""
    rng, width = np.random.default_rng(0), c_in * expansion
    weights = {
        "w0": rng.standard_normal((width, c_in, 1, 1)),
        "b0": rng.standard_normal(width),
        "w1": rng.standard_normal((width, 1, kernel, kernel)),
        "b1": rng.standard_normal(width),
        "w2": rng.standard_normal((c_in, width, 1, 1)),
        "b2": rng.standard_normal(c_in),
    }
    node, pad = onnx.helper.make_node, kernel // 2
    nodes = [
        node("Conv", ["x", "w0", "b0"], ["a"]),
        node("Relu", ["a"], ["b"]),
        node("Conv", ["b", "w1", "b1"], ["c"], group=width, pads=[pad] * 4),
        node("Relu", ["c"], ["d"]),
        node("Conv", ["d", "w2", "b2"], ["e"]),
        node("Add", ["e", "x"], ["y"]),
    ]
    shape = [1, c_in, side, side]
    graph = onnx.helper.make_graph(
        nodes,
        "block",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, shape)],
        [onnx.numpy_helper.from_array(v.astype(np.float32), name) for name, v in weights.items()],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--target", default="x86")
    parser.add_argument("--trials", type=int, default=64, help="of tune_relax, for each kernel")
    parser.add_argument("--json", type=Path, default=RESULTS)
    options = parser.parse_args()
    logging.disable(logging.INFO)

    target = ofa_tvm.get_target(options.target)
    tvm_target = target.tvm_target()
    mod = lower_onnx(block(40, 6, 5, 28), target)
    kernels = [k for k in kernels_of(mod).values() if k.flops > 1e6]
    with tempfile.TemporaryDirectory() as name:
        work, root = Path(name) / "stock", Path(name) / "ours"
        start = time.perf_counter()
        database = ms.relax_integration.tune_relax(
            mod, {}, tvm_target, str(work), max_trials_global=options.trials * len(kernels_of(mod)),
            max_trials_per_task=options.trials, seed=0,
        )  # fmt: skip
        stock_s = time.perf_counter() - start
        stock_trials = len(database.get_all_tuning_records())
        allowed_s = stock_s / 10
        start, trials, made = time.perf_counter(), 4, 0
        while (left := allowed_s - (time.perf_counter() - start)) > 0:
            result = tune_kernels(kernels, target, root, trials=trials, seconds=left)
            made, trials = made + result.trials, 2 * trials
            if result.complete and not result.trials:
                break  # every schedule of the templates was tried
        ours_s, table = time.perf_counter() - start, result.records
        rows = []
        for kernel in kernels:
            best = table.best(kernel.key)
            # tune_relax normalises what it tunes; the anchor block is compared through the same kernel.
            sch = None
            for record in database.get_all_tuning_records():
                fits = tvm_ffi.structural_equal(
                    record.workload.mod["main"].without_attr("global_symbol"),
                    kernel.mod["main"].without_attr("global_symbol"),
                )
                if fits or _same_shapes(record.workload.mod["main"], kernel.mod["main"]):
                    sch = database.query_schedule(record.workload.mod, tvm_target, "main")
                    break
            if best is None or sch is None:
                print(f"{kernel.name}: {'we' if best is None else 'tune_relax'} found no schedule")
                continue
            ours = scheduled_by_trace(kernel.mod, best.trace)
            with pinned(1):
                runner = LocalRunner(kernel.mod, tvm_target, (detect_machine().l2_kib or 1024) << 10)
                calls = [tvm.compile(s.mod, target=tvm_target)["main"] for s in (ours, sch)]
                mine, theirs = (float(np.median(t)) * 1e6 for t in runner.in_turns(calls, 15))
            rows.append({"kernel": kernel.name, "ours_us": mine, "stock_us": theirs})
            print(f"{kernel.name}: ours {mine:.1f} us, tune_relax {theirs:.1f} us")
    ours_pace, stock_pace = 60 * made / ours_s, 60 * stock_trials / stock_s
    print(f"tune_relax: {stock_trials} trials in {stock_s:.0f} s, {stock_pace:.0f} a minute; ours: "
          f"{made} in {ours_s:.0f} s, {ours_pace:.0f} a minute")  # fmt: skip
    save(
        options.json,
        {
            "settings": {"target": options.target, "trials": options.trials},
            "stock": {"trials": stock_trials, "seconds": stock_s, "per_minute": stock_pace},
            "ours": {"trials": made, "seconds": ours_s, "per_minute": ours_pace},
            "kernels": rows,
        },
    )


def _same_shapes(a: tvm.tirx.PrimFunc, b: tvm.tirx.PrimFunc) -> bool:
    shapes = [[tuple(int(d) for d in buffer.shape) for buffer in f.params] for f in (a, b)]
    return bool(shapes[0] == shapes[1])


if __name__ == "__main__":
    main()
