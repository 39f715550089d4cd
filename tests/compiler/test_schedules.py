"""Every schedule that the templates offer computes the same as the plain kernel."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import tvm
import tvm_ffi
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx_models import MODELS, Graph
from single_kernels import arguments, convolution, kernels, pooling, product, run, some, squeeze

from ofa_tvm.compiler import schedules
from ofa_tvm.compiler.anatomy import analyse
from ofa_tvm.compiler.build import kernels_of, lower_onnx
from ofa_tvm.compiler.cpu_model import CpuModel, cpu_model
from ofa_tvm.compiler.kernels import Kernel
from ofa_tvm.compiler.templates import templates_of
from ofa_tvm.compiler.tilings import estimated_cycles, tilings
from ofa_tvm.compiler.toolchain import load_cpu_intrinsics
from ofa_tvm.compiler.traces import scheduled_by_trace, trace_json
from ofa_tvm.targets import Target, get_target

CHANNELS = [1, 3, 10, 16, 17, 24, 64, 96, 1000]
MAPS = [(1, 1), (7, 7), (5, 9), (14, 14), (13, 4)]
EPILOGUES = ["", "bias", "bias relu", "bias hswish", "bias residual", "bias relu residual"]


@pytest.fixture(scope="module")
def target() -> Target:
    return get_target("x86")


def machine(target: Target) -> CpuModel:
    return cpu_model(target.tvm_target())


def only_moves(kernel: Kernel) -> bool:
    """Kernels at a network's edges: to and from channels-last, and away with padded channels."""
    return "transpose" in kernel.name or "slice" in kernel.name


def assert_schedules_agree(kernel: Kernel, target: Target, found: list[tvm.s_tir.Schedule]) -> None:
    arrays = arguments(kernel)
    expected = run(kernel.mod, target, arrays)
    tolerance = 2e-6 * max(1.0, float(np.abs(expected).max())) * 4
    for sch in found:
        got = run(sch.mod, target, arrays)
        np.testing.assert_allclose(
            got, expected, rtol=0, atol=tolerance, err_msg=f"{kernel.name}\n{sch.trace}"
        )


def assert_all_agree(graph: Graph, target: Target, most: int = 2) -> None:
    for kernel in kernels(graph, target):
        found = list(templates_of(target.tvm_target()).ranked(kernel.mod))
        assert found, f"no schedule for {kernel.name}"
        if not only_moves(kernel):
            assert_schedules_agree(kernel, target, some(iter(found), most))


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Pointwise, depthwise and standard convolutions, poolings and products of many shapes."""
    height, width = draw(st.sampled_from(MAPS))
    channels = draw(st.sampled_from(CHANNELS))
    k, stride = draw(st.sampled_from([1, 2, 3, 5, 7])), draw(st.sampled_from([1, 2]))
    pad = draw(st.booleans()) or k > min(height, width)
    epilogue = draw(st.sampled_from(EPILOGUES))
    batch = draw(st.sampled_from([1, 1, 2]))
    match draw(st.sampled_from(["pointwise", "depthwise", "standard", "pooling", "product", "squeeze"])):
        case "pointwise":
            out = draw(st.sampled_from(CHANNELS))
            return convolution(channels, out, height, width, epilogue=epilogue, batch=batch)
        case "depthwise":
            return convolution(
                channels, channels, height, width, max(k, 3), stride, groups=channels, epilogue=epilogue,
                pad=pad or max(k, 3) > min(height, width), batch=batch,
            )  # fmt: skip
        case "standard":
            out = draw(st.sampled_from(CHANNELS[:-1]))
            narrow = min(channels, 24)
            return convolution(narrow, out, height, width, k, stride, epilogue=epilogue, pad=pad, batch=batch)
        case "pooling":
            kind = draw(st.sampled_from(["MaxPool", "AveragePool"]))
            return pooling(channels, height, width, min(k, 3), stride, kind)
        case "product":
            return product(batch, draw(st.sampled_from(CHANNELS)), channels, activation="Relu")
    return squeeze(channels, height, width)


@pytest.mark.slow
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(graph=graphs())
def test_every_schedule_computes_the_same(graph: Graph) -> None:
    assert_all_agree(graph, get_target("x86"))


LARGE: dict[str, Callable[[], Graph]] = {
    "pointwise": lambda: convolution(80, 480, 14, 14, epilogue="bias hswish"),
    "depthwise": lambda: convolution(96, 96, 28, 20, 5, 2, groups=96, epilogue="bias relu"),
    "stem": lambda: convolution(3, 16, 64, 48, 3, 2, epilogue="bias hswish"),
    "standard": lambda: convolution(24, 40, 14, 14, 5, epilogue="bias residual", batch=2),
    "3x3": lambda: convolution(24, 40, 28, 28, 3, 2, epilogue="bias residual", batch=2),
    "grouped": lambda: convolution(24, 48, 14, 14, 3, groups=3, epilogue="bias"),
    "classifier": lambda: product(1, 1280, 1000),
}


@pytest.mark.slow
@pytest.mark.usefixtures("all_cpus")
@pytest.mark.parametrize("build", LARGE.values(), ids=LARGE)
def test_parallel_schedules_compute_the_same(build: Callable[[], Graph], target: Target) -> None:
    two = target.with_threads(2)
    for kernel in kernels(build(), two):
        found = list(schedules.ranked_schedules(kernel.mod, machine(two)))
        if not only_moves(kernel):
            assert "T.parallel" in found[0].mod["main"].script()
            assert_schedules_agree(kernel, two, some(iter(found), 3))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["x86-64-v2", "x86-64-v3"])
@pytest.mark.parametrize("kind", ["pointwise", "depthwise", "standard", "3x3"])
def test_shorter_vectors_compute_the_same(name: str, kind: str) -> None:
    assert_all_agree(LARGE[kind](), get_target(name))


def test_machines() -> None:
    found = {
        name: machine(get_target(name)) for name in ("x86-64-v2", "x86-64-v3", "x86-64-v4", "cortex-a72")
    }
    assert {name: (m.lanes, m.registers) for name, m in found.items()} == {
        "x86-64-v2": (4, 16),
        "x86-64-v3": (8, 16),
        "x86-64-v4": (16, 32),
        "cortex-a72": (4, 32),
    }


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pointwise", "depthwise", "standard", "3x3", "classifier"])
def test_mutated_designs_compute_the_same(kind: str, target: Target) -> None:
    """What MetaSchedule does: replay a design with other decisions."""
    load_cpu_intrinsics()
    rng = np.random.default_rng(0)
    for kernel in kernels(LARGE[kind](), target):
        if only_moves(kernel):
            continue
        designs = schedules.design_space(kernel.mod, machine(target))
        assert designs
        mutated = []
        for design in (designs[0], designs[len(designs) // 2], designs[-1]):
            trace = design.trace
            for instruction in trace.insts:
                if instruction.kind.name == "SampleCategorical":
                    choice = int(rng.integers(len(instruction.attrs[0])))
                    trace = trace.with_decision(instruction, choice, remove_postproc=False)
            sch = tvm.s_tir.Schedule(kernel.mod)
            trace.apply_to_schedule(sch, remove_postproc=False)
            mutated.append(sch)
        assert_schedules_agree(kernel, target, mutated)


@pytest.mark.parametrize("kind", ["pointwise", "depthwise", "classifier"])
def test_traces_survive_json(kind: str, target: Target) -> None:
    import json

    for kernel in kernels(LARGE[kind](), target):
        for sch in some(schedules.ranked_schedules(kernel.mod, machine(target)), 3):
            again = scheduled_by_trace(kernel.mod, json.loads(json.dumps(trace_json(sch))))
            assert tvm_ffi.structural_equal(again.mod, sch.mod)


def test_a_trace_of_another_kernel_does_not_fit(target: Target) -> None:
    (first,) = (k for k in kernels(LARGE["pointwise"](), target) if "matmul" in k.name)
    (second,) = (k for k in kernels(LARGE["depthwise"](), target) if "conv" in k.name)
    trace = trace_json(next(schedules.ranked_schedules(first.mod, machine(target))))
    with pytest.raises(ValueError, match="does not fit"):
        scheduled_by_trace(second.mod, trace)


def test_first_schedules_are_reasonable(target: Target) -> None:
    """Vectors, a tile of several accumulators where the shape allows, estimates in order."""
    mach = machine(target)
    for kind in ("pointwise", "depthwise", "standard"):
        (kernel,) = (k for k in kernels(LARGE[kind](), target) if not only_moves(k))
        anatomy = analyse(tvm.s_tir.Schedule(kernel.mod))
        assert anatomy is not None
        ranking = tilings(anatomy, mach)
        costs = [estimated_cycles(anatomy, tiling, mach) for tiling in ranking]
        assert costs == sorted(costs)
        assert len(set(ranking)) == len(ranking)
        best = ranking[0]
        assert mach.vector(best.width) >= min(mach.lanes, 8)
        assert best.rows * best.width // mach.vector(best.width) >= 4
        assert best.rows * best.width // mach.vector(best.width) <= mach.registers


@pytest.mark.slow
def test_the_first_schedule_is_among_the_faster_ones(target: Target) -> None:
    """The estimate is worth something: its first choice is not slower than most of the others, measured."""
    import statistics

    (kernel,) = (k for k in kernels(LARGE["pointwise"](), target) if "matmul" in k.name)
    tensors = [tvm.runtime.tensor(array) for array in arguments(kernel)]
    found = some(schedules.ranked_schedules(kernel.mod, machine(target)), 9)
    times = []
    for sch in found:
        library = tvm.compile(sch.mod, target=target.tvm_target())
        evaluator = library.jit().time_evaluator("main", tvm.cpu(), number=5, repeat=7)
        times.append(min(evaluator(*tensors).results))
    assert times[0] < statistics.median(times)


@pytest.mark.usefixtures("all_cpus")
@pytest.mark.parametrize("build", MODELS, ids=lambda build: build.__name__)
def test_whatever_a_model_holds_the_templates_do_not_raise(
    build: Callable[[], object], target: Target
) -> None:
    mod = lower_onnx(build(), target)
    mach = machine(target.with_threads(2))
    for kernel in kernels_of(mod).values():
        found = list(itertools.islice(schedules.ranked_schedules(kernel.mod, mach), 2))
        assert bool(schedules.design_space(kernel.mod, mach)) <= bool(found)
