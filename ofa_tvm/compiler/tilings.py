"""Tile sizes of the template for one reduction, ranked by a rough count of cycles."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ofa_tvm.compiler.anatomy import Anatomy
from ofa_tvm.compiler.cpu_model import CpuModel

_KEPT_INPUTS = 12  # registers in which LLVM keeps inputs that several taps of an unrolled window share
_FEW_REGISTERS = 16
UNROLL_LIMIT = 256  # scalar or vector multiply-adds in straight-line code
_SHORT_FACTORS = 4  # registers beside sums where bytes are added in 16 bits: weights are read from memory
_FMA_LATENCY = 4
_FMA_LATENCY_X_UNITS = 8  # accumulators that keep two four-cycle FMA units busy


@dataclass(frozen=True)
class Tiling:
    """Tile sizes of one schedule: channels (`width`), pixels of a line (`rows`), lines per padded band."""

    width: int
    rows: int
    lines: int
    channels_first: bool

    def distance(self, other: Tiling) -> float:
        """How much another tiling differs; 0 only for an equal one."""
        pairs = ((self.width, other.width), (self.rows, other.rows), (self.lines, other.lines))
        return (
            sum(abs(math.log2(a / b)) for a, b in pairs) + (self.channels_first != other.channels_first) / 2
        )


def tiling_of(trace: Any) -> Tiling | None:
    """Tiling of a schedule of this template, from its trace in JSON form; None for any other trace."""
    instructions, decisions = trace
    chosen = dict(decisions)
    samples, splits, reorders = (
        [(number, step) for number, step in enumerate(instructions) if step[0] == name]
        for name in ("SampleCategorical", "Split", "Reorder")
    )
    if not 1 <= len(samples) <= 2 or len(splits) < 2 or not reorders:
        return None
    rows, lines = [*(step[2][0][chosen[number]] for number, step in samples), 1][:2]
    (_, (_, (_, _, width), _, (channel, _))), (_, (_, outer, _, _)) = splits[1], reorders[0]
    return Tiling(width, rows, lines, outer[0] == channel) if isinstance(width, int) else None


def divisors(n: int) -> list[int]:
    """Divisors of `n`, ascending."""
    return [d for d in range(1, n + 1) if n % d == 0]


def tilings(anatomy: Anatomy, mach: CpuModel) -> list[Tiling]:
    """All tilings worth a trial, most promising first."""
    channels = anatomy.spatial[-1]
    row_extent = anatomy.spatial[-2] if len(anatomy.spatial) > 1 else 1
    copied = anatomy.padding is not None and not anatomy.in_place
    line_extent = anatomy.spatial[-3] if copied and len(anatomy.spatial) > 2 else 1
    # LLVM reuses the inputs of a window across its taps, in registers; without room for them all spill. Few
    # registers are better spent on sums where a window goes over channels too, whose taps lie far apart.
    few = mach.registers <= _FEW_REGISTERS
    window = anatomy.padding is not None and (len(anatomy.reduce) == 2 or not few)
    kept = _KEPT_INPUTS if window else 0
    if anatomy.in_dots and mach.parts > 1:  # they are put side by side for each tap
        kept //= 2
    accumulators = mach.registers - kept * mach.registers // 32
    of_two = anatomy.in_dots and mach.by_words and window and len(anatomy.reduce) == 2
    if of_two:  # weights and lines side by side are read from memory where registers do not hold them
        accumulators = mach.registers
    by_words = anatomy.in_dots and mach.by_words and not anatomy.short_sums
    # Where registers are few, the values of rows that are multiplied with one vector take one each, too.
    spread = few and not window
    widest = (5 if few else 4) * mach.lanes
    found = []
    for width in (d for d in divisors(channels) if d <= widest):
        if (anatomy.in_dots or mach.parts > 1) and mach.vector(width) < mach.vector(channels):
            continue  # bytes are put side by side for whole vectors
        vectors = mach.vectors(width)
        for rows in divisors(row_extent):
            if of_two:
                factors = 2
            elif by_words:
                factors = 2 * vectors + 2
            elif anatomy.short_sums:
                factors = _SHORT_FACTORS
            else:
                factors = vectors + (rows if spread and vectors == 1 else 1)
            if rows > 1 and rows * anatomy.together * vectors + factors > accumulators:
                continue
            for lines in divisors(line_extent):
                # With one tile of channels or of pixels the order of the two loops is the same thing.
                one_order = width == channels or (rows, lines) == (row_extent, line_extent)
                found += [
                    Tiling(width, rows, lines, order) for order in ((True,) if one_order else (True, False))
                ]
    return sorted(found, key=lambda tiling: estimated_cycles(anatomy, tiling, mach))


def estimated_cycles(anatomy: Anatomy, tiling: Tiling, mach: CpuModel) -> float:
    """Rough cycles of a tiling on a core with two FMA and two load ports; only its order matters."""
    if anatomy.in_place and len(anatomy.reduce) == 2:
        if anatomy.in_dots:
            return (_dots_of_two_cycles if mach.by_words else _dots_cycles)(anatomy, tiling, mach)
        return _in_place_cycles(anatomy, tiling, mach)
    vectors = mach.vectors(tiling.width)
    taps = math.prod(anatomy.reduce)
    tiles = math.prod(anatomy.spatial) / (tiling.width * tiling.rows)
    multiply_adds = tiling.rows * vectors
    per_pixel_data = anatomy.padding is not None and len(anatomy.reduce) == 2  # depthwise: no reuse over c
    loads = vectors + tiling.rows * (vectors if per_pixel_data else 1)
    per_tap = max(
        multiply_adds / 2,
        loads / 2,
        multiply_adds / 2 * _FMA_LATENCY_X_UNITS / max(multiply_adds, 1)
        if multiply_adds < _FMA_LATENCY_X_UNITS
        else 0,
    )
    if anatomy.short_sums:  # two products and a sum
        per_tap = max(per_tap, multiply_adds, 3 * multiply_adds / 4, loads / 2)
    elif anatomy.in_dots and mach.by_words:  # two products, two sums; both factors are taken apart
        per_tap = max(per_tap, (4 * multiply_adds + 3 * tiling.rows + 3 * vectors) / 4)
    cycles = tiles * (taps * per_tap + 2 * multiply_adds + 4)
    if anatomy.in_place:
        return cycles
    if anatomy.padding is not None:
        return cycles + _padding_cycles(anatomy, tiling, mach)
    depth, height = taps, math.prod(anatomy.spatial[:-1])
    if tiling.channels_first:  # the panel of weights stays, the data is read again for every panel
        panel, reread = depth * tiling.width * 4, depth * height * 4 * (anatomy.spatial[-1] // tiling.width)
    else:  # a few rows of data stay, all weights are read again for every tile of rows
        panel = depth * tiling.rows * 4
        reread = depth * anatomy.spatial[-1] * 4 * (height // tiling.rows)
    return cycles * (1.1 if panel > mach.l1_bytes else 1.0) + reread / 256


def _in_place_cycles(anatomy: Anatomy, tiling: Tiling, mach: CpuModel) -> float:
    """Cycles of a window (y, x) over each channel whose input is read in place.

    LLVM loads a column that several taps share once, as long as there are registers for all that code in one
    line holds.
    """
    vectors, taps = mach.vectors(tiling.width), math.prod(anatomy.reduce)
    *lines, columns = anatomy.reduce
    line = anatomy.spatial[-2]
    stride = (anatomy.padded[-2] - columns) // max(1, line - 1)
    read = (tiling.rows - 1) * stride + columns
    together = math.prod(lines) if tiling.rows * vectors * taps <= UNROLL_LIMIT else 1
    held = vectors * (together * read + tiling.rows) + together * columns // 2
    multiply_adds = tiling.rows * vectors * taps / 2
    loads = math.prod(lines) * (read + columns) * vectors / 2
    waiting = max(0.0, _FMA_LATENCY * taps - multiply_adds) / 16  # the next tiles begin meanwhile
    cycles = max(multiply_adds, loads) + waiting
    # The factors were fitted to 420 schedules of 11 kernels on a Zen 5.
    if held > mach.registers:
        cycles *= 1.2
    if vectors > 1:
        cycles *= 1.25
    if tiling.rows < line:  # with one tile a line, taps on the padding are left out
        cycles *= 1 + tiling.rows / line
    tiles = math.prod(anatomy.spatial) / (tiling.width * tiling.rows)
    total = tiles * (cycles + tiling.rows * vectors + 4)
    return total if tiling.channels_first else 1.05 * total


def _dots_cycles(anatomy: Anatomy, tiling: Tiling, mach: CpuModel) -> float:
    """Cycles of a window over each channel by dots of four lines, read in place.

    The four lines are put side by side once for each column of a tile. The factors were fitted to some 250
    schedules of 7 kernels on a Zen 5.
    """
    vectors, taps = mach.vectors(tiling.width), math.prod(anatomy.reduce)
    groups, columns = anatomy.reduce
    *_, height, line_width, channels = anatomy.padded
    line = anatomy.spatial[-2]
    stride = (line_width - columns) // max(1, line - 1)
    read = (tiling.rows - 1) * stride + columns
    results = tiling.rows * anatomy.together * vectors
    cycles = results * taps / 2 + 3 * vectors * groups * read + 3 * results + 8
    if results + vectors * (read + 3 * anatomy.together) > mach.registers + 2:
        cycles *= 1.35
    if vectors > 1:
        cycles *= 1.3
    if tiling.channels_first and height * line_width * channels > 2 * mach.l2_bytes:
        cycles *= 1.6  # each time a few bytes of every cache line
    return cycles * math.prod(anatomy.spatial) / (results * tiling.width / vectors)


def _dots_of_two_cycles(anatomy: Anatomy, tiling: Tiling, mach: CpuModel) -> float:
    """The same by dots of two lines: a product and a sum each; fitted to 60 schedules on a Zen 3."""
    vectors, taps = mach.vectors(tiling.width), math.prod(anatomy.reduce)
    groups, columns = anatomy.reduce
    *_, height, line_width, channels = anatomy.padded
    line = anatomy.spatial[-2]
    stride = (line_width - columns) // max(1, line - 1)
    read = (tiling.rows - 1) * stride + columns
    results = tiling.rows * anatomy.together * vectors
    cycles = results * taps / 2 + 0.75 * vectors * groups * read + 3 * results + 8
    if 2 * groups * line_width * channels > mach.l1_bytes:
        cycles += 2 * groups * read  # a cache line for each column of each line
    if results * taps > UNROLL_LIMIT or (vectors > 1 and results > mach.registers // 2):
        cycles *= 1.2
    cycles *= 1 + 0.08 * (vectors - 1)
    if tiling.channels_first and height * line_width * channels > mach.l1_bytes:
        cycles *= 1.1
    return cycles * math.prod(anatomy.spatial) / (results * tiling.width / vectors)


def _padding_cycles(anatomy: Anatomy, tiling: Tiling, mach: CpuModel) -> float:
    """Cycles to copy the bands of padded input, once for every band and channel tile."""
    *_, height, line_width, channels = anatomy.padded
    lines_total = anatomy.spatial[-3] if len(anatomy.spatial) > 2 else 1
    kernel = anatomy.reduce[0]
    stride = max(1, (height - kernel) // max(1, lines_total - 1)) if lines_total > 1 else 1
    band_lines = (tiling.lines - 1) * stride + kernel
    depthwise = channels == anatomy.spatial[-1] and len(anatomy.reduce) == 2
    copied = min(tiling.width, channels) if depthwise else channels
    repeats = anatomy.spatial[-1] // tiling.width if depthwise or tiling.channels_first else 1
    band_bytes = band_lines * line_width * copied * 4
    vectors = mach.vectors(copied)
    spill = 1.0 if band_bytes <= mach.l1_bytes else 2.0 if band_bytes <= mach.l2_bytes else 4.0
    return repeats * (lines_total // tiling.lines) * band_lines * line_width * vectors * 2 * spill
