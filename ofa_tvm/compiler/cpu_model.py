"""What CPU templates need to know of a target: its vector unit, its threads, its caches."""

from __future__ import annotations

import math
from dataclasses import dataclass

import tvm


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


def cpu_features(target: tvm.target.Target) -> frozenset[str]:
    """LLVM's features of a CPU target."""
    return frozenset(str(name) for name in tvm.target.codegen.llvm_get_cpu_features(target))


def computes_in_half(target: tvm.target.Target) -> bool:
    """Whether a CPU target multiplies and adds float16 vectors: ARM v8.2 and later."""
    return "fullfp16" in cpu_features(target)


def reads_half(target: tvm.target.Target) -> bool:
    """Whether a CPU target has an instruction that widens float16: F16C on x86, all of ARM's 64-bit CPUs."""
    features = cpu_features(target)
    return "f16c" in features or "neon" in features


def cpu_model(target: tvm.target.Target, dtype: str = "float32") -> CpuModel:
    """Vector unit for values of `dtype`, by LLVM's features, and threads of a CPU target."""
    # llvm_get_vector_width is no help: it says 512 for any x86.
    features = cpu_features(target)
    threads = int(target.attrs.get("num-cores", 1))
    if "avx512f" in features:
        return CpuModel(lanes=16, registers=32, threads=threads)
    if "avx" in features:
        return CpuModel(lanes=8, registers=16, threads=threads)
    lanes = 8 if dtype == "float16" and computes_in_half(target) else 4
    return CpuModel(lanes=lanes, registers=32 if "neon" in features else 16, threads=threads)
