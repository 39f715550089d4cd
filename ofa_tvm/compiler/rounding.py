"""ONNX's `QuantizeLinear` to the last bit: halves to even, saturated, and a defined result for NaN.

TVM's own definition leaves NaN to the conversion to integers, which each processor does in its own way.
ONNX says nothing of it; here it is the lowest integer, as in ONNX Runtime on x86.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import tvm
import tvm_ffi
from tvm import relax, te, tirx
from tvm.ir import Expr

from ofa_tvm.compiler.te_calls import call_te
from ofa_tvm.compiler.vectors import (
    BYTES,
    NEON_WORDS,
    element_of,
    lanes_of,
    pure_operator,
    splat,
    vector_of,
)
from ofa_tvm.targets.tvm_target import cpu_features

REVISION = "rounding-4"
"""Part of a cached object file's key: to be raised with every change of the code that this module makes."""

_QUANTIZED = pure_operator("tirx.ofa_tvm_quantized")  # a float32, rounded, an int32 added, saturated


def _lowered(call: tvm.ir.Call, to_int: Callable[[Expr], Expr]) -> Expr:
    """In any processor's operators: clipped, then rounded; NaN becomes the lowest."""
    real, point = call.args
    lanes, limits = lanes_of(call), np.iinfo(element_of(call))
    point = point.value if isinstance(point, tirx.Broadcast) else point  # else one for each value
    several = lanes_of(point)
    shift = tirx.Cast(vector_of("float32", several), point)
    least, most = (
        splat(splat(tirx.const(float(limit), "float32"), several) - shift, lanes)
        for limit in (limits.min, limits.max)
    )
    whole = to_int(tirx.min(tirx.Select(real > least, real, least), most))
    return tirx.Cast(str(call.ty.dtype), whole + splat(point, lanes))


def _nearest(dtype: str, real: Expr) -> Expr:
    return tirx.Cast(dtype, tirx.nearbyint(real))


def _nearest_by_llvm(dtype: str, real: Expr) -> Expr:
    return tirx.call_llvm_pure_intrin(dtype, "llvm.lrint", real)  # one instruction on x86


def _rule(nearest: Callable[[str, Expr], Expr]) -> Callable[[tvm.ir.Call], Expr]:
    def lower(call: tvm.ir.Call) -> Expr:
        return _lowered(call, partial(nearest, vector_of("int32", lanes_of(call))))

    return lower


_RULE = _rule(_nearest_by_llvm)
tirx.register_intrin_lowering(_QUANTIZED.name, target="llvm", f=_RULE, level=99)
tirx.register_intrin_lowering(_QUANTIZED.name, target="default", f=_rule(_nearest), level=99)


def with_saturation(function: tirx.PrimFunc, target: tvm.target.Target) -> tirx.PrimFunc:
    """A vectorized function for ARM or AVX2 that saturates as its instructions narrow, not before.

    Parameters
    ----------
    function
        After vectorization.
    target
        What code is made for; functions for others are returned as they are.
    """
    features = cpu_features(target)
    neon = "neon" in features
    if not neon and ("avx2" not in features or "avx512f" in features):
        return function

    def saturated(call: tvm.ir.Call) -> Expr:
        if not _is_quantized(call) or not isinstance(call.args[1], tirx.Broadcast):
            return call
        (real, point), lanes, dtype = call.args, lanes_of(call), element_of(call)
        if neon and dtype in BYTES and lanes % NEON_WORDS == 0:
            return _narrowed(real, point.value, lanes, dtype)
        if not neon and dtype == "uint8" and lanes == _AVX2_WORDS:
            return _packed(real, point.value)
        return call

    def stays_wide(cast: tirx.Cast) -> Expr:
        if neon or not _is_quantized(cast.value):
            return cast
        return tirx.Cast(cast.ty.dtype, _RULE(cast.value))

    body = tvm_ffi.structural_map(function.body, (tirx.Cast, stays_wide))
    return function.with_body(tvm_ffi.structural_map(body, (tvm.ir.Call, saturated)))


def _is_quantized(node: object) -> bool:
    return isinstance(node, tvm.ir.Call) and node.op == _QUANTIZED


_AVX2_WORDS = 8
_HIGHEST = 1e9  # what is more saturates; what is less than int32, and NaN, converts to the lowest int32


def _packed(real: Expr, point: Expr) -> Expr:
    """Eight uint8 by `vcvtps2dq`, the addition, `vpackssdw` to 16 bits, and `vpackuswb` to 8 bits."""
    intrinsic, highest = tirx.call_llvm_pure_intrin, splat(tirx.const(_HIGHEST, "float32"), _AVX2_WORDS)
    number = tirx.Select(real > highest, highest, real)  # NaN stays
    whole = intrinsic("int32x8", "llvm.x86.avx.cvt.ps2dq.256", number) + splat(point, _AVX2_WORDS)
    halves = [tirx.Shuffle([whole], list(range(start, start + 4))) for start in (0, 4)]
    shorts = intrinsic("int16x8", "llvm.x86.sse2.packssdw.128", *halves)
    made = intrinsic("int8x16", "llvm.x86.sse2.packuswb.128", shorts, shorts)
    return tirx.Shuffle([tirx.reinterpret("uint8x16", made)], list(range(_AVX2_WORDS)))


_LOWEST = -1e9  # what is less, and NaN, saturates


def _narrowed(real: Expr, point: Expr, lanes: int, dtype: str) -> Expr:
    """By `fcvtns`, `sqxtn` to 16 bits, the addition there, and `sqxtn` or `sqxtun` to 8 bits."""
    intrinsic, prefix = tirx.call_llvm_pure_intrin, "llvm.aarch64.neon."
    lowest, shorts = splat(tirx.const(_LOWEST, "float32"), NEON_WORDS), []
    for start in range(0, lanes, NEON_WORDS):
        part = tirx.Shuffle([real], list(range(start, start + NEON_WORDS)))
        number = intrinsic("float32x4", f"{prefix}fmaxnm.v4f32", part, lowest)
        whole = intrinsic("int32x4", f"{prefix}fcvtns.v4i32.v4f32", number)
        shorts.append(intrinsic("int16x4", f"{prefix}sqxtn.v4i16", whole))
    if len(shorts) == 1:
        shorts *= 2
    narrow, bytes_ = "sqxtun" if dtype == "uint8" else "sqxtn", []
    for low, high in zip(shorts[::2], shorts[1::2], strict=True):
        both = tirx.Shuffle([low, high], list(range(2 * NEON_WORDS)))
        both = intrinsic("int16x8", "llvm.sadd.sat.v8i16", both, splat(tirx.Cast("int16", point), 8))
        made = intrinsic("int8x8", f"{prefix}{narrow}.v8i8", both)
        bytes_.append(tirx.reinterpret(f"{dtype}x8", made))
    return tirx.Shuffle(bytes_, list(range(lanes)))


def legal_quantize(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """For `LegalizeOps`: `relax.quantize` of floats, by one scale or one for each index of an axis."""
    dtype, axis = str(call.attrs.out_dtype), int(call.attrs.axis)
    step, point = (_scalar(argument) for argument in call.args[1:])
    parameters = [argument for argument in call.args[1:] if _scalar(argument) is None]
    return call_te(bb, _quantize, dtype, axis, step, point, call.args[0], *parameters, name="quantize")


def _quantize(
    dtype: str, axis: int, step: float | None, point: float | None, data: te.Tensor, *parameters: te.Tensor
) -> te.Tensor:
    scale = parameters[0] if step is None else step
    zero = parameters[-1] if point is None else point

    def element(*indices: Any) -> Expr:
        real = data(*indices).astype("float32")
        real = real if step == 1 else real / _at(scale, indices, axis)
        return tirx.call_intrin(dtype, _QUANTIZED, real, _at(zero, indices, axis).astype("int32"))

    return te.compute(data.shape, element, name="quantized")


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


def _at(tensor: te.Tensor | float, indices: Sequence[Any], axis: int) -> Expr:
    """The value for an element, in float32: the only one, or that of its index along the axis."""
    if isinstance(tensor, float):
        return tirx.const(tensor, "float32")
    if all(int(size) == 1 for size in tensor.shape):
        return tensor(*[0] * len(tensor.shape)).astype("float32")
    return tensor(indices[axis % len(indices)]).astype("float32")
