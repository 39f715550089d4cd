"""Kernels of TE functions, made once: the same as the builder makes, and apart where anything differs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import tvm
from tvm import relax, te, tirx, topi

from ofa_tvm.compiler.constants import constant_of
from ofa_tvm.compiler.te_calls import call_te, elementwise_legalizers


def kernel_of(call_kernel: Any, *args: Any) -> tirx.PrimFunc:
    """The kernel that a call on a (4, 3) tensor and more is made with."""
    bb = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((4, 3), "float32"))
    with bb.function("main", [x]):
        made = call_kernel(bb, x, *args)
        bb.emit_func_output(bb.emit(made))
    (name,) = (v for v in bb.get().get_global_vars() if v.name_hint != "main")
    return bb.get()[name]


def scaled(data: te.Tensor, factor: Any, axes: list[int]) -> te.Tensor:
    offset = len(axes) + (10 if isinstance(factor, bool) else 0)
    return te.compute(data.shape, lambda *at: data(*at) * tirx.const(float(factor), "float32") + offset)


def test_a_kernel_is_the_builders() -> None:
    ours = kernel_of(lambda bb, *a: call_te(bb, scaled, *a), 2.5, [1, 2])
    tvms = kernel_of(lambda bb, *a: bb.call_te(scaled, *a), 2.5, [1, 2])
    tvm.ir.assert_structural_equal(ours, tvms)


@pytest.mark.parametrize(("one", "other"), [(0.0, -0.0), (1, True), (1.0, math.nan), (1.0, math.inf), (2, 3)])
def test_other_arguments_are_another_kernel(one: float, other: float) -> None:
    for number in (one, other, one):
        ours = kernel_of(lambda bb, *a: call_te(bb, scaled, *a), number, [])
        tvm.ir.assert_structural_equal(ours, kernel_of(lambda bb, *a: bb.call_te(scaled, *a), number, []))


@pytest.mark.parametrize("value", [2.0, -0.0, 0.0, math.nan, -math.inf, 1e-40])
@pytest.mark.parametrize("name", ["add", "multiply", "divide", "maximum", "power"])
def test_elementwise_operators_are_tvms(name: str, value: float) -> None:
    """A constant of rank 0 is part of the kernel, on either side; another, and zero of a product, is not."""
    x = relax.Var("x", relax.TensorType((4, 3), "float32"))
    scalar, row = constant_of(np.float32(value)), constant_of(np.full((3,), value, np.float32))
    pairs = [(x, row), (x, x)]
    if name not in ("multiply", "divide") or value:  # of zero TVM makes zero, whatever x is
        pairs += [(scalar, x), (x, scalar)]
    for left, right in pairs:
        bb = relax.BlockBuilder()
        with bb.function("main", [x]):
            bb.emit_func_output(bb.emit(getattr(relax.op, name)(left, right)))
        ours = relax.transform.LegalizeOps(elementwise_legalizers())(bb.get())
        tvm.ir.assert_structural_equal(ours, relax.transform.LegalizeOps()(bb.get()))


def test_a_shape_that_is_not_known_is_left_to_the_builder() -> None:
    n = tirx.Var("n", "int64")
    x = relax.Var("x", relax.TensorType((n, 3), "float32"))
    bb = relax.BlockBuilder()
    with bb.function("main", [x]):
        bb.emit_func_output(bb.emit(call_te(bb, topi.nn.relu, x)))
    assert not isinstance(bb.get()["main"].ret_ty.shape.values[0], tirx.IntImm)
