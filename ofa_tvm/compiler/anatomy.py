"""The parts of kernels, by which templates know what to do with them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tvm
from tvm.s_tir import Schedule
from tvm.s_tir.schedule import SBlockRV

from ofa_tvm.compiler.dots import has_dots, has_short_dots
from ofa_tvm.compiler.pairs import has_pairs
from ofa_tvm.compiler.words import is_choice

LINES = "ofa_tvm.lines"  # annotation of a reduction: how many lines of its result belong in one tile
# Annotation of an elementwise block whose values share what they read: two axes, and how many values of each.
TILE = "ofa_tvm.tile"
_DATA_PARALLEL, REDUCTION = 0, 2  # tvm.tirx.IterVar kinds


@dataclass(frozen=True)
class Anatomy:
    """The parts of a kernel with one reduction.

    Parameters
    ----------
    reduction, output, padding
        Block names: the reduction, the block that writes the result (the same one where there is no
        epilogue), and the padded copy of the input, if any.
    spatial, reduce
        Extents of the reduction's data-parallel and reduction loops.
    padded
        Shape of the padded input, empty without one.
    in_place
        Whether the padded input is to be read where it lies, not copied (`convolutions.padded`).
    lines_padded
        Whether it has more lines than the input.
    together
        Lines of the result that are computed together, since they share what they read.
    in_dots
        Whether it adds dots of bytes (`dots`) or of pairs of bfloat16 (`pairs`).
    short_sums
        Whether two products of its bytes fit 16 bits.
    """

    reduction: str
    output: str
    padding: str | None
    spatial: tuple[int, ...]
    reduce: tuple[int, ...]
    padded: tuple[int, ...]
    in_place: bool = False
    lines_padded: bool = False
    together: int = 1
    in_dots: bool = False
    short_sums: bool = False


def analyse(sch: Schedule) -> Anatomy | None:
    """Anatomy of a kernel with exactly one reduction, else None.

    On the way, `sch` is simplified: elementwise blocks are inlined into the output block.
    """
    blocks = blocks_of(sch)
    names = [sch.get(block).name_hint for block in blocks]
    reductions = [i for i, block in enumerate(blocks) if REDUCTION in iter_kinds(sch, block)]
    if len(reductions) != 1:
        return None
    (at,) = reductions
    producers = [sch.get(block).name_hint for block in sch.get_producers(blocks[at])]
    padding = next((n for n, b in zip(names, blocks, strict=True) if n in producers and _pads(sch, b)), None)
    kinds = iter_kinds(sch, blocks[at])
    extents = [int(sch.get(loop).extent) for loop in sch.get_loops(blocks[at])]
    if len(extents) != len(kinds) or _DATA_PARALLEL not in kinds or _spread(sch, blocks[at], blocks[-1]):
        return None
    padded: tuple[int, ...] = ()
    in_place, lines_padded, body = False, False, sch.get(blocks[at]).body
    for name, block in zip(names, blocks, strict=True):
        if name == padding:
            padded = tuple(int(sch.get(loop).extent) for loop in sch.get_loops(block))
            in_place, lines_padded = _read_in_place(sch, block), _pads_lines(sch, block, padded)
        elif name not in (names[at], names[-1]):
            try:
                sch.compute_inline(block)
            except tvm.s_tir.ScheduleError:  # one of several outputs
                return None
    return Anatomy(
        reduction=names[at],
        output=names[-1],
        padding=padding,
        spatial=tuple(e for e, k in zip(extents, kinds, strict=True) if k == _DATA_PARALLEL),
        reduce=tuple(e for e, k in zip(extents, kinds, strict=True) if k == REDUCTION),
        padded=padded,
        in_place=in_place,
        lines_padded=lines_padded,
        together=int(sch.get(blocks[at]).annotations.get(LINES, 1)),
        in_dots=has_dots(body) or has_pairs(body),
        short_sums=has_short_dots(body),
    )


def _spread(sch: Schedule, reduction: SBlockRV, output: SBlockRV) -> bool:
    """Whether several values of the output take part in one result of the reduction, as in x - mean(x)."""
    return _results(sch, output) > _results(sch, reduction)


def _results(sch: Schedule, block: SBlockRV) -> int:
    """Values that a block makes."""
    loops = zip(sch.get_loops(block), iter_kinds(sch, block), strict=True)
    return math.prod(int(sch.get(loop).extent) for loop, kind in loops if kind == _DATA_PARALLEL)


def blocks_of(sch: Schedule) -> list[SBlockRV]:
    """Blocks in order of execution; none for kernels written as plain loops (sorting, scans)."""
    try:
        return list(sch.get_child_blocks(sch.get_sblock("root")))
    except tvm.s_tir.ScheduleError:
        return []


def _pads(sch: Schedule, block: SBlockRV) -> bool:
    """Whether a block copies its input where there is one and writes a constant elsewhere."""
    value: Any = getattr(sch.get(block).body, "value", None)
    return is_choice(value) and any(_is_constant(branch) for branch in value.args[1:])


def _is_constant(value: tvm.ir.Expr) -> bool:
    """Whether a value is the same at all positions: a number, or a parameter of the kernel that holds one."""
    numbers = tvm.tirx.FloatImm | tvm.tirx.IntImm
    if isinstance(value, tvm.ir.TensorLoad):
        return all(isinstance(index, numbers) for index in value.indices)
    return isinstance(value, numbers)


def _read_in_place(sch: Schedule, block: SBlockRV) -> bool:
    """Whether the condition of padding is marked as likely."""
    parts = [sch.get(block).body.value.args[0]]
    while parts and isinstance(parts[-1], tvm.tirx.And):
        both = parts.pop()
        parts += [both.b, both.a]
    return all(isinstance(part, tvm.ir.Call) and part.op.name.endswith("likely") for part in parts)


def _pads_lines(sch: Schedule, block: SBlockRV, padded: Sequence[int]) -> bool:
    """Whether a padded copy of a map (..., lines, columns, channels) has more lines than that."""
    shapes = [region.source.shape for region in sch.get(block).reads]
    return any(2 < len(shape) == len(padded) and int(shape[-3]) < padded[-3] for shape in shapes)


def iter_kinds(sch: Schedule, block: SBlockRV) -> list[int]:
    """Kinds of a block's axes, as numbers of tvm.tirx.IterVar."""
    return [int(v.iter_type) for v in sch.get(block).iter_vars]
