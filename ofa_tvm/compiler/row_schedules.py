"""The schedule of kernels with several reductions on a CPU: softmax, layer norm, variance, x - mean(x).

All that one row of the result (or one tile of channels) needs is computed at its loop, while it is in the
first-level cache. Of the loops where that could be, the innermost one is taken at which nothing is computed
twice. What lies along a vector is vectorised, partial results included; loops whose length is no whole number
of vectors are left to LLVM, which vectorises those that reduce nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import tvm
from tvm.s_tir import Schedule
from tvm.s_tir.schedule import LoopRV, SBlockRV

from ofa_tvm.compiler.anatomy import REDUCTION, blocks_of, iter_kinds
from ofa_tvm.compiler.cpu_model import CpuModel
from ofa_tvm.compiler.schedules import BY_CASES, PARALLEL_FLOPS, unroll_and_vectorize

_COSTLY = tuple(f"T.{name}(" for name in ("exp", "log", "tanh", "erf", "sigmoid", "pow", "sqrt", "rsqrt"))
_STRAIGHT = 8  # vectors of partial results that are kept in registers
_WIDEST = 4  # vectors of channels in a tile


def scheduled(mod: tvm.IRModule, mach: CpuModel) -> Schedule | None:
    """The schedule of a kernel that has reductions; None for one that has none, or plain loops."""
    plain = Schedule(mod)
    blocks = blocks_of(plain)
    if not any(_reduces(plain, block) for block in blocks):
        return None
    extents = [int(plain.get(loop).extent) for loop in plain.get_loops(blocks[-1])]
    along = any(_reduces_along(plain, block) for block in blocks)
    work = _work(plain)
    for place in _places(extents, along, mach):
        try:
            sch, shared = _at(mod, mach, place)
        except tvm.s_tir.ScheduleError:
            continue
        if _work(sch) <= work:
            for block in blocks_of(sch):
                _vectorize(sch, block, shared, mach)
            return sch
    return None


@dataclass(frozen=True)
class _Place:
    """Where a row begins: behind `depth` loops of the output, and a tile of `width` channels if not 0."""

    depth: int
    width: int = 0


def _places(extents: Sequence[int], along: bool, mach: CpuModel) -> Iterator[_Place]:
    """Innermost first; last the root, where every block has loops of its own.

    Where reductions run across the last axis (not `along` it), tiles of it come first: single values of it
    would be computed one by one.
    """
    if not along:
        widths = [n * mach.lanes for n in (_WIDEST, 2, 1) if extents and extents[-1] % (n * mach.lanes) == 0]
        for depth in range(len(extents) - 1, -1, -1):
            yield from (_Place(depth, width) for width in widths)
    for depth in range(len(extents) - (not along), -1, -1):
        yield _Place(depth)


def _at(mod: tvm.IRModule, mach: CpuModel, place: _Place) -> tuple[Schedule, int]:
    """Every block computed at the output's row, and how many loops lead there; cheap blocks are inlined."""
    sch = Schedule(mod)
    output = blocks_of(sch)[-1]
    for block in blocks_of(sch)[:-1]:
        if _is_inlined(sch, block, output):
            sch.compute_inline(block)  # fails for one of several outputs
    loops = list(sch.get_loops(output))
    if place.width:
        channel0, channel1 = sch.split(loops[-1], [None, place.width])
        outer, inner = [*loops[: place.depth], channel0], [*loops[place.depth : -1], channel1]
        sch.reorder(*outer, *inner)
    else:
        outer = loops[: place.depth]
    if not outer:
        return sch, 0
    for block in reversed(blocks_of(sch)[:-1]):
        sch.compute_at(block, outer[-1], preserve_unit_loops=True)
    if mach.threads > 1 and _size(sch, output) >= PARALLEL_FLOPS:
        sch.parallel(sch.fuse(*outer))
        return sch, 1
    return sch, len(outer)


def _reduces(sch: Schedule, block: SBlockRV) -> bool:
    return REDUCTION in iter_kinds(sch, block)


def _size(sch: Schedule, block: SBlockRV) -> int:
    return math.prod(int(sch.get(loop).extent) for loop in sch.get_loops(block))


def _work(sch: Schedule) -> int:
    """Values that the reductions read."""
    return sum(_size(sch, block) for block in blocks_of(sch) if _reduces(sch, block))


def _is_inlined(sch: Schedule, block: SBlockRV, output: SBlockRV) -> bool:
    """Elementwise blocks with as many values as the output that are cheap to compute twice."""
    if _reduces(sch, block) or _size(sch, block) < _size(sch, output):
        return False
    return not any(name in str(sch.get(block).body) for name in _COSTLY)


def _reduces_along(sch: Schedule, block: SBlockRV) -> bool:
    """Whether a block reduces the last axis of a tensor that it reads."""
    variables = sch.get(block).iter_vars
    reduced = [v.var for v, kind in zip(variables, iter_kinds(sch, block), strict=True) if kind == REDUCTION]
    lasts = [region.region[-1].min for region in sch.get(block).reads if len(region.region)]
    return any(var.same_as(known) for last in lasts for var in _variables(last) for known in reduced)


def _variables(expr: tvm.ir.Expr) -> list[tvm.tirx.Var]:
    return list(tvm.tirx.analysis.undefined_vars(expr))


def _vectorize(sch: Schedule, block: SBlockRV, shared: int, mach: CpuModel) -> None:
    """A block's own loops: reductions outermost, vectors innermost; as it is where it has no vectors."""
    own, kinds = list(sch.get_loops(block))[shared:], iter_kinds(sch, block)
    kinds = kinds[len(kinds) - len(own) :]
    if len(kinds) < len(own):
        return
    reduce = [loop for loop, kind in zip(own, kinds, strict=True) if kind == REDUCTION]
    spatial = [loop for loop, kind in zip(own, kinds, strict=True) if kind != REDUCTION]
    extents = [int(sch.get(loop).extent) for loop in spatial]
    vector = mach.vector(extents[-1]) if extents else 1
    try:
        if reduce and vector >= 4 and math.prod(extents) <= _STRAIGHT * vector:
            sch.reorder(*reduce, *spatial)
            unroll_and_vectorize(sch, spatial, vector)
            initial = sch.decompose_reduction(block, reduce[0])
            unroll_and_vectorize(sch, list(sch.get_loops(initial))[shared:], vector)
        elif not reduce and extents:
            _vectorize_all(sch, spatial[-1], mach, rests=not sch.get_consumers(block))
    except tvm.s_tir.ScheduleError:
        return  # LLVM sees to it


def _vectorize_all(sch: Schedule, loop: LoopRV, mach: CpuModel, *, rests: bool) -> None:
    """A loop in vectors; one whose length is no whole number of them in vectors and a rest, or not at all.

    Loops of intermediate blocks are left to LLVM instead: exponentials of 197 values take a third.
    """
    extent = int(sch.get(loop).extent)
    vector = mach.vector(extent)
    if 2 * vector >= mach.lanes or extent <= mach.lanes:
        if vector > 1:
            sch.vectorize(sch.split(loop, [None, vector])[1])
    elif rests:
        outer, inner = sch.split(loop, [None, mach.lanes])
        sch.annotate(outer, BY_CASES, True)
        sch.vectorize(inner)
