"""The templates of a target's kind: which schedules a kernel may have, best first."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import tvm
from tvm.s_tir import Schedule

from ofa_tvm.compiler import (
    elementary,  # noqa: F401  (tells TVM how to lower exp and the like)
    gpu_schedules,
    row_schedules,
    schedules,
)


def on_gpu(target: tvm.target.Target) -> bool:
    """Whether a TVM target is of a GPU kind."""
    return str(target.kind.name) != "llvm"


def lanes(target: tvm.target.Target, dtype: str = "float32") -> int | None:
    """Values in a vector register of a CPU, to which channels and panels are padded; None on a GPU."""
    return None if on_gpu(target) else schedules.machine(target, dtype).lanes


def sums_in_half(target: tvm.target.Target) -> bool:
    """Whether float16 networks also add in float16: where that doubles the values in a register."""
    return not on_gpu(target) and schedules.computes_in_half(target)


def _machine(mod: tvm.IRModule, target: tvm.target.Target) -> schedules.Machine:
    # What is computed in half precision may be read or left in float32, at the network's edges.
    dtypes = {str(mod["main"].params[i].dtype) for i in (0, -1)}
    return schedules.machine(target, "float16" if "float16" in dtypes else "float32")


def ranked_schedules(
    mod: tvm.IRModule, target: tvm.target.Target, hints: Sequence[schedules.Tiling] = ()
) -> Iterator[Schedule]:
    """Schedules of a kernel in order of promise; on a CPU none for a kernel that no template covers.

    On a CPU the tilings nearest to `hints` come first.
    """
    if on_gpu(target):
        return gpu_schedules.ranked_schedules(mod, target)
    machine = _machine(mod, target)
    found = schedules.ranked_schedules(mod, machine, hints)
    first = next(found, None) or row_schedules.scheduled(mod, machine)
    return itertools.chain([first] if first else [], found)


def design_space(mod: tvm.IRModule, target: tvm.target.Target) -> list[Schedule]:
    """Designs with sampled tile sizes for MetaSchedule; empty where its generic space is to be searched."""
    return [] if on_gpu(target) else schedules.design_space(mod, _machine(mod, target))


def count(mod: tvm.IRModule, target: tvm.target.Target) -> int | None:
    """How many schedules there are to try; None where that is open."""
    if on_gpu(target):
        return None
    machine = _machine(mod, target)
    found = schedules.count(mod, machine)
    if found is None and row_schedules.scheduled(mod, machine) is not None:
        return 1
    return found
