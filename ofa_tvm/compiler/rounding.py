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

    def quantize(data: te.Tensor, scale: te.Tensor, zero: te.Tensor) -> te.Tensor:
        def element(*indices: Any) -> tvm.ir.Expr:
            real = data(*indices).astype("float32")
            moved = te.nearbyint(real / _at(scale, indices, axis).astype("float32"))
            moved = moved + _at(zero, indices, axis).astype("float32")
            above = tirx.Select(moved > low, moved, tirx.const(low, "float32"))  # where NaN is not
            return te.min(above, tirx.const(high, "float32")).astype(dtype)

        return te.compute(data.shape, element, name="quantized")

    return bb.call_te(quantize, *call.args, primfunc_name_hint="quantize")


def _at(tensor: te.Tensor, indices: Sequence[Any], axis: int) -> tvm.ir.Expr:
    """The value for an element: the only one, or that of its index along the axis."""
    if all(int(size) == 1 for size in tensor.shape):
        return tensor(*[0] * len(tensor.shape))
    return tensor(indices[axis % len(indices)])
