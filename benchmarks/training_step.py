"""Time of a training step: `python benchmarks/training_step.py`.

Four sampled subnets of ofa_mbv3_w1.0 on one batch of 32 images at 128 pixels: forward, backward, update; once
without a teacher, once with the full net as one. `make_step` returns a function that takes a batch, and
`time_steps` times several of them in turns, so that another implementation can be timed beside this one:
`--peer MODULE` does that with the module's own `make_step`; `--peer official` is the official code's.

Without a peer the ratio is to what is known of the official code on another machine, and the output says so.
The four subnets are the same in every step; at 128 pixels they have 91.1 M MACs on average, the space 91.9 M.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from provenance import save
from torch import Tensor

from ofa_tvm.number_formats import Arithmetic
from ofa_tvm.spaces import get_space
from ofa_tvm.supernet import build_supernet, set_dtype
from ofa_tvm.targets.machine import detect_machine
from ofa_tvm.training import paper_config
from ofa_tvm.training.memory import keep_freed_memory
from ofa_tvm.training.optimiser import build_optimiser, set_learning_rate
from ofa_tvm.training.step import MicroBatch, gradient_scaler, training_step

Step = Callable[[Tensor, Tensor], float]
OFFICIAL_S = 5.5  # the official implementation on one Zen 4 core, as issue 3 states it


def make_step(
    *,
    subnets: int = 4,
    resolution: int = 128,
    teacher: bool = False,
    dtype: Arithmetic = "float32",
    seed: int = 0,
    **settings: Any,
) -> Step:
    """A step of (images (n, 3, r, r), targets (n,)) that returns its loss; the same subnets in every call."""
    space = get_space("ofa_mbv3_w1.0")
    config = paper_config(space).replace(**settings)
    device = torch.device("cuda" if config.device != "cpu" and torch.cuda.is_available() else "cpu")
    torch.manual_seed(seed)
    net = build_supernet(space, dropout=config.dropout).to(device).train()
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    full = net.extract(space.max_arch()).train().requires_grad_(False) if teacher else None
    set_dtype(net, dtype)
    optimiser = build_optimiser(net, config.momentum, config.weight_decay)
    set_learning_rate(optimiser, 1e-3)
    rng = np.random.default_rng(seed)
    archs = [space.sample(rng).replace(r=resolution) for _ in range(subnets)]
    scaler = gradient_scaler(config, device)

    def step(images: Tensor, targets: Tensor) -> float:
        placed = images.to(device, memory_format=torch.channels_last)
        batch = MicroBatch(placed, targets.to(device), 0)
        return training_step(net, optimiser, [batch], archs, config, full, scaler=scaler)

    return step


def time_steps(
    steps: Mapping[str, Step], batch: tuple[Tensor, Tensor], repeats: int = 5
) -> dict[str, list[float]]:
    """Seconds of each step in turns, after one unmeasured round."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for round_ in range(repeats + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            step(*batch)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if round_:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--resolution", type=int, default=128)
    parser.add_argument("--freed-memory", choices=["keep", "return"], default="keep",
                        help="what malloc does with it; training keeps it")  # fmt: skip
    parser.add_argument("--peer", help="module of another implementation, with a make_step of its own")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.freed_memory == "keep":
        keep_freed_memory()
    batch = (torch.randn(options.batch, 3, options.resolution, options.resolution),
             torch.randint(1000, (options.batch,)))  # fmt: skip
    steps: dict[str, Step] = {
        "4 subnets": make_step(resolution=options.resolution),
        "4 subnets, teacher": make_step(resolution=options.resolution, teacher=True),
        "4 subnets, teacher, int8": make_step(resolution=options.resolution, teacher=True, dtype="int8"),
        "4 subnets, bfloat16": make_step(resolution=options.resolution, precision="bfloat16"),
    }
    if options.peer:
        peer = importlib.import_module(options.peer)
        for variant, settings in getattr(peer, "VARIANTS", {"as it is": {}}).items():
            for name, teacher in (("4 subnets", False), ("4 subnets, teacher", True)):
                step = peer.make_step(resolution=options.resolution, teacher=teacher, **settings)
                steps[f"{options.peer}, {variant}: {name}"] = step
    seconds = time_steps(steps, batch, options.repeats)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else detect_machine().model
    print(f"{device}, {options.threads} threads, batch {options.batch} at {options.resolution}")
    rows = []
    for name, times in seconds.items():
        median = statistics.median(times)
        row = {"step": name, "median_s": median, "least_s": min(times), "samples_s": times}
        line = f"{name:45} {median:7.3f} s  least {min(times):7.3f} s"
        for other, theirs in seconds.items():
            if other.endswith(f": {name}"):
                variant = other.partition(":")[0]
                row[f"of {variant}"] = median / statistics.median(theirs)
                line += f"  {row[f'of {variant}']:5.2f} of {variant}"
        if not options.peer:
            row["of_official"] = median / OFFICIAL_S
            line += f"  {median / OFFICIAL_S:5.2f} of the official code's {OFFICIAL_S} s on a core of a Zen 4"
        rows.append(row)
        print(line)
    if options.json:
        record = {
            "device": device, "threads": options.threads,
            "batch": options.batch, "resolution": options.resolution, "freed_memory": options.freed_memory,
            "peer_measured_in_this_run": bool(options.peer), "rows": rows,
        }  # fmt: skip
        save(options.json, record)


if __name__ == "__main__":
    main()
