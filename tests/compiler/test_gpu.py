"""Models of every kind on an OpenCL device, and what GPU-kind targets refuse."""

from __future__ import annotations

from pathlib import Path

import pytest
from onnx_models import MODELS, Builder, Graph, mlp, residual_network, sorting
from opencl_device import needs_opencl
from test_generic_models import assert_equals_onnx_runtime
from tvm.s_tir import Schedule

import ofa_tvm
from ofa_tvm.compiler.build import kernels_of, lower_onnx
from ofa_tvm.compiler.gpu import gpu_executable
from ofa_tvm.compiler.gpu_schedules import is_scheduled
from ofa_tvm.compiler.objects import scheduled_kernel
from ofa_tvm.errors import UserError
from ofa_tvm.targets import get_target

OPENCL = ("opencl", "opencl-pocl")


@pytest.mark.slow
@needs_opencl
@pytest.mark.parametrize("name", OPENCL)
@pytest.mark.parametrize("build", [m for m in MODELS if m is not sorting], ids=lambda build: build.__name__)
def test_equals_onnx_runtime(build: Builder, name: str, tmp_path: Path) -> None:
    assert_equals_onnx_runtime(build(), get_target(name), tmp_path)


def test_sorting_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"operator \w+ \(node .*for opencl has no fixed shape; .*leave it out"
    ):
        ofa_tvm.compile(sorting(), get_target("opencl"), tmp_path / "m.so")


@needs_opencl
def test_a_batch(tmp_path: Path) -> None:
    assert_equals_onnx_runtime(residual_network(24, batch=3), get_target("opencl-pocl"), tmp_path)


@needs_opencl
def test_is_measured_on_its_device(tmp_path: Path) -> None:
    ofa_tvm.compile(mlp(), get_target("opencl-pocl"), tmp_path / "m.so")
    result = ofa_tvm.measure(tmp_path / "m.so", get_target("opencl-pocl"), repeats=5, seconds=0.5)
    assert result.median_ms is not None
    assert result.median_ms > 0


def test_a_kernel_without_a_schedule_is_refused() -> None:
    target = get_target("opencl")
    mod = lower_onnx(mlp(), target)
    kernels = kernels_of(mod)
    assert kernels
    plain = {name: scheduled_kernel(Schedule(k.mod), target.tvm_target()) for name, k in kernels.items()}
    assert not any(is_scheduled(kernel.function) for kernel in plain.values())
    with pytest.raises(UserError, match="has no schedule for opencl: it would run on the host"):
        gpu_executable(mod, plain, b"{}", target.tvm_target())


@needs_opencl
def test_the_library_carries_its_device_code(tmp_path: Path) -> None:
    ofa_tvm.compile(mlp(), get_target("opencl"), tmp_path / "m.so")
    content = (tmp_path / "m.so").read_bytes()
    assert content.count(b"__kernel void") >= 3


@needs_opencl
def test_truth_is_one(tmp_path: Path) -> None:
    """OpenCL's comparisons of vectors give -1."""
    g = Graph()
    x = g.input("x", 1, 16, 6, 6)
    positive = g.op("Greater", x, g.constant(0.0))
    model = g.model(g.op("Where", positive, x, g.constant(2.0)), g.op("Cast", positive, to=1), g.op("Elu", x))
    assert_equals_onnx_runtime(model, get_target("opencl-pocl"), tmp_path)
