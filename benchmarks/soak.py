"""One runner, many threads, many calls: `python benchmarks/soak.py`.

Each thread calls the runner with inputs in an order of its own, in turns with ordinary arrays, aligned ones
and an output of its own, and compares every output, bit for bit, with the one that a single thread got.
Memory is read ten times on the way.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from provenance import save

import ofa_tvm
from ofa_tvm.runtime import Runner
from ofa_tvm.spaces import Space

INPUTS = 32
LOOKS = 10


def network(space: Space, threads: int, folder: Path) -> Path:
    """A random subnet of a space as a compiled module."""
    net = ofa_tvm.build_supernet(space)
    sub = net.extract(space.sample(np.random.default_rng(0)))
    ofa_tvm.export_onnx(sub, folder / "m.onnx", resolution=space.resolutions[0], batch=1)
    ofa_tvm.compile(folder / "m.onnx", ofa_tvm.get_target("x86").with_threads(threads), folder / "m.so")
    return folder / "m.so"


def caller(run: Runner, seed: int, calls: int, inputs: list[np.ndarray], expected: list[np.ndarray]) -> int:
    """Wrong answers among so many calls."""
    rng = np.random.default_rng(seed)
    (aligned,) = run.empty_inputs()
    out = np.empty_like(expected[0])
    wrong = 0
    for call, index in enumerate(rng.integers(len(inputs), size=calls)):
        if call % 3 == 0:
            result = run(inputs[index])
        elif call % 3 == 1:
            aligned[...] = inputs[index]
            result = run(aligned)
        else:
            result = run(inputs[index], out=out)
        wrong += not np.array_equal(np.asarray(result), expected[index])
    return wrong


def resident_mb() -> dict[str, float]:
    """Resident memory of this process: without a file behind it, and from files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    sizes = {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines if line.startswith("Rss")}
    return {name: round(sizes[name], 1) for name in ("RssAnon", "RssFile")}


def soak(run: Runner, threads: int, calls: int) -> dict[str, Any]:
    """Wrong answers, seconds, and memory after each tenth."""
    rng = np.random.default_rng(0)
    shape = run.inputs[0].shape
    inputs = [rng.standard_normal(shape).astype(np.float32) for _ in range(INPUTS)]
    expected = [np.asarray(run(x)) for x in inputs]
    wrong, memory, start = 0, [], time.perf_counter()
    share = -(-calls // (threads * LOOKS))
    with ThreadPoolExecutor(threads) as pool:
        for look in range(LOOKS):
            seeds = range(look * threads, (look + 1) * threads)
            wrong += sum(pool.map(lambda seed: caller(run, seed, share, inputs, expected), seeds))
            memory.append(resident_mb())
            print(f"{(look + 1) * share * threads} calls, {wrong} wrong, {memory[-1]}", flush=True)
    return {
        "callers": threads,
        "module_threads": run.threads,
        "calls": share * threads * LOOKS,
        "wrong": wrong,
        "seconds": round(time.perf_counter() - start, 1),
        "memory_mb": memory,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--space", default="ofa_digits")
    parser.add_argument("--threads", type=int, default=8, help="callers")
    parser.add_argument("--module-threads", type=int, nargs="+", default=[1], help="modules to soak")
    parser.add_argument("--calls", type=int, default=1_000_000)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    rows = []
    for threads in options.module_threads:
        with tempfile.TemporaryDirectory(prefix="ofa-tvm-soak-") as folder:
            so = network(ofa_tvm.get_space(options.space), threads, Path(folder))
            rows.append({"space": options.space, **soak(ofa_tvm.load(so), options.threads, options.calls)})
    if options.json:
        save(options.json, {"soak": rows})


if __name__ == "__main__":
    main()
