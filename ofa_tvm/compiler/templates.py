"""The templates of a target's kind: which schedules a kernel may have, best first.

A kind of target is one class here (the CPU's templates are `schedules` and `row_schedules`, a GPU's
`gpu_schedules`); all that tuning and compiling want to know of a kind they ask it.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import tvm
from tvm.s_tir import Schedule

from ofa_tvm.compiler import (
    dots,  # noqa: F401  (tells TVM of an operator that kernels have)
    elementary,  # noqa: F401  (tells TVM how to lower exp and the like)
    gpu_schedules,
    rounding,  # noqa: F401  (as dots)
    row_schedules,
    schedules,
)
from ofa_tvm.compiler.byte_tables import has_lookups
from ofa_tvm.compiler.cpu_model import CpuModel, cpu_model
from ofa_tvm.compiler.products import ProductForm
from ofa_tvm.compiler.tilings import Tiling
from ofa_tvm.compiler.toolchain import on_cpu
from ofa_tvm.compiler.vectors import BYTES
from ofa_tvm.number_formats import bfloat16_products, byte_products, computes_in_half, short_byte_sums
from ofa_tvm.targets.tvm_target import cpu_features


class Templates(ABC):
    """What a target's kind makes of kernels.

    Parameters
    ----------
    target
        TVM's target.

    Attributes
    ----------
    device_code
        Whether kernels become code for a device, which the host launches, and not host code.
    learns_from_few
        Whether MetaSchedule's search is worth its time before there are trials enough for a cost model.
    """

    device_code: bool
    learns_from_few: bool

    def __init__(self, target: tvm.target.Target) -> None:
        self.target = target

    @abstractmethod
    def lanes(self, dtype: str = "float32") -> int | None:
        """To multiples of how many values channels and panels are padded; None where they are not."""

    @property
    @abstractmethod
    def sums_in_half(self) -> bool:
        """Whether float16 networks also add in float16: where that doubles the values in a register."""

    @property
    def signed_bytes(self) -> bool:
        """Whether the target multiplies signed bytes only."""
        return False

    @property
    def byte_tables(self) -> bool:
        """Whether functions of single bytes are looked up in tables."""
        return False

    @property
    def panel(self) -> int:
        """Columns of the panels in which int8 weights are stored."""
        return 1

    @property
    def dots(self) -> bool:
        """Whether an instruction adds products of four bytes."""
        return True

    @property
    def short_sums(self) -> bool:
        """Whether weights whose products fit 16 bits in pairs are multiplied faster."""
        return False

    @property
    def pair_dots(self) -> bool:
        """Whether an instruction adds products of two bfloat16."""
        return True

    def products(self, dtype: str) -> ProductForm:
        """How products of a network in `dtype`, which the target has, are computed."""
        half_weights = dtype == "float16-weights"
        bytes_ = self.signed_bytes, self.byte_tables, self.panel, self.dots, self.short_sums
        pairs = dtype == "bfloat16", self.pair_dots
        winograd = dtype in ("float32", "float16-weights")
        return ProductForm(self.lanes(dtype), self.sums_in_half, half_weights, *bytes_, *pairs, winograd)

    @abstractmethod
    def ranked(self, mod: tvm.IRModule, hints: Sequence[Tiling] = ()) -> Iterator[Schedule]:
        """Schedules of a kernel in order of promise, made one by one.

        Parameters
        ----------
        mod
            The kernel.
        hints
            Tilings of similar kernels, nearest first; the schedules nearest to them come first.
        """

    @abstractmethod
    def design_space(self, mod: tvm.IRModule) -> list[Schedule]:
        """Designs with sampled tile sizes for MetaSchedule; empty where it is to search its own."""

    @abstractmethod
    def count(self, mod: tvm.IRModule) -> int | None:
        """How many schedules there are to try; None where that is open."""

    @abstractmethod
    def untemplated(self, mod: tvm.IRModule) -> Schedule | None:
        """What runs where no template fits, so that a tuned kernel is never slower; None if nothing does."""


class CpuTemplates(Templates):
    """Kernels of CPUs; there are none for kernels that no template covers, which run as plain loops."""

    device_code = False
    learns_from_few = True

    def lanes(self, dtype: str = "float32") -> int:
        """Values in a vector register."""
        return cpu_model(self.target, dtype).lanes

    @property
    def sums_in_half(self) -> bool:
        """Whether the CPU computes in float16."""
        return computes_in_half(cpu_features(self.target))

    @property
    def signed_bytes(self) -> bool:
        """On ARM, whose first byte products (`sdot`, `smull`) are of two signed factors."""
        return "sse2" not in cpu_features(self.target)

    @property
    def byte_tables(self) -> bool:
        """Where one instruction looks up a vector of them."""
        return has_lookups(self.target)

    @property
    def panel(self) -> int:
        """As many as vectors have values."""
        machine = cpu_model(self.target, "int8")
        return machine.parts * machine.lanes

    @property
    def dots(self) -> bool:
        """VNNI, or dotprod."""
        return byte_products(cpu_features(self.target)) in ("vpdpbusd", "sdot")

    @property
    def short_sums(self) -> bool:
        """On x86 without VNNI, but with `vpmaddubsw`."""
        return short_byte_sums(cpu_features(self.target))

    @property
    def pair_dots(self) -> bool:
        """AVX512-BF16, or ARM's bf16."""
        return bool(bfloat16_products(cpu_features(self.target)))

    def ranked(self, mod: tvm.IRModule, hints: Sequence[Tiling] = ()) -> Iterator[Schedule]:
        """Those of the template for one reduction, else the one of the template for rows."""
        machine = self._machine(mod)
        found = schedules.ranked_schedules(mod, machine, hints)
        first = next(found, None) or row_schedules.scheduled(mod, machine)
        return itertools.chain([first] if first else [], found)

    def design_space(self, mod: tvm.IRModule) -> list[Schedule]:
        """The designs of the template for one reduction."""
        return schedules.design_space(mod, self._machine(mod))

    def count(self, mod: tvm.IRModule) -> int | None:
        """Tilings of the template for one reduction; one for rows; None where no template fits."""
        machine = self._machine(mod)
        found = schedules.count(mod, machine)
        if found is None and row_schedules.scheduled(mod, machine) is not None:
            return 1
        return found

    def untemplated(self, mod: tvm.IRModule) -> Schedule | None:
        """TVM's plain loops."""
        return Schedule(mod) if self.count(mod) is None else None

    def _machine(self, mod: tvm.IRModule) -> CpuModel:
        if str(mod["main"].params[0].dtype) in BYTES:
            return cpu_model(self.target, "int8")
        # What is computed in half precision may be read or left in float32, at the network's edges.
        dtypes = {str(mod["main"].params[i].dtype) for i in (0, -1)}
        return cpu_model(self.target, "float16" if "float16" in dtypes else "float32")


class GpuTemplates(Templates):
    """Kernels of CUDA and OpenCL devices; what no template covers is scheduled by TVM's own rules.

    Its generic space takes many trials to come near the template, and much of its time between them.
    """

    device_code = True
    learns_from_few = False

    def lanes(self, dtype: str = "float32") -> int | None:
        """None: threads take the channels that there are."""
        return None

    @property
    def sums_in_half(self) -> bool:
        """No: a device's float16 units differ."""
        return False

    def ranked(self, mod: tvm.IRModule, hints: Sequence[Tiling] = ()) -> Iterator[Schedule]:
        """At least one for every kernel that can run; a CPU's tilings are no hints."""
        return gpu_schedules.ranked_schedules(mod, self.target)

    def design_space(self, mod: tvm.IRModule) -> list[Schedule]:
        """None: the generic space is searched."""
        return []

    def count(self, mod: tvm.IRModule) -> int | None:
        """Open."""
        return None

    def untemplated(self, mod: tvm.IRModule) -> Schedule | None:
        """None: plain loops would run on the host."""
        return None


def templates_of(target: tvm.target.Target) -> Templates:
    """The templates of a target's kind."""
    return CpuTemplates(target) if on_cpu(target) else GpuTemplates(target)
