"""What CPU templates need to know of a target: its vector unit, its threads, its caches."""

from __future__ import annotations

import math
from dataclasses import dataclass

import tvm

from ofa_tvm.number_formats import byte_products, computes_in_half
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
    longest
        Values in the longest vectors that code is written in, where that is more than `lanes`: of NEON's
        registers an instruction on bytes fills four with int32.
    by_words
        Whether bytes are multiplied as 16-bit integers, two instructions a dot, which takes them apart first.
    """

    lanes: int
    registers: int
    threads: int = 1
    l1_bytes: int = 32 << 10
    l2_bytes: int = 512 << 10
    longest: int = 0
    by_words: bool = False

    @property
    def parts(self) -> int:
        """Registers of the longest vectors."""
        return max(1, self.longest // self.lanes)

    def vector(self, width: int) -> int:
        """Longest vector, a power of two, that divides `width`; LLVM takes other lengths apart to scalars."""
        return math.gcd(width, self.parts * self.lanes)

    def vectors(self, width: int) -> int:
        """Registers that `width` values take."""
        return width // min(self.vector(width), self.lanes)


def cpu_model(target: tvm.target.Target, dtype: str = "float32") -> CpuModel:
    """Vector unit for values of `dtype`, by LLVM's features, and threads of a CPU target."""
    # llvm_get_vector_width is no help: it says 512 for any x86.
    features = cpu_features(target)
    threads = int(target.attrs.get("num-cores", 1))
    by_words = dtype == "int8" and byte_products(features) in ("vpmaddwd", "pmaddwd")
    if "avx512f" in features:
        return CpuModel(lanes=16, registers=32, threads=threads, by_words=by_words)
    if "avx" in features:
        return CpuModel(lanes=8, registers=16, threads=threads, by_words=by_words)
    neon = "neon" in features
    lanes = 8 if dtype == "float16" and computes_in_half(features) else 4
    longest = 16 if neon and dtype == "int8" else 0
    registers = 32 if neon else 16
    return CpuModel(lanes, registers, threads=threads, longest=longest, by_words=by_words)
