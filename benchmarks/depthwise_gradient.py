"""Time of depthwise convolutions' weight gradient on a CPU: `python benchmarks/depthwise_gradient.py`.

PyTorch's and our own, in turns, on layers of ofa_mbv3_w1.0 at 128 pixels, 32 images in channels-last order;
beside them the forward pass, which does as many multiplications.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from provenance import save
from torch import Tensor
from training_step import Step, time_steps

from ofa_tvm.supernet.depthwise import depthwise_conv2d, weight_gradient
from ofa_tvm.training.memory import keep_freed_memory

RESULTS = Path(__file__).resolve().parent / "results" / "depthwise_gradient.json"
# channels, side of the input, kernel, stride
LAYERS = (
    (64, 64, 7, 2), (96, 32, 5, 1), (96, 32, 7, 1), (144, 32, 5, 2), (144, 32, 7, 2), (240, 16, 5, 1),
    (240, 16, 7, 1), (480, 8, 5, 1), (480, 8, 7, 1), (672, 8, 7, 2), (960, 4, 5, 1), (960, 4, 7, 1),
)  # fmt: skip


def steps_of(x: Tensor, weight: Tensor, stride: int) -> dict[str, Step]:
    """The forward pass, and the weight gradient both ways, as functions of (images, output gradient)."""
    padding, groups = weight.shape[-1] // 2, len(weight)
    outputs = {
        "PyTorch": F.conv2d(x, weight, None, stride, padding, groups=groups),
        "ours": depthwise_conv2d(x, weight, stride),
    }

    def forward(images: Tensor, gradient: Tensor) -> float:
        with torch.no_grad():
            F.conv2d(images, weight, None, stride, padding, groups=groups)
        return 0.0

    def backward(output: Tensor) -> Step:
        def step(images: Tensor, gradient: Tensor) -> float:
            torch.autograd.grad(output, weight, gradient, retain_graph=True)
            return 0.0

        return step

    return {"forward": forward, **{name: backward(output) for name, output in outputs.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--json", type=Path, default=RESULTS, help="write the figures to this file")
    options = parser.parse_args()
    if problem := weight_gradient()[1]:
        sys.exit(f"error: {problem}")
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    rows = []
    for channels, side, kernel, stride in LAYERS:
        x = torch.randn(options.images, channels, side, side).contiguous(memory_format=torch.channels_last)
        weight = torch.randn(channels, 1, kernel, kernel, requires_grad=True)
        gradient = torch.randn_like(depthwise_conv2d(x, weight, stride))
        times = time_steps(steps_of(x, weight, stride), (x, gradient), options.repeats)
        median_ms = {name: 1e3 * statistics.median(samples) for name, samples in times.items()}
        speedup = median_ms["PyTorch"] / median_ms["ours"]
        rows.append({"channels": channels, "side": side, "kernel": kernel, "stride": stride,
                     "median_ms": median_ms, "speedup": speedup})  # fmt: skip
        shown = ", ".join(f"{name} {value:.2f} ms" for name, value in median_ms.items())
        print(
            f"{channels:4} channels of {side:2}, {kernel}x{kernel}, stride {stride}: {shown}, {speedup:.1f} x"
        )
    save(options.json, {"threads": options.threads, "images": options.images, "rows": rows})


if __name__ == "__main__":
    main()
