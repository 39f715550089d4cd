"""ONNX's `QuantizeLinear` to the last bit: halves to even, saturated, and a defined result for NaN.

TVM's own definition leaves NaN to the conversion to integers, which each processor does in its own way.
ONNX says nothing of it; here it is the lowest integer, as in ONNX Runtime on x86.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tvm
from tvm import relax, te, tirx


def legal_quantize(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """For `LegalizeOps`: `relax.quantize` of floats, by one scale or one for each index of an axis."""
    dtype, axis = str(call.attrs.out_dtype), int(call.attrs.axis)
    limits = np.iinfo(dtype)
    low, high = float(limits.min), float(limits.max)
    step, point = (_scalar(argument) for argument in call.args[1:])
    parameters = [argument for argument in call.args[1:] if _scalar(argument) is None]

    def quantize(data: te.Tensor, *tensors: te.Tensor) -> te.Tensor:
        scale = tensors[0] if step is None else step
        zero = tensors[-1] if point is None else point

        def element(*indices: Any) -> tvm.ir.Expr:
            real = data(*indices).astype("float32")
            moved = te.nearbyint(real if step == 1 else real / _at(scale, indices, axis))
            moved = moved if point == 0 else moved + _at(zero, indices, axis)
            above = tirx.Select(moved > low, moved, tirx.const(low, "float32"))  # where NaN is not
            return te.min(above, tirx.const(high, "float32")).astype(dtype)

        return te.compute(data.shape, element, name="quantized")

    return bb.call_te(quantize, call.args[0], *parameters, primfunc_name_hint="quantize")


def _scalar(expr: relax.Expr) -> float | None:
    """Value of a constant of rank 0, which becomes part of the kernel."""
    if not isinstance(expr, tvm.ir.GenericConst) or expr.value.numpy().ndim:
        return None
    return float(expr.value.numpy())


def _at(tensor: te.Tensor | float, indices: Sequence[Any], axis: int) -> tvm.ir.Expr:
    """The value for an element, in float32: the only one, or that of its index along the axis."""
    if isinstance(tensor, float):
        return tirx.const(tensor, "float32")
    if all(int(size) == 1 for size in tensor.shape):
        return tensor(*[0] * len(tensor.shape)).astype("float32")
    return tensor(indices[axis % len(indices)]).astype("float32")
