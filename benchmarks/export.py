"""Time of an ONNX export: `python benchmarks/export.py`.

The largest subnet of a space, in the steps of one export: cutting it out of the supernet, writing its graph,
serialising it, and `export_onnx` as a whole, which also syncs the file to the disk.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from provenance import save

import ofa_tvm
from ofa_tvm.export import to_onnx
from ofa_tvm.targets import detect_machine


def time_parts(space_name: str, repeats: int, folder: Path) -> dict[str, list[float]]:
    """Milliseconds of each part in turns, after one unmeasured round."""
    space = ofa_tvm.get_space(space_name)
    net = ofa_tvm.build_supernet(space).eval()
    arch = space.max_arch()
    sub = net.extract(arch)
    model = to_onnx(sub, arch.r)
    parts: dict[str, Callable[[], Any]] = {
        "extract the subnet": lambda: net.extract(arch),
        "write the graph": lambda: to_onnx(sub, arch.r),
        "serialise": model.SerializeToString,
        "export_onnx (graph to synced file)": lambda: ofa_tvm.export_onnx(sub, folder / "m.onnx", arch.r),
    }
    times: dict[str, list[float]] = {name: [] for name in parts}
    for round_ in range(repeats + 1):
        for name, part in parts.items():
            start = time.perf_counter()
            part()
            if round_:
                times[name].append(1e3 * (time.perf_counter() - start))
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--spaces", nargs="+", default=list(ofa_tvm.list_spaces()))
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    print(f"{detect_machine().model}, one thread, {options.repeats} repeats")
    for space in options.spaces:
        with tempfile.TemporaryDirectory(prefix="ofa-tvm-export-") as name:
            times = time_parts(space, options.repeats, Path(name))
            size = (Path(name) / "m.onnx").stat().st_size / 1e6
        print(f"{space}, largest subnet, {size:.1f} MB")
        for part, samples in times.items():
            median = statistics.median(samples)
            rows.append({"space": space, "megabytes": size, "part": part, "median_ms": median,
                         "least_ms": min(samples), "samples_ms": samples})  # fmt: skip
            print(f"  {part:36} {median:7.1f} ms  least {min(samples):7.1f} ms")
    if options.json:
        save(options.json, {"threads": 1, "rows": rows})


if __name__ == "__main__":
    main()
