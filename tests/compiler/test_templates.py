"""What the templates of every kind of target keep to."""

from __future__ import annotations

import pytest
import tvm_ffi
from onnx_models import mlp, residual_network, sorting

from ofa_tvm.compiler.build import kernels_of, lower_onnx
from ofa_tvm.compiler.gpu_schedules import is_scheduled
from ofa_tvm.compiler.kernels import Kernel
from ofa_tvm.compiler.templates import templates_of
from ofa_tvm.compiler.traces import scheduled_by_trace, trace_json
from ofa_tvm.errors import UserError
from ofa_tvm.targets import Target, get_target

KINDS = ["x86-64-v3", "x86-64-v4", "cortex-a72", "opencl-pocl"]


@pytest.fixture(params=KINDS)
def target(request: pytest.FixtureRequest) -> Target:
    return get_target(request.param)


def kernels(target: Target) -> list[Kernel]:
    found = [
        k for model in (mlp(), residual_network()) for k in kernels_of(lower_onnx(model, target)).values()
    ]
    try:
        found += kernels_of(lower_onnx(sorting(), target)).values()
    except UserError:  # TVM's sorting on GPUs has no fixed shape
        assert templates_of(target.tvm_target()).device_code
    return found


@pytest.mark.slow
def test_every_kernel_can_run_and_is_counted(target: Target) -> None:
    templates = templates_of(target.tvm_target())
    for kernel in kernels(target):
        first, count = next(templates.ranked(kernel.mod), None), templates.count(kernel.mod)
        plain = templates.untemplated(kernel.mod)
        assert (first is None) == (plain is not None), kernel.name
        if templates.device_code:
            assert first is not None and is_scheduled(first.mod["main"]) and count is None
        else:
            assert (count is None) == (first is None), kernel.name
            assert count is None or len(list(templates.ranked(kernel.mod))) <= count


def test_the_first_schedule_is_rebuilt_from_its_trace(target: Target) -> None:
    templates = templates_of(target.tvm_target())
    for kernel in kernels(target):
        sch = next(templates.ranked(kernel.mod), None)
        if sch is not None:
            again = scheduled_by_trace(kernel.mod, trace_json(sch))
            assert tvm_ffi.structural_equal(again.mod, sch.mod), kernel.name


def test_lanes_fill_a_register() -> None:
    lanes = {name: templates_of(get_target(name).tvm_target()).lanes() for name in KINDS}
    assert lanes == {"x86-64-v3": 8, "x86-64-v4": 16, "cortex-a72": 4, "opencl-pocl": None}
