"""Transfer: what a schedule's trace tells, and which tuned kernel counts as similar."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tvm.s_tir import Schedule

from ofa_tvm.compiler import schedules
from ofa_tvm.compiler.anatomy import analyse
from ofa_tvm.compiler.build import kernels_of, lower_onnx
from ofa_tvm.compiler.cpu_model import cpu_model
from ofa_tvm.compiler.kernels import Kernel
from ofa_tvm.compiler.tilings import tiling_of
from ofa_tvm.compiler.tilings import tilings as ranked_tilings
from ofa_tvm.compiler.traces import trace_json
from ofa_tvm.compiler.transfer import Transfer
from ofa_tvm.export import to_onnx
from ofa_tvm.logs import KernelTable, Record, Signature
from ofa_tvm.spaces import get_space
from ofa_tvm.supernet import build_supernet
from ofa_tvm.targets import get_target

TARGET = get_target("x86-64-v3")
SPACE = get_space("ofa_digits")


def kernels(resolution: int) -> list[Kernel]:
    net = build_supernet(SPACE, 10).eval()
    model = to_onnx(net.extract(SPACE.max_arch(resolution)), resolution, 1)
    return list(kernels_of(lower_onnx(model, TARGET)).values())


@pytest.fixture(scope="module")
def large() -> list[Kernel]:
    return kernels(48)


def test_a_trace_tells_its_tiling(large: list[Kernel]) -> None:
    mach = cpu_model(TARGET.tvm_target())
    seen = 0
    for kernel in large:
        anatomy = analyse(Schedule(kernel.mod))
        if anatomy is None:
            (only,) = list(schedules.ranked_schedules(kernel.mod, mach))[:1] or [None]
            assert only is None or tiling_of(trace_json(only)) is None
            continue
        ranked = ranked_tilings(anatomy, mach)[:6]
        for tiling, sch in zip(ranked, schedules.ranked_schedules(kernel.mod, mach), strict=False):
            found = tiling_of(trace_json(sch))
            assert found is not None
            # The order of two loops of which one runs once is not told apart.
            assert replace(found, channels_first=tiling.channels_first) == tiling
            seen += 1
    assert seen > 50


def test_hinted_tilings_come_first(large: list[Kernel]) -> None:
    mach = cpu_model(TARGET.tvm_target())
    kernel = next(k for k in large if k.name.startswith("matmul+add+relu"))
    anatomy = analyse(Schedule(kernel.mod))
    assert anatomy is not None
    ranked = ranked_tilings(anatomy, mach)
    hinted = list(schedules.ranked_schedules(kernel.mod, mach, [ranked[-1], ranked[3], ranked[3]]))
    assert len(hinted) == len(ranked)
    for sch, tiling in zip(hinted, [ranked[-1], ranked[3], ranked[0]], strict=False):
        found = tiling_of(trace_json(sch))
        assert found is not None
        assert found.distance(tiling) <= 0.5


def test_the_same_kernel_of_another_resolution_is_the_most_similar(large: list[Kernel]) -> None:
    mach = cpu_model(TARGET.tvm_target())
    table, tilings = KernelTable(), {}
    for kernel in large:
        for rank, sch in enumerate(schedules.ranked_schedules(kernel.mod, mach)):
            if rank == 2:
                trace = trace_json(sch)
                table.add(Record(kernel.key, kernel.signature, trace, (1.0,)))
                tilings[kernel.signature] = tiling_of(trace)
                break
    transfer = Transfer(table)
    checked = 0
    for kernel in large:
        if tilings.get(kernel.signature) is not None:
            assert transfer.hints(kernel)[0] == tilings[kernel.signature]
            checked += 1
    assert checked > 20
    # 40 pixels instead of 48: maps shrink to 0.69 of their rows, and the weights tell which block it is.
    for kernel in kernels(40):
        mine = kernel.signature
        if mine.operators[0] != "matmul":
            continue
        same = [
            tiling
            for other, tiling in tilings.items()
            if tiling and other.operators == mine.operators and other.shapes[1] == mine.shapes[1]
        ]
        if len(same) == 1:
            assert transfer.hints(kernel)[0] == same[0], kernel.name


def test_records_of_another_number_format_are_no_help(large: list[Kernel]) -> None:
    mach = cpu_model(TARGET.tvm_target())
    kernel = next(k for k in large if k.name.startswith("matmul+add+relu"))
    trace = trace_json(next(schedules.ranked_schedules(kernel.mod, mach)))
    single = kernel.signature
    assert set(single.dtypes) == {"float32"}
    half = replace(single, dtypes=("float16",) * len(single.dtypes))
    unknown = replace(single, dtypes=())  # as in logs of version 1
    raised = replace(half, dtypes=(*half.dtypes[:-1], "float32"))
    for known, asked, helps in (
        (single, single, True),
        (half, single, False),
        (single, half, False),
        (half, half, True),
        (half, raised, True),
        (unknown, single, True),
        (unknown, half, False),
    ):
        table = KernelTable()
        table.add(Record("k", known, trace, (1.0,)))
        assert bool(Transfer(table).hints(replace(kernel, signature=asked))) == helps, (known, asked)


def test_a_far_kernel_is_no_help(large: list[Kernel]) -> None:
    mach = cpu_model(TARGET.tvm_target())
    kernel = next(k for k in large if k.name.startswith("matmul+add+relu"))
    sch = next(schedules.ranked_schedules(kernel.mod, mach))
    far = Signature(kernel.signature.operators, ((9999, 4096), (256, 4096, 16), (9999, 4096)))
    table = KernelTable()
    table.add(Record("k", far, trace_json(sch), (1.0,)))
    assert Transfer(table).hints(kernel) == ()
    assert Transfer(KernelTable()).hints(kernel) == ()
