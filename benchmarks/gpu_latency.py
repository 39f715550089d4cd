"""Compiled subnets on a GPU against PyTorch and ONNX Runtime: `python benchmarks/gpu_latency.py`.

Random subnets at batch 1, in float32 or float16, compiled with the logs that are found (`--logs` and those
that ship), with and without a CUDA graph, beside PyTorch eager and compiled, PyTorch's CUDA graph, and
ONNX Runtime's CUDA provider (float32), as far as each is installed. All are called in this process in
interleaved rounds; every inference waits for the device, as one who needs its answer does. PyTorch computes
float32 as float32: TF32 is off unless `--tf32`. For a target without CUDA (`opencl-pocl`) the others run on
the CPU.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from provenance import save

import ofa_tvm
from ofa_tvm.export import export_onnx
from ofa_tvm.logs import KernelTable, find_records
from ofa_tvm.measurement import measure_callables
from ofa_tvm.runtime import load_module
from ofa_tvm.targets import Target

Call = Callable[[], np.ndarray]


def compiled(onnx: Path, so: Path, x: np.ndarray, target: Target, records: KernelTable, graph: bool) -> Call:
    """Our module, its input on the device; what comes back is its output there, ready."""
    ofa_tvm.compile(onnx, target, so, records=records, cuda_graph=graph)
    module = load_module(so)
    entry = module.tensor(x)

    def call() -> Any:
        result = module.vm.main(entry)
        module.device.sync()
        return result

    return call


def rivals(
    sub: torch.nn.Module, onnx: Path, x: np.ndarray, dtype: str, device: str
) -> Iterator[tuple[str, Call]]:
    """PyTorch and ONNX Runtime on the same network, input and dtype, each ready to be timed."""
    half = dtype == "float16"
    net = (sub.half() if half else sub.float()).eval().to(device)
    entry = torch.from_numpy(x).to(device)
    entry = entry.half() if half else entry

    def waiting(function: Callable[[], Any]) -> Callable[[], Any]:
        def call() -> Any:
            with torch.inference_mode():
                result = function()
            if device == "cuda":
                torch.cuda.synchronize()
            return result

        return call

    yield "torch", waiting(lambda: net(entry))
    fast = torch.compile(net)
    yield "torch.compile", waiting(lambda: fast(entry))
    if device == "cuda":
        stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
        with torch.inference_mode(), torch.cuda.stream(stream):
            for _ in range(3):
                net(entry)
        torch.cuda.synchronize()
        with torch.inference_mode(), torch.cuda.graph(graph):
            captured = net(entry)

        def replay() -> Any:
            graph.replay()
            return captured

        yield "torch CUDA graph", waiting(replay)
    import onnxruntime

    provider = "CUDAExecutionProvider" if device == "cuda" else "CPUExecutionProvider"
    if half or provider not in onnxruntime.get_available_providers():
        return
    session = onnxruntime.InferenceSession(str(onnx), providers=[provider])
    binding = session.io_binding()
    binding.bind_ortvalue_input("input", onnxruntime.OrtValue.ortvalue_from_numpy(x, device, 0))
    binding.bind_output(session.get_outputs()[0].name, device)

    def bound() -> Any:
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        return binding.get_outputs()[0]

    yield "onnxruntime", bound


def difference(result: Any, expected: np.ndarray) -> float:
    """Largest, as a share of the largest expected value."""
    got = result.cpu().float().numpy() if isinstance(result, torch.Tensor) else result.numpy()
    return float(np.abs(got.reshape(expected.shape) - expected).max() / np.abs(expected).max())


def hardware(device: str) -> dict[str, str]:
    """Name and driver of the GPU."""
    found = {"torch": torch.__version__}
    if device == "cuda":
        found["gpu"] = torch.cuda.get_device_name()
    if smi := shutil.which("nvidia-smi"):
        query = [smi, "--query-gpu=driver_version", "--format=csv,noheader"]
        found["driver"] = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--space", default="ofa_mbv3_w1.0")
    parser.add_argument("--target", default="cuda")
    parser.add_argument("--dtype", default="float32", choices=["float32", "float16"])
    parser.add_argument("--resolutions", type=int, nargs="+", default=[160, 192, 224])
    parser.add_argument("-n", type=int, default=6, help="subnets")
    parser.add_argument("--logs", type=Path, nargs="*", default=[], help="folders of tuning logs")
    parser.add_argument("--tf32", action="store_true", help="let PyTorch compute float32 in TF32")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    space, target = ofa_tvm.get_space(options.space), ofa_tvm.get_target(options.target)
    target = target.with_dtype(options.dtype)
    device = "cuda" if target.kind == "cuda" else "cpu"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = options.tf32
    records = find_records(target, options.logs)
    net = ofa_tvm.build_supernet(space, n_classes=1000).eval()
    rng = np.random.default_rng(options.seed)
    rows: list[dict[str, Any]] = []
    for number in range(options.n):
        arch = space.sample(rng).replace(r=options.resolutions[number % len(options.resolutions)])
        sub = net.extract(arch).eval()
        x = rng.standard_normal((1, 3, arch.r, arch.r)).astype(np.float32)
        with torch.inference_mode():
            expected = sub(torch.from_numpy(x)).numpy()
        with tempfile.TemporaryDirectory() as name:
            onnx = Path(name) / "m.onnx"
            export_onnx(sub, onnx, resolution=arch.r)
            subjects = {"ofa-tvm": compiled(onnx, Path(name) / "m.so", x, target, records, False)}
            if device == "cuda":
                subjects["ofa-tvm CUDA graph"] = compiled(onnx, Path(name) / "g.so", x, target, records, True)
            subjects |= dict(rivals(sub, onnx, x, options.dtype, device))
            off = {title: difference(call(), expected) for title, call in subjects.items()}
            timed = measure_callables(subjects, target)
        costs = {title: timed[title].cost for title in subjects}
        own = min(cost for title, cost in costs.items() if title.startswith("ofa-tvm"))
        best = min(cost for title, cost in costs.items() if not title.startswith("ofa-tvm"))
        rows.append(
            {
                "arch": arch.to_json(),
                "macs": space.macs(arch),
                "ms": costs,
                "mad_ms": {title: timed[title].mad_ms for title in subjects},
                "difference": off,
                "over_best_other": own / best,
            }
        )
        shown = ", ".join(f"{title} {cost:.4f} (off {off[title]:.0e})" for title, cost in costs.items())
        print(f"r {arch.r}, {space.macs(arch) / 1e6:.0f} M MACs, ms: {shown}; "
              f"{own / best:.2f} of the best other", flush=True)  # fmt: skip
    mean = float(np.exp(np.mean([np.log(row["over_best_other"]) for row in rows])))
    print(f"{target.name} {options.dtype}, batch 1: geometric mean {mean:.3f} of the best other's time")
    if options.json:
        settings = vars(options) | {"logs": [str(p) for p in options.logs], "json": None}
        save(options.json, {**hardware(device), "settings": settings, "rows": rows, "geometric_mean": mean})


if __name__ == "__main__":
    main()
