"""Schedule templates for CPUs: one design for every kernel with a single reduction.

Matrix products (1x1 convolutions), depthwise and standard convolutions, global pooling and the small
products of squeeze-and-excitation have one good shape on a SIMD machine: vectors over channels, a register
tile of several rows (pixels), the reduction outside that tile, the epilogue inside it, and a padded copy of
the few input lines in use. Only the tile sizes are open, and a rough count of cycles ranks them well. So a
kernel that was never tuned starts from a good schedule, and a few measured trials find the best one, where
MetaSchedule's generic space needs tens to hundreds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import tvm
from tvm.s_tir import Schedule
from tvm.s_tir.schedule import LoopRV, SBlockRV

_KEPT_INPUTS = 12  # registers in which LLVM keeps inputs that several taps of an unrolled window share
_UNROLL_LIMIT = 256  # scalar or vector multiply-adds in straight-line code
_FMA_LATENCY_X_UNITS = 8  # accumulators that keep two four-cycle FMA units busy
PARALLEL_FLOPS = 200_000  # below this, waking other threads costs more than it saves
_DATA_PARALLEL, REDUCTION = 0, 2  # tvm.tirx.IterVar kinds


@dataclass(frozen=True)
class Machine:
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


def computes_in_half(target: tvm.target.Target) -> bool:
    """Whether a CPU target multiplies and adds float16 vectors: ARM v8.2 and later."""
    return "fullfp16" in {str(name) for name in tvm.target.codegen.llvm_get_cpu_features(target)}


def machine(target: tvm.target.Target, dtype: str = "float32") -> Machine:
    """Vector unit for values of `dtype`, by LLVM's features, and threads of a CPU target."""
    # llvm_get_vector_width is no help: it says 512 for any x86.
    features = {str(name) for name in tvm.target.codegen.llvm_get_cpu_features(target)}
    threads = int(target.attrs.get("num-cores", 1))
    if "avx512f" in features:
        return Machine(lanes=16, registers=32, threads=threads)
    if "avx" in features:
        return Machine(lanes=8, registers=16, threads=threads)
    lanes = 8 if dtype == "float16" and computes_in_half(target) else 4
    return Machine(lanes=lanes, registers=32 if "neon" in features else 16, threads=threads)


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
    """

    reduction: str
    output: str
    padding: str | None
    spatial: tuple[int, ...]
    reduce: tuple[int, ...]
    padded: tuple[int, ...]


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


def design_space(mod: tvm.IRModule, mach: Machine) -> list[Schedule]:
    """Designs with sampled tile sizes for MetaSchedule; empty for kernels that no template covers."""
    anatomy = analyse(Schedule(mod))
    if anatomy is None:
        return []
    groups: dict[tuple[int, bool], list[Tiling]] = {}
    for tiling in tilings(anatomy, mach):
        groups.setdefault((tiling.width, tiling.channels_first), []).append(tiling)
    found = (_scheduled(mod, anatomy, mach, group) for group in groups.values())
    return [sch for sch in found if sch is not None]


def ranked_schedules(mod: tvm.IRModule, mach: Machine, hints: Sequence[Tiling] = ()) -> Iterator[Schedule]:
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


def count(mod: tvm.IRModule, mach: Machine) -> int | None:
    """How many schedules there are to try; None for a kernel that no template covers, where it is open."""
    anatomy = analyse(Schedule(mod))
    if anatomy is not None:
        return len(tilings(anatomy, mach))
    return None if _elementwise(mod, mach) is None else 1


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
    for name, block in zip(names, blocks, strict=True):
        if name == padding:
            padded = tuple(int(sch.get(loop).extent) for loop in sch.get_loops(block))
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
    value = getattr(sch.get(block).body, "value", None)
    return (
        isinstance(value, tvm.ir.Call)
        and value.op.name.endswith("if_then_else")
        and any(isinstance(branch, tvm.tirx.FloatImm | tvm.tirx.IntImm) for branch in value.args[1:])
    )


def iter_kinds(sch: Schedule, block: SBlockRV) -> list[int]:
    """Kinds of a block's axes, as numbers of tvm.tirx.IterVar."""
    return [int(v.iter_type) for v in sch.get(block).iter_vars]


def divisors(n: int) -> list[int]:
    """Divisors of `n`, ascending."""
    return [d for d in range(1, n + 1) if n % d == 0]


def tilings(anatomy: Anatomy, mach: Machine) -> list[Tiling]:
    """All tilings worth a trial, most promising first."""
    channels = anatomy.spatial[-1]
    row_extent = anatomy.spatial[-2] if len(anatomy.spatial) > 1 else 1
    line_extent = anatomy.spatial[-3] if anatomy.padding is not None and len(anatomy.spatial) > 2 else 1
    # LLVM reuses the inputs of a window across its taps, in registers; without room for them all spill.
    accumulators = mach.registers - (
        _KEPT_INPUTS * mach.registers // 32 if anatomy.padding is not None else 0
    )
    found = []
    for width in (d for d in divisors(channels) if d <= 4 * mach.lanes):
        vectors = width // mach.vector(width)
        for rows in divisors(row_extent):
            if rows > 1 and rows * vectors + vectors + 1 > accumulators:
                continue
            for lines in divisors(line_extent):
                # With one tile of channels or of pixels the order of the two loops is the same thing.
                one_order = width == channels or (rows, lines) == (row_extent, line_extent)
                found += [
                    Tiling(width, rows, lines, order) for order in ((True,) if one_order else (True, False))
                ]
    return sorted(found, key=lambda tiling: estimated_cycles(anatomy, tiling, mach))


def estimated_cycles(anatomy: Anatomy, tiling: Tiling, mach: Machine) -> float:
    """Rough cycles of a tiling on a core with two FMA and two load ports; only its order matters."""
    vectors = tiling.width // mach.vector(tiling.width)
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
    cycles = tiles * (taps * per_tap + 2 * multiply_adds + 4)
    if anatomy.padding is not None:
        return cycles + _padding_cycles(anatomy, tiling, mach)
    depth, height = taps, math.prod(anatomy.spatial[:-1])
    if tiling.channels_first:  # the panel of weights stays, the data is read again for every panel
        panel, reread = depth * tiling.width * 4, depth * height * 4 * (anatomy.spatial[-1] // tiling.width)
    else:  # a few rows of data stay, all weights are read again for every tile of rows
        panel = depth * tiling.rows * 4
        reread = depth * anatomy.spatial[-1] * 4 * (height // tiling.rows)
    return cycles * (1.1 if panel > mach.l1_bytes else 1.0) + reread / 256


def _padding_cycles(anatomy: Anatomy, tiling: Tiling, mach: Machine) -> float:
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
    vectors = copied // mach.vector(copied)
    spill = 1.0 if band_bytes <= mach.l1_bytes else 2.0 if band_bytes <= mach.l2_bytes else 4.0
    return repeats * (lines_total // tiling.lines) * band_lines * line_width * vectors * 2 * spill


def _scheduled(mod: tvm.IRModule, anatomy: Anatomy, mach: Machine, options: list[Tiling]) -> Schedule | None:
    """Schedule for options that share `width` and `channels_first`; rows and lines are sampled among them.

    None for a kernel that is not of the template's form although its anatomy looked like it.
    """
    try:
        return _apply_template(mod, anatomy, mach, options)
    except tvm.s_tir.ScheduleError:
        return None


def _apply_template(
    mod: tvm.IRModule, anatomy: Anatomy, mach: Machine, options: list[Tiling]
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
    if anatomy.padding is not None and loops:
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
    sch.reorder(*outer, *inner, row1, channel1)
    sch.compute_at(reduction, (outer + inner)[-1], preserve_unit_loops=True)
    if anatomy.padding is not None:
        padding = sch.get_sblock(anatomy.padding)
        sch.compute_at(padding, outer[-1], preserve_unit_loops=True)
        copied = sch.get_loops(padding)[-1]
        extent = sch.get(copied).extent
        if not isinstance(extent, tvm.tirx.IntImm):
            return None  # channels that share an input's channel: what they read depends on where they lie
        lanes = mach.vector(int(extent))
        if lanes > 1:
            sch.vectorize(sch.split(copied, [None, lanes])[1])
    work = 2 * math.prod(anatomy.spatial) * math.prod(anatomy.reduce)
    if mach.threads > 1 and work >= PARALLEL_FLOPS:
        sch.parallel(
            sch.fuse(*outer)
        )  # before the reduction is decomposed: its parts do not pass TVM's check
    depth = len(sch.get_loops(output)) - 2
    own = list(sch.get_loops(reduction))[depth:]
    spatial, reduce = own[: -len(anatomy.reduce)], own[-len(anatomy.reduce) :]
    sch.reorder(*reduce, *spatial)
    vector = mach.vector(width)
    unroll_and_vectorize(sch, [row1, channel1], vector)
    unroll_and_vectorize(sch, spatial, vector)
    if anatomy.padding is not None:
        straight = max(option.rows for option in options) * (width // vector)
        unroll_reduction(sch, reduce, straight)
    initial = sch.decompose_reduction(reduction, reduce[0])
    unroll_and_vectorize(sch, list(sch.get_loops(initial))[depth:], vector)
    return sch


def _choice(sch: Schedule, values: list[int]) -> tvm.tirx.Var:
    """A sampled tile size; earlier (more promising) values are drawn more often."""
    distinct = list(dict.fromkeys(values))
    weights = [1 / (1 + i) for i in range(len(distinct))]
    return sch.sample_categorical(distinct, [w / sum(weights) for w in weights], decision=0)


def unroll_reduction(sch: Schedule, loops: list[LoopRV], straight: int) -> None:
    """Unroll reductions from the innermost outwards around `straight` multiply-adds, up to the limit."""
    for loop in reversed(loops):
        straight *= int(sch.get(loop).extent)
        if straight > _UNROLL_LIMIT:
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


def _elementwise(mod: tvm.IRModule, mach: Machine) -> Schedule | None:
    """All blocks inlined into the output, its innermost loop in vectors; None if one cannot be inlined."""
    sch = Schedule(mod)
    blocks = blocks_of(sch)
    if not blocks or any(REDUCTION in iter_kinds(sch, block) for block in blocks):
        return None
    try:
        for block in blocks[:-1]:
            sch.compute_inline(block)
        loops = list(sch.get_loops(blocks[-1]))
        if not loops:
            return sch
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
