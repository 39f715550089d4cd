"""What identifies a kernel: its structure, not the network, the process or the names that it came from."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx_models import MODELS, Builder, mlp, residual_network
from single_kernels import convolution, kernels

from ofa_tvm.compiler import schedules
from ofa_tvm.compiler.build import kernels_of, lower_onnx
from ofa_tvm.compiler.cpu_model import cpu_model
from ofa_tvm.compiler.kernels import Kernel
from ofa_tvm.compiler.traces import scheduled_by_trace, trace_json
from ofa_tvm.targets import Target, get_target


@pytest.fixture(scope="module")
def target() -> Target:
    return get_target("x86")


def by_key(model: onnx.ModelProto, target: Target) -> dict[str, Kernel]:
    return {kernel.key: kernel for kernel in kernels_of(lower_onnx(model, target)).values()}


def renamed(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same network, every value and node named otherwise."""
    other = onnx.ModelProto.FromString(model.SerializeToString())
    graph = other.graph
    for node in graph.node:
        node.name = f"padded_{node.name}"
        for names in (node.input, node.output):
            names[:] = [name and f"pad_{name}_other" for name in names]
    for value in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
        value.name = f"pad_{value.name}_other"
    return other


@pytest.mark.parametrize("build", MODELS, ids=lambda build: build.__name__)
def test_names_in_a_network_do_not_matter(build: Builder, target: Target) -> None:
    """Kernels of a renamed network have the same keys, and the schedules of one fit the other."""
    first, second = by_key(build(), target), by_key(renamed(build()), target)
    assert first.keys() == second.keys()
    mach = cpu_model(target.tvm_target())
    for key, kernel in first.items():
        assert second[key].signature == kernel.signature
        schedule = next(schedules.ranked_schedules(kernel.mod, mach), None)
        if schedule is not None:
            scheduled_by_trace(second[key].mod, trace_json(schedule))


def test_subnets_share_kernels(target: Target) -> None:
    import ofa_tvm
    from ofa_tvm.export import to_onnx

    space = ofa_tvm.get_space("ofa_digits")
    net = ofa_tvm.build_supernet(space, 10).eval()
    small, large = (
        by_key(to_onnx(net.extract(arch), 32, 1), target) for arch in (space.min_arch(32), space.max_arch(32))
    )
    shared = small.keys() & large.keys()
    assert len(shared) >= 8  # stem, head, reductions
    assert len(large) > len(shared) < len(small)
    mach = cpu_model(target.tvm_target())
    for key in shared:
        scheduled_by_trace(large[key].mod, trace_json(next(schedules.ranked_schedules(small[key].mod, mach))))


def key_of(kernel_name: str, target: Target, **settings: object) -> str:
    base = {"c_in": 8, "c_out": 16, "height": 6, "width": 6, "epilogue": "bias relu"}
    arguments: dict[str, Any] = base | settings
    (key,) = (k.key for k in kernels(convolution(**arguments), target) if kernel_name in k.name)
    return key


def test_shapes_strides_and_epilogues_make_other_kernels(target: Target) -> None:
    variants: list[dict[str, object]] = [
        {},
        {"c_in": 16},
        {"c_out": 8},
        {"height": 7},
        {"batch": 2},
        {"epilogue": "bias"},
        {"epilogue": "bias hswish"},
        {"epilogue": "bias relu residual"},
    ]
    keys = [key_of("matmul", target, **variant) for variant in variants]
    assert len(set(keys)) == len(keys)
    spatial = [{"k": 3}, {"k": 5}, {"k": 3, "stride": 2}, {"k": 3, "pad": False}, {"k": 3, "groups": 2}]
    keys = [key_of("conv2d", target, **variant) for variant in spatial]
    assert len(set(keys)) == len(keys)
    assert key_of("matmul", target) == key_of("matmul", target)


@pytest.mark.slow
def test_keys_are_equal_in_every_process(target: Target) -> None:
    program = (
        "import json, onnx_models, test_kernels\n"
        "from ofa_tvm.targets import get_target\n"
        "found = test_kernels.by_key(onnx_models.residual_network(), get_target('x86'))\n"
        "print(json.dumps(sorted(found)))\n"
    )
    here = Path(__file__).resolve().parent
    path = os.pathsep.join([str(here), str(here.parents[1])])
    environment = os.environ | {"PYTHONPATH": path, "PYTHONHASHSEED": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, check=True, capture_output=True, text=True
    )
    keys = json.loads(done.stdout.splitlines()[-1])
    assert keys == sorted(by_key(residual_network(), target))
    assert all(re.fullmatch("[0-9a-f]{16}", key) for key in keys)


def test_names_are_readable(target: Target) -> None:
    kernel = list(by_key(mlp(), target).values())[1]
    assert kernel.name.startswith("matmul+add+tanh 1x17,") and kernel.name.endswith(",32->1x32")
    assert kernel.signature.operators == ("matmul", "add", "tanh")
    assert (kernel.signature.shapes[0], kernel.signature.shapes[-1]) == ((1, 17), (1, 32))
    assert set(kernel.signature.dtypes) == {"float32"}


def test_number_formats_are_told(target: Target) -> None:
    """Of a network in half precision the products are, and sums and the edges of the network are not."""
    found = by_key(mlp(), target.with_dtype("float16")).values()
    products = [kernel.signature for kernel in found if kernel.signature.has_product]
    assert products and all(signature.dtypes[1] == "float16" for signature in products)
    assert any("float32" in kernel.signature.dtypes for kernel in found)


def test_operations_are_counted(target: Target) -> None:
    (kernel,) = (k for k in kernels(convolution(8, 16, 6, 6), target) if "matmul" in k.name)
    assert kernel.flops == 2 * 8 * 16 * 36
