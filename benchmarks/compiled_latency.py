"""Compiled subnets against other runtimes: `python benchmarks/compiled_latency.py`.

Random subnets that nobody tuned for are compiled with the logs that are found (`--logs` and those that ship)
and timed on one image beside ONNX Runtime (all its graph optimisations), in interleaved rounds, pinned, with
the same number of threads; ratios are paired by round. `--rivals` times OpenVINO, PyTorch and torch.compile,
each beside ONNX Runtime too, on the first `--rivals-n` subnets. `--classes` says which share of a core's peak
each class of kernels reaches inside the network. `--specialized FOLDER` takes the published specialised
networks of a folder (`net.config` and `run.config` each) in place of random subnets.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from peak import peak_gflops
from provenance import save

import ofa_tvm
from ofa_tvm.compiler.cpu_model import cpu_model
from ofa_tvm.export import export_onnx, load_net_config, published_resolution
from ofa_tvm.logs import find_records
from ofa_tvm.measurement import KernelTime, Measurer, measure_callables, profile, torch_subject
from ofa_tvm.measurement.pinning import pinned
from ofa_tvm.number_formats import DTYPES
from ofa_tvm.spaces.network import Layer, network_layers
from ofa_tvm.targets import Target

RESULTS = Path(__file__).resolve().parent / "results"
RIVALS = ("openvino", "torch", "torch.compile")


@dataclass(frozen=True)
class Subject:
    """A network to compile: its name (an architecture or a folder), its side in pixels, its layers."""

    name: str
    net: Any
    side: int

    @property
    def layers(self) -> tuple[Layer, ...]:
        return network_layers(self.net.spec, self.side)

    @property
    def macs(self) -> int:
        return sum(layer.macs for layer in self.layers)


def random_subnets(space_name: str, n: int, sides: Sequence[int], seed: int) -> Iterator[Subject]:
    """Of a space, on the given sides in turn; their weights are random."""
    space, rng = ofa_tvm.get_space(space_name), np.random.default_rng(seed)
    net = ofa_tvm.build_supernet(space, n_classes=1000).eval()
    for number in range(n):
        arch = space.sample(rng).replace(r=sides[number % len(sides)])
        yield Subject(arch.to_json(), net.extract(arch), arch.r)


def published(folder: Path) -> Iterator[Subject]:
    """The specialised networks in a folder, on the sides that they were published for; random weights."""
    for path in sorted(folder.iterdir()):
        yield Subject(path.name, load_net_config(path), published_resolution(path) or 224)


def rival(name: str, sub: Any, onnx: Path, x: np.ndarray, threads: int) -> Callable[[], object]:
    """One inference of another runtime."""
    if name == "onnxruntime":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        session = onnxruntime.InferenceSession(str(onnx), options, providers=["CPUExecutionProvider"])
        return lambda: session.run(None, {"input": x})
    if name == "openvino":
        import openvino

        settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
        model = openvino.Core().compile_model(
            str(onnx), "CPU", settings | {"INFERENCE_PRECISION_HINT": "f32"}
        )
        request = model.create_infer_request()
        return lambda: request.infer({"input": x}, share_inputs=True, share_outputs=True)
    if name == "torch":
        return torch_subject(sub, x)
    import torch

    return torch_subject(torch.compile(sub.eval()), x)


def ratio(ours: Any, theirs: Any) -> float:
    """Of two interleaved measurements, paired by round."""
    if len(ours.samples_ms) != len(theirs.samples_ms):
        return float(ours.cost / theirs.cost)
    return float(np.median(np.array(ours.samples_ms) / np.array(theirs.samples_ms)))


def classes(layers: Sequence[Layer], calls: tuple[KernelTime, ...]) -> dict[str, tuple[float, float]]:
    """Operations (of the network as published: no padding, no epilogues) and microseconds of each class."""
    found = {name: [0.0, 0.0] for name in ("1x1", "depthwise", "stem", "one pixel", "other")}
    for layer in layers:
        if layer.kind != "pool":
            kind = "depthwise" if layer.kind == "depthwise" else "stem" if layer.kernel > 1 else "1x1"
            if kind == "1x1" and layer.h_out <= 1:
                kind = "one pixel"
            found[kind][0] += 2 * layer.macs
    for call in calls:
        operator, (first, *_) = call.signature.operators[0], call.signature.shapes[0]
        if operator == "matmul":
            kind = "one pixel" if first == 1 else "1x1"
        else:
            kind = {"depthwise-conv2d": "depthwise", "conv2d": "stem"}.get(operator, "other")
        found[kind][1] += call.median_us
    return {name: (flops, us) for name, (flops, us) in found.items()}


def geometric(values: list[float]) -> float:
    return float(np.exp(np.log(values).mean()))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--space", default="ofa_mbv3_w1.0")
    parser.add_argument("--target", default="x86")
    parser.add_argument("--resolutions", type=int, nargs="+", default=[160, 192, 224])
    parser.add_argument("-n", type=int, default=12, help="subnets")
    parser.add_argument("--specialized", type=Path, help="folder of published networks, in place of subnets")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--logs", type=Path, nargs="*", default=[], help="folders of tuning logs")
    parser.add_argument("--rivals", nargs="*", default=[], choices=RIVALS)
    parser.add_argument("--rivals-n", type=int, default=3, help="subnets that rivals are timed on")
    parser.add_argument(
        "--classes", action="store_true", help="time the kernels inside the network (1 thread)"
    )
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    target = ofa_tvm.get_target(options.target).with_threads(options.threads).with_dtype(options.dtype)
    records = find_records(target, options.logs)
    subjects = (
        published(options.specialized)
        if options.specialized
        else random_subnets(options.space, options.n, options.resolutions, options.seed)
    )
    rows: list[dict[str, Any]] = []
    totals: dict[str, list[float]] = {}
    print(f"{'r':>4} {'M MACs':>7} {'tuned':>6} {'ofa-tvm ms':>11} {'ORT ms':>8} {'ratio':>6} "
          f"{'GFLOP/s':>8} {'compile s':>10} {'again s':>8}")  # fmt: skip
    with Measurer(target) as measurer, tempfile.TemporaryDirectory() as name:
        for number, subject in enumerate(subjects):
            onnx, so = Path(name) / f"{number}.onnx", Path(name) / f"{number}.so"
            export_onnx(subject.net, onnx, resolution=subject.side)
            seconds = []
            for _ in range(2):
                start = time.perf_counter()
                module = ofa_tvm.compile(onnx, target, so, records=records)
                seconds.append(time.perf_counter() - start)
            ours, theirs = measurer.measure_many([so, onnx])
            row: dict[str, Any] = {
                "arch": subject.name,
                "r": subject.side,
                "macs": subject.macs,
                "tuned_fraction": module.tuned_fraction,
                "ofa_tvm_ms": ours.cost,
                "mad_ms": ours.mad_ms,
                "onnxruntime_ms": theirs.cost,
                "ratio": ratio(ours, theirs),
                "gflops_per_s": 2 * subject.macs / ours.cost / 1e6,
                "compile_s": seconds[0],
                "compile_again_s": seconds[1],
            }
            print(f"{subject.side:4} {row['macs'] / 1e6:7.1f} {row['tuned_fraction']:6.2f} {ours.cost:11.3f} "
                  f"{theirs.cost:8.3f} {row['ratio']:6.3f} {row['gflops_per_s']:8.1f} "
                  f"{seconds[0]:10.2f} {seconds[1]:8.2f}", flush=True)  # fmt: skip
            if number < options.rivals_n and options.rivals:
                x = np.random.default_rng(number).standard_normal((1, 3, subject.side, subject.side))
                x = x.astype(np.float32)
                calls = {rival_name: rival(rival_name, subject.net, onnx, x, options.threads)
                         for rival_name in ("onnxruntime", *options.rivals)}  # fmt: skip
                timed = measure_callables(calls, target)
                row["rivals_over_onnxruntime"] = {
                    rival_name: ratio(timed[rival_name], timed["onnxruntime"])
                    for rival_name in options.rivals
                }
                found = ", ".join(f"{k} {v:.2f}" for k, v in row["rivals_over_onnxruntime"].items())
                print(f"     time over ONNX Runtime's: {found}")
            if options.classes:
                ofa_tvm.compile(onnx, target, so, records=records, profile=True)
                for kind, (flops, us) in classes(subject.layers, profile(so)).items():
                    total = totals.setdefault(kind, [0.0, 0.0])
                    total[0] += flops
                    total[1] += us
            rows.append(row)
    ratios = [row["ratio"] for row in rows]
    print(f"time over ONNX Runtime's: geometric mean {geometric(ratios):.3f}, worst {max(ratios):.3f}, "
          f"{options.threads} thread(s)")  # fmt: skip
    content: dict[str, Any] = {
        "settings": vars(options)
        | {"logs": [str(p) for p in options.logs], "json": None}
        | {"specialized": options.specialized and options.specialized.name},
        "rows": rows,
        "geometric_mean_ratio": geometric(ratios),
        "worst_ratio": max(ratios),
    }
    for rival_name in options.rivals:
        values = [
            row["rivals_over_onnxruntime"][rival_name] for row in rows if "rivals_over_onnxruntime" in row
        ]
        content.setdefault("rivals_over_onnxruntime", {})[rival_name] = geometric(values)
        print(f"{rival_name}: {geometric(values):.2f} of ONNX Runtime's time ({len(values)} subnets)")
    if options.classes:
        content["classes"] = class_table(target, totals)
    if options.json:
        save(options.json, content)


def class_table(target: Target, totals: dict[str, list[float]]) -> dict[str, Any]:
    """Print and return what each class of kernels and the whole network reach of a core's peak."""
    with pinned(1):
        peak = peak_gflops(target, cpu_model(target.tvm_target()).lanes)
    all_us = sum(us for _, us in totals.values())
    rows = {**totals, "network": [sum(flops for flops, _ in totals.values()), all_us]}
    print(
        f"{'class':10} {'% of time':>9} {'GFLOP/s':>8} {'% of peak':>9}   (peak of a core {peak:.0f} GFLOP/s)"
    )
    table = {}
    for kind, (flops, us) in rows.items():
        gflops = flops / us / 1e3 if us else 0.0
        table[kind] = {"share": us / all_us, "gflops_per_s": gflops, "of_peak": gflops / peak}
        print(f"{kind:10} {100 * us / all_us:9.1f} {gflops:8.1f} {100 * gflops / peak:9.1f}")
    return {"peak_gflops_per_s": peak, **table}


if __name__ == "__main__":
    main()
