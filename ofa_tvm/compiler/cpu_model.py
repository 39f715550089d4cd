"""What CPU templates need to know of a target: its vector unit, its threads, its caches."""

from __future__ import annotations

import math
from dataclasses import dataclass

import tvm

from ofa_tvm.number_formats import computes_in_half
from ofa_tvm.targets.tvm_target import cpu_features


@dataclass(frozen=True)
class CpuModel:
    """What a CPU template needs to know of its target.

    Parameters
    ----------
    lanes
        float32 values in a vector register.
    registers
        Vector registers.
    threads
        Threads that one kernel may use.
    l1_bytes, l2_bytes
        Data caches of one core.
    """

    lanes: int
    registers: int
    threads: int = 1
    l1_bytes: int = 32 << 10
    l2_bytes: int = 512 << 10

    def vector(self, width: int) -> int:
        """Longest vector, a power of two, that divides `width`; LLVM takes other lengths apart to scalars."""
        return math.gcd(width, self.lanes)


def cpu_model(target: tvm.target.Target, dtype: str = "float32") -> CpuModel:
    """Vector unit for values of `dtype`, by LLVM's features, and threads of a CPU target."""
    # llvm_get_vector_width is no help: it says 512 for any x86.
    features = cpu_features(target)
    threads = int(target.attrs.get("num-cores", 1))
    if "avx512f" in features:
        return CpuModel(lanes=16, registers=32, threads=threads)
    if "avx" in features:
        return CpuModel(lanes=8, registers=16, threads=threads)
    lanes = 8 if dtype == "float16" and computes_in_half(features) else 4
    return CpuModel(lanes=lanes, registers=32 if "neon" in features else 16, threads=threads)
