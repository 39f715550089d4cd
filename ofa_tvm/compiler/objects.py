"""Object files of kernels, generated once and linked again: subnets of one space share their kernels."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import tvm

from ofa_tvm.files import cache_dir, replacing


@dataclass(frozen=True)
class ScheduledKernel:
    """A kernel with a schedule, under a symbol that depends on both.

    Parameters
    ----------
    symbol
        Name of the function in the object file.
    function
        The scheduled PrimFunc.
    """

    symbol: str
    function: tvm.tirx.PrimFunc


def scheduled_kernel(key: str, function: tvm.tirx.PrimFunc, trace: object) -> ScheduledKernel:
    """Name a scheduled kernel by its identity and its schedule's trace."""
    digest = hashlib.sha256(json.dumps(trace, sort_keys=True).encode()).hexdigest()[:12]
    symbol = f"kernel_{key}_{digest}"
    return ScheduledKernel(symbol, function.with_attr("global_symbol", symbol))


def object_files(kernels: list[ScheduledKernel], target: tvm.target.Target, threads: int = 2) -> list[Path]:
    """Object file of every kernel, from the cache or generated now (LLVM runs in `threads` threads)."""
    digest = hashlib.sha256(f"{tvm.__version__} {target}".encode()).hexdigest()[:16]
    folder = cache_dir() / "kernels" / digest

    def generate(kernel: ScheduledKernel) -> Path:
        path = folder / f"{kernel.symbol}.o"
        if not path.is_file():
            library = tvm.compile(tvm.IRModule({kernel.symbol: kernel.function}), target=target)
            with replacing(path) as temporary:
                library.mod.write_to_file(str(temporary), "o")
        return path

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(generate, kernels))
