"""Schedule templates for GPU-kind targets: every thread computes a tile of pixels by channels in registers.

One design serves every kernel with a single reduction (matrix products, convolutions, pooling): padding and
epilogue are inlined, the tiles of the output are dealt out to blocks of threads with channels innermost, so
that neighbouring threads read neighbouring weights, and the reduction runs outside the unrolled tile. On a
device without threads that run in step (`thread_warp_size` 1: PoCL on a CPU) a thread's channels are one
explicit vector, and a block holds few threads; on a GPU vectors are short and blocks are large. Everything
else goes to TVM's own rules (dlight).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import tvm
from tvm.s_tir import Schedule

from ofa_tvm.compiler.anatomy import Anatomy, analyse
from ofa_tvm.compiler.schedules import unroll_and_vectorize, unroll_reduction
from ofa_tvm.compiler.tilings import divisors

_BOUND_LOOPS = 3  # of a tiled kernel: blocks, threads down, threads across
_OTHER_FORM = (tvm.s_tir.ScheduleError, RuntimeError)  # the kernel is not what its anatomy promised


@dataclass(frozen=True)
class GpuMachine:
    """What a GPU template needs to know of its target.

    Parameters
    ----------
    lanes
        Values in the longest vector that pays.
    registers
        Accumulators (vectors) that one thread keeps without spilling.
    threads
        Threads of a block at the most.
    parallel
        Threads in all below which the device is not busy.
    warp
        Threads that run in step.
    """

    lanes: int
    registers: int
    threads: int
    parallel: int
    warp: int


def gpu_machine(target: tvm.target.Target) -> GpuMachine:
    """CpuModel of a CUDA or OpenCL target."""
    warp = int(target.attrs.get("thread_warp_size", 32))
    limit = int(target.attrs.get("max_threads_per_block", target.attrs.get("max_num_threads", 256)))
    if warp == 1:
        return GpuMachine(lanes=16, registers=12, threads=min(limit, 16), parallel=8, warp=1)
    return GpuMachine(lanes=4, registers=16, threads=min(limit, 256), parallel=16384, warp=warp)


@dataclass(frozen=True)
class GpuTiling:
    """A thread's tile, `width` channels by `rows` pixels of a line, and a block, `across` by `down` tiles."""

    width: int
    rows: int
    across: int
    down: int

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.across * self.down


def ranked_schedules(mod: tvm.IRModule, target: tvm.target.Target) -> Iterator[Schedule]:
    """Schedules of a kernel in order of promise; at least one for every kernel that can run on a GPU."""
    mach = gpu_machine(target)
    if any(str(buffer.dtype) == "bool" for buffer in mod["main"].params):
        mach = replace(mach, lanes=1)  # OpenCL has no vectors of truth values
    anatomy = analyse(Schedule(mod))
    if anatomy is not None:
        for tiling in tilings(anatomy, mach):
            try:
                yield _apply_template(mod, anatomy, tiling)
            except _OTHER_FORM:
                break
    elementwise = _elementwise(mod, mach)
    if elementwise is not None:
        yield elementwise
        return
    fallback = _dlight(mod, target)
    if fallback is not None:
        yield fallback


def is_scheduled(function: tvm.tirx.PrimFunc) -> bool:
    """Whether all of a kernel's work is bound to a GPU's threads; what is not silently becomes host code."""
    free: list[tvm.tirx.Stmt] = []

    def visit(stmt: tvm.tirx.Stmt, bound: bool) -> None:
        match stmt:
            case tvm.tirx.For():
                visit(stmt.body, bound or stmt.thread_binding is not None)
            case tvm.tirx.AttrStmt():
                visit(stmt.body, bound or stmt.attr_key == "thread_extent")
            case tvm.tirx.SeqStmt():
                for part in stmt.seq:
                    visit(part, bound)
            case tvm.s_tir.SBlockRealize():
                visit(stmt.block.body, bound)
            case tvm.tirx.BufferStore():
                if not bound:
                    free.append(stmt)
            case _ if hasattr(stmt, "body"):
                visit(stmt.body, bound)

    visit(function.body, False)
    return not free


def tilings(anatomy: Anatomy, mach: GpuMachine) -> list[GpuTiling]:
    """Tilings worth a trial, most promising first."""
    channels = anatomy.spatial[-1]
    line = anatomy.spatial[-2] if len(anatomy.spatial) > 1 else 1
    found = []
    for width in (d for d in (1, 2, 4, 8, 16) if d <= mach.lanes and channels % d == 0):
        for rows in (d for d in divisors(line) if d * (width if mach.warp > 1 else 1) <= mach.registers * 4):
            if mach.warp == 1 and rows > mach.registers:
                continue
            for across in (d for d in divisors(channels // width) if d <= mach.threads):
                for down in (d for d in divisors(line // rows) if d * across <= mach.threads):
                    found.append(GpuTiling(width, rows, across, down))
    found.sort(key=lambda tiling: _cost(anatomy, tiling, mach))
    return found


def _cost(anatomy: Anatomy, tiling: GpuTiling, mach: GpuMachine) -> float:
    """Rough relative time of a tiling; only its order matters."""
    outputs = math.prod(anatomy.spatial)
    tiles = outputs / (tiling.width * tiling.rows)
    data = float(tiling.rows)
    if mach.warp == 1:
        # One vector multiply-add a row; one vector load of weights, one broadcast (or vector) a row.
        vectors = max(1.0, tiling.width / mach.lanes)
        work = tiling.rows * vectors + vectors + data + (4.0 if tiling.width < mach.lanes else 1.0)
        latency = max(1.0, 4.0 / tiling.rows)
        groups = tiles / tiling.threads
        few = 1.0 if groups >= mach.parallel else 1.2
        return tiles * (work * latency + 3.0 / tiling.threads) * few
    work = tiling.rows * tiling.width + 2.0 * (tiling.width / 4 + data)
    # Threads that the device lacks to hide its latency cost as much as work.
    idle = max(1.0, mach.parallel / tiles)
    partial = -(-tiling.threads // mach.warp) * mach.warp / tiling.threads
    small = 1.3 if tiling.threads < 2 * mach.warp else 1.0
    scattered = 1.0 if tiling.across * tiling.width >= 32 else 1.5  # neighbours read neighbouring weights
    return tiles * work * idle * partial * small * scattered


def _apply_template(mod: tvm.IRModule, anatomy: Anatomy, tiling: GpuTiling) -> Schedule:
    sch = Schedule(mod)
    analyse(sch)
    if anatomy.padding is not None:
        sch.compute_inline(sch.get_sblock(anatomy.padding))
    reduction = sch.get_sblock(anatomy.reduction)
    if anatomy.output == anatomy.reduction:
        output = sch.cache_write(reduction, 0, "local")
    else:
        output = sch.get_sblock(anatomy.output)
        for index in range(len(sch.get(reduction).writes)):  # an argmax keeps a value beside its index
            sch.set_scope(reduction, index, "local")
    loops = list(sch.get_loops(output))
    channel = loops.pop()
    row = loops.pop() if loops else sch.add_unit_loop(channel)
    row0, down, row1 = sch.split(row, [None, tiling.down, tiling.rows])
    channel0, across, channel1 = sch.split(channel, [None, tiling.across, tiling.width])
    sch.reorder(*loops, row0, channel0, down, across, row1, channel1)
    sch.bind(sch.fuse(*loops, row0, channel0), "blockIdx.x")
    sch.bind(down, "threadIdx.y")
    sch.bind(across, "threadIdx.x")
    sch.compute_at(reduction, across, preserve_unit_loops=True)
    own = list(sch.get_loops(reduction))[_BOUND_LOOPS:]
    spatial, reduce = own[: -len(anatomy.reduce)], own[-len(anatomy.reduce) :]
    sch.reorder(*reduce, *spatial)
    for tile in ([row1, channel1], spatial):
        unroll_and_vectorize(sch, tile, tiling.width)
    unroll_reduction(sch, reduce, tiling.rows)
    initial = sch.decompose_reduction(reduction, reduce[0])
    unroll_and_vectorize(sch, list(sch.get_loops(initial))[_BOUND_LOOPS:], tiling.width)
    return sch


def _holds_bytes(mod: tvm.IRModule) -> bool:
    """Whether a kernel reads or writes bytes, of which TVM writes vectors as OpenCL does not read them."""
    buffers = [buffer for function in mod.functions.values() for buffer in function.params]
    return any(str(buffer.dtype) in ("int8", "uint8") for buffer in buffers)


def _elementwise(mod: tvm.IRModule, mach: GpuMachine) -> Schedule | None:
    """All blocks inlined into the output, one vector a thread; None if one cannot be inlined."""
    sch = Schedule(mod)
    try:
        blocks = list(sch.get_child_blocks(sch.get_sblock("root")))
        for block in blocks[:-1]:
            sch.compute_inline(block)
        loops = list(sch.get_loops(blocks[-1]))
        if any(int(v.iter_type) != 0 for v in sch.get(blocks[-1]).iter_vars):
            return None
        if not loops:
            loops = [sch.add_unit_loop(blocks[-1])]
        width = 1 if _holds_bytes(mod) else math.gcd(int(sch.get(loops[-1]).extent), mach.lanes)
        outer, vector = sch.split(loops[-1], [None, width])
        fused = sch.fuse(*loops[:-1], outer)
        tiles = int(sch.get(fused).extent)
        threads = max(d for d in divisors(tiles) if d <= mach.threads)
        block, thread = sch.split(fused, [None, threads])
        sch.bind(block, "blockIdx.x")
        sch.bind(thread, "threadIdx.x")
        if width > 1:
            sch.vectorize(vector)
    except _OTHER_FORM:
        return None
    return sch


def _dlight(mod: tvm.IRModule, target: tvm.target.Target) -> Schedule | None:
    """TVM's own schedule for a kernel of another form, such as a softmax; None if it has none."""
    from tvm.s_tir import dlight

    rules = [dlight.gpu.GeneralReduction(), dlight.gpu.Fallback()]
    if int(target.attrs.get("thread_warp_size", 32)) == 1:
        rules = [dlight.gpu.Fallback()]  # reductions across threads cost a barrier a step on a CPU
    with target:
        for rule in rules:
            try:
                made = rule.apply(mod["main"], target, False)
            except Exception:  # a rule may fail in any way on a form that it does not expect
                continue
            if isinstance(made, Schedule):
                return made
    return None
