"""Schedule templates for CPUs: one design for every kernel with a single reduction.

Matrix products (1x1 convolutions), depthwise and standard convolutions, global pooling and the small
products of squeeze-and-excitation have one good shape on a SIMD machine: vectors over channels, a register
tile of several rows (pixels), the reduction outside that tile, the epilogue inside it. Convolutions read
their input in place, with code of its own for tiles that touch the padding; pooling reads a padded copy of
the few lines in use. Only the tile sizes are open, and a rough count of cycles ranks them well. So a kernel
that was never tuned starts from a good schedule, and a few measured trials find the best one, where
MetaSchedule's generic space needs tens to hundreds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import tvm
from tvm.s_tir import Schedule
from tvm.s_tir.schedule import LoopRV

from ofa_tvm.compiler.anatomy import REDUCTION, TILE, Anatomy, analyse, blocks_of, iter_kinds
from ofa_tvm.compiler.cpu_model import CpuModel
from ofa_tvm.compiler.tilings import UNROLL_LIMIT, Tiling, divisors, tilings

BY_CASES = "pragma_loop_partition_hint"  # a loop is taken apart where a likely condition changes
_TILES_A_THREAD = 4
PARALLEL_FLOPS = 200_000  # below this, waking other threads costs more than it saves


def design_space(mod: tvm.IRModule, mach: CpuModel) -> list[Schedule]:
    """Designs with sampled tile sizes for MetaSchedule; empty for kernels that no template covers."""
    anatomy = analyse(Schedule(mod))
    if anatomy is None:
        return []
    groups: dict[tuple[int, bool], list[Tiling]] = {}
    for tiling in tilings(anatomy, mach):
        groups.setdefault((tiling.width, tiling.channels_first), []).append(tiling)
    found = (_scheduled(mod, anatomy, mach, group) for group in groups.values())
    return [sch for sch in found if sch is not None]


def ranked_schedules(mod: tvm.IRModule, mach: CpuModel, hints: Sequence[Tiling] = ()) -> Iterator[Schedule]:
    """Schedules of a kernel in order of promise; made one by one, since most callers need only a few.

    Kernels without a reduction give one vectorised schedule; kernels with several reductions give none.
    The tilings nearest to `hints` (those of similar kernels that were tuned) come first.
    """
    anatomy = analyse(Schedule(mod))
    if anatomy is not None:
        ranked = tilings(anatomy, mach)
        first = dict.fromkeys(min(ranked, key=hint.distance) for hint in hints if ranked)
        for tiling in [*first, *(tiling for tiling in ranked if tiling not in first)]:
            if (sch := _scheduled(mod, anatomy, mach, [tiling])) is not None:
                yield sch
        return
    elementwise = _elementwise(mod, mach)
    if elementwise is not None:
        yield elementwise


def count(mod: tvm.IRModule, mach: CpuModel) -> int | None:
    """How many schedules there are to try; None for a kernel that no template covers, where it is open."""
    anatomy = analyse(Schedule(mod))
    if anatomy is not None:
        return len(tilings(anatomy, mach))
    return None if _elementwise(mod, mach) is None else 1


def _scheduled(mod: tvm.IRModule, anatomy: Anatomy, mach: CpuModel, options: list[Tiling]) -> Schedule | None:
    """Schedule for options that share `width` and `channels_first`; rows and lines are sampled among them.

    None for a kernel that is not of the template's form although its anatomy looked like it.
    """
    try:
        return _apply_template(mod, anatomy, mach, options)
    except tvm.s_tir.ScheduleError:
        return None


def _apply_template(
    mod: tvm.IRModule, anatomy: Anatomy, mach: CpuModel, options: list[Tiling]
) -> Schedule | None:
    sch = Schedule(mod)
    analyse(sch)
    width, channels_first = options[0].width, options[0].channels_first
    reduction = sch.get_sblock(anatomy.reduction)
    if anatomy.output == anatomy.reduction:
        output = sch.cache_write(reduction, 0, "local")
    else:
        output = sch.get_sblock(anatomy.output)
        sch.set_scope(reduction, 0, "local")
    loops = list(sch.get_loops(output))
    channel = loops.pop()
    row = loops.pop() if loops else sch.add_unit_loop(channel)
    tile = _choice(sch, [option.rows for option in options])
    row0, row1 = sch.split(row, [None, tile])
    channel0, channel1 = sch.split(channel, [None, width])
    band: list[LoopRV] = []
    lines: list[LoopRV] = []
    copied = anatomy.padding is not None and not anatomy.in_place
    parallel = (
        mach.threads > 1 and 2 * math.prod(anatomy.spatial) * math.prod(anatomy.reduce) >= PARALLEL_FLOPS
    )
    if anatomy.in_place:
        sch.compute_inline(sch.get_sblock(anatomy.padding))
        if anatomy.together > 1:
            line0, line1 = sch.split(loops.pop(), [None, anatomy.together])
            loops.append(line0)
            lines = [line1]
        if loops and parallel:
            bands = _bands(int(sch.get(loops[-1]).extent), int(sch.get(channel0).extent), mach.threads)
            line0, line1 = sch.split(loops.pop(), [bands, None])
            loops.append(line0)
            band = [line1]
    if copied and loops:
        line0, line1 = sch.split(loops.pop(), [None, _choice(sch, [option.lines for option in options])])
        loops.append(line0)
        band = [line1]
    if channels_first:
        outer = [channel0, *loops]
    elif anatomy.padding is not None:
        outer = [*loops, channel0]
    else:
        outer = [*loops, row0, channel0]
    inner = [loop for loop in (*band, row0) if loop not in outer]
    sch.reorder(*outer, *inner, *lines, row1, channel1)
    sch.compute_at(reduction, (outer + inner)[-1], preserve_unit_loops=True)
    if copied and not _copy_lines(sch, anatomy, outer[-1], mach):
        return None  # channels that share an input's channel: what they read depends on where they lie
    if anatomy.in_place:
        for loop in (*((band or loops[-1:]) if anatomy.lines_padded else []), row0):
            if loop in inner and int(sch.get(loop).extent) == 2:
                sch.unroll(loop)  # both tiles touch the padding: nothing lies between
            else:
                sch.annotate(loop, BY_CASES, True)
    if parallel:  # before the reduction is decomposed: its parts do not pass TVM's check
        sch.parallel(sch.fuse(*outer))
    depth = len(sch.get_loops(output)) - len(lines) - 2
    own = list(sch.get_loops(reduction))[depth:]
    spatial, reduce = own[: -len(anatomy.reduce)], own[-len(anatomy.reduce) :]
    several = math.gcd(anatomy.reduce[-1], mach.parts) if anatomy.in_dots and anatomy.padding is None else 1
    if several > 1:  # dots of a row, whose bytes are loaded together
        reduce[-1:] = sch.split(reduce[-1], [None, several])
    sch.reorder(*reduce, *spatial)
    if several > 1:
        sch.unroll(reduce[-1])
    vector = mach.vector(width)
    unroll_and_vectorize(sch, [*lines, row1, channel1], vector)
    unroll_and_vectorize(sch, spatial, vector)
    if anatomy.padding is not None:
        straight = max(option.rows for option in options) * anatomy.together * (width // vector)
        unroll_reduction(sch, reduce, straight)
    initial = sch.decompose_reduction(reduction, reduce[0])
    unroll_and_vectorize(sch, list(sch.get_loops(initial))[depth:], vector)
    return sch


def _copy_lines(sch: Schedule, anatomy: Anatomy, loop: LoopRV, mach: CpuModel) -> bool:
    """Copy the padded lines that one round of `loop` reads; False where they are not known."""
    padding = sch.get_sblock(anatomy.padding)
    sch.compute_at(padding, loop, preserve_unit_loops=True)
    values = sch.get_loops(padding)[-1]
    extent = sch.get(values).extent
    if not isinstance(extent, tvm.tirx.IntImm):
        return False
    lanes = mach.vector(int(extent))
    if lanes > 1:
        sch.vectorize(sch.split(values, [None, lanes])[1])
    return True


def _bands(lines: int, channel_tiles: int, threads: int) -> int:
    """Into how many parts lines are cut so that every thread has several tiles."""
    wanted = -(-_TILES_A_THREAD * threads // channel_tiles)
    return next(d for d in divisors(lines) if d >= min(wanted, lines))


def _choice(sch: Schedule, values: list[int]) -> tvm.tirx.Var:
    """A sampled tile size; earlier (more promising) values are drawn more often."""
    distinct = list(dict.fromkeys(values))
    weights = [1 / (1 + i) for i in range(len(distinct))]
    return sch.sample_categorical(distinct, [w / sum(weights) for w in weights], decision=0)


def unroll_reduction(sch: Schedule, loops: list[LoopRV], straight: int) -> None:
    """Unroll reductions from the innermost outwards around `straight` multiply-adds, up to the limit."""
    for loop in reversed(loops):
        straight *= int(sch.get(loop).extent)
        if straight > UNROLL_LIMIT:
            break
        sch.unroll(loop)


def unroll_and_vectorize(sch: Schedule, loops: list[LoopRV], vector: int) -> None:
    """Innermost loop in vectors of `vector` values, all others unrolled."""
    if not loops:
        return
    *rows, channels = loops
    if int(sch.get(channels).extent) > vector:
        several, channels = sch.split(channels, [None, vector])
        rows.append(several)
    for loop in rows:
        sch.unroll(loop)
    if vector > 1:
        sch.vectorize(channels)


def _elementwise(mod: tvm.IRModule, mach: CpuModel) -> Schedule | None:
    """All blocks inlined into the output, its innermost loop in vectors; None if one cannot be inlined."""
    sch = Schedule(mod)
    blocks = blocks_of(sch)
    if not blocks or any(REDUCTION in iter_kinds(sch, block) for block in blocks):
        return None
    tiles = [sch.get(block).annotations[TILE] for block in blocks if TILE in sch.get(block).annotations]
    try:
        for block in blocks[:-1]:
            sch.compute_inline(block)
        loops = list(sch.get_loops(blocks[-1]))
        if not loops:
            return sch
        if tiles:
            return _tiled(sch, loops, [int(number) for number in tiles[0]], mach)
        extents = [int(sch.get(loop).extent) for loop in loops]
        width = mach.vector(extents[-1])
        split, vector = sch.split(loops[-1], [None, width])
        if width > 1:
            sch.vectorize(vector)
        if mach.threads > 1 and math.prod(extents) >= PARALLEL_FLOPS:
            sch.parallel(sch.fuse(*loops[:-1], split))
    except tvm.s_tir.ScheduleError:
        return None
    return sch


def _tiled(sch: Schedule, loops: list[LoopRV], tile: Sequence[int], mach: CpuModel) -> Schedule:
    """Tiles of the output as straight code, so that what their values share is computed once; see `TILE`."""
    *axes, size = tile
    *outer, channels = loops
    extents = [int(sch.get(loop).extent) for loop in loops]
    inner = []
    for axis in axes:
        outer[axis], within = sch.split(outer[axis], [None, size])
        inner.append(within)
    several, vector = sch.split(channels, [None, mach.vector(extents[-1])])
    sch.reorder(*outer, several, *inner, vector)
    for loop in inner:
        sch.unroll(loop)
    sch.vectorize(vector)
    sch.annotate(outer[-1], BY_CASES, True)
    if mach.threads > 1 and math.prod(extents) >= PARALLEL_FLOPS:
        sch.parallel(sch.fuse(*outer[:-1]))
    else:
        sch.annotate(outer[-2], BY_CASES, True)
    return sch
