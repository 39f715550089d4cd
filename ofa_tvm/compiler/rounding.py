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

_NAME = "tirx.ofa_tvm_nearest"
tvm.ir.register_op_attr(_NAME, "TVectorizable", True)
tvm.ir.register_op_attr(_NAME, "TCallEffectKind", 1)  # tirx.CallEffectKind.Pure
tvm.ir.register_op_attr(_NAME, "TScriptPrinterName", "nearest")
_NEAREST = tvm.ir.Op.get(_NAME)  # int32 nearest to a float32, halves to even: one instruction on x86


def _by_llvm(call: tvm.ir.Call) -> tvm.ir.Expr:
    return tirx.call_llvm_pure_intrin(str(call.ty.dtype), "llvm.lrint", call.args[0])


def _rounded_before(call: tvm.ir.Call) -> tvm.ir.Expr:
    return tirx.Cast(str(call.ty.dtype), tirx.nearbyint(call.args[0]))


tirx.register_intrin_lowering(_NAME, target="llvm", f=_by_llvm, level=99)
tirx.register_intrin_lowering(_NAME, target="default", f=_rounded_before, level=99)


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
            real = real if step == 1 else real / _at(scale, indices, axis)
            at = _at(zero, indices, axis)
            least, most = (tirx.const(limit, "float32") - at for limit in (low, high))
            clipped = te.min(tirx.Select(real > least, real, least), most)  # NaN is not above
            whole = tirx.call_intrin("int32", _NEAREST, clipped)
            return (whole if point == 0 else whole + at.astype("int32")).astype(dtype)

        return te.compute(data.shape, element, name="quantized")

    return bb.call_te(quantize, call.args[0], *parameters, primfunc_name_hint="quantize")


def quantized(data: np.ndarray, scale: np.ndarray, zero: np.ndarray, dtype: str) -> np.ndarray:
    """Float32 values as `legal_quantize` makes them, by one scale and zero point."""
    limits, zero = np.iinfo(dtype), zero.astype(np.float32)
    low, high = np.float32(limits.min) - zero, np.float32(limits.max) - zero
    real = data / scale
    clipped = np.minimum(np.where(real > low, real, low), high)
    return (np.rint(clipped) + zero).astype(dtype)


def _scalar(expr: relax.Expr) -> float | None:
    """Value of a constant of rank 0, which becomes part of the kernel."""
    if not isinstance(expr, tvm.ir.GenericConst) or expr.value.numpy().ndim:
        return None
    return float(expr.value.numpy())


def _at(tensor: te.Tensor | float, indices: Sequence[Any], axis: int) -> tvm.ir.Expr:
    """The value for an element, in float32: the only one, or that of its index along the axis.

    A zero point is a whole number, so that what is clipped to it is rounded to it.
    """
    if isinstance(tensor, float):
        return tirx.const(tensor, "float32")
    if all(int(size) == 1 for size in tensor.shape):
        return tensor(*[0] * len(tensor.shape)).astype("float32")
    return tensor(indices[axis % len(indices)]).astype("float32")
