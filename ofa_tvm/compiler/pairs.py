"""Values of bfloat16, and products of pairs of them: the operators that kernels in bfloat16 are made of.

A bfloat16 is the upper half of a float32. Kernels see its 16 bits as uint16:

- `nearest(x)` are those of the bfloat16 nearest to a float32, halfway to even ones; NaN stays NaN;
- `widened(b)` is the float32 with these upper bits;
- `dot2(a0, a1, w)` is a0 * w0 + a1 * w1 as float32. The factors a are bfloat16; w is one int32 that holds
  two, the first in its lower half.

To TVM's schedules they are operators like any other. What a CPU makes of them is decided behind all
scheduling (TVM's own legalization of bfloat16 would compute each value in float32):

- AVX512-BF16: `vcvtneps2bf16`, and `vdpbf16ps`, which adds to the accumulator and takes denormals for zero;
- ARM with bf16: `bfcvtn`, and `bfdot`;
- elsewhere the upper half is found by integer arithmetic, and products are of float32.

LLVM's intrinsics have vectors of bfloat16 for arguments, which TVM's code generator has not: they are called
by functions in LLVM's own language, which are inlined.

(Intel, Architectures Software Developer's Manual; Arm, A-profile A64 instruction set.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import tvm
import tvm_ffi
from tvm import te, tirx
from tvm.ir import Expr

from ofa_tvm.compiler.vectors import NEON_WORDS, lanes_of, pure_operator, splat, vector_of
from ofa_tvm.compiler.words import bound, is_choice, part, reinterpreted, shifted, words
from ofa_tvm.number_formats import bfloat16_products
from ofa_tvm.targets.tvm_target import cpu_features

REVISION = "pairs-2"
"""Part of a cached object file's key: to be raised with every change of the code that this module makes."""

PAIR = 2
_HALF = 16  # bits
_QUIET = 0x40  # of a bfloat16's bits: what makes a NaN of what was one of the lower half only
_DOT2 = pure_operator("tirx.ofa_tvm_dot2")
_NEAREST = pure_operator("tirx.ofa_tvm_nearest")
_WIDENED = pure_operator("tirx.ofa_tvm_widened")


def nearest(value: Expr | te.TensorSlice) -> Expr:
    """The bits of the bfloat16 nearest to a float32, as uint16."""
    return tirx.call_intrin("uint16", _NEAREST, value)


def widened(bits: Expr) -> Expr:
    """The float32 that has a bfloat16's bits, given as uint16."""
    return tirx.call_intrin("float32", _WIDENED, bits)


def dot2(factors: Sequence[Expr], weights: Expr | te.TensorSlice) -> Expr:
    """The sum of two products.

    Parameters
    ----------
    factors
        The bits of two values, as uint16.
    weights
        int32 that holds those of two others.
    """
    return tirx.call_intrin("float32", _DOT2, *factors, weights)


def pairs(weights: np.ndarray) -> np.ndarray:
    """float32 weights (..., 2), rounded to bfloat16, as int32 (...), the first in the lower half."""
    import ml_dtypes

    rounded = np.ascontiguousarray(weights, np.float32).astype(ml_dtypes.bfloat16)
    return rounded.view("<i4")[..., 0]


def has_pairs(body: tirx.Stmt) -> bool:
    """Whether there is a product of pairs in a statement."""
    found: list[bool] = []
    tvm_ffi.structural_walk(body, (tvm.ir.Call, lambda call: found.append(_is(call, _DOT2))))
    return any(found)


def folded(body: tirx.Stmt) -> tirx.Stmt:
    """The same without roundings of what was bfloat16 already.

    Parameters
    ----------
    body
        Of a scheduled kernel, before vectorization.
    """

    def simplified(call: tvm.ir.Call) -> Expr:
        return _bits(call.args[0]) if _is(call, _NEAREST) else call

    return tvm_ffi.structural_map(body, (tvm.ir.Call, simplified))


def _bits(value: Expr) -> Expr:
    """Those of a float32's nearest bfloat16, without rounding where it is one."""
    if _is(value, _WIDENED):
        return value.args[0]
    if isinstance(value, tirx.FloatImm) and value.value == 0 and math.copysign(1, value.value) == 1:
        return tirx.const(0, "uint16")
    if is_choice(value):
        condition, *sides = value.args
        return tirx.if_then_else(condition, *(_bits(side) for side in sides))
    return nearest(value)


def with_pairs(function: tirx.PrimFunc, target: tvm.target.Target) -> tirx.PrimFunc:
    """A vectorized function for a CPU whose operators on bfloat16 are instructions of that CPU.

    Parameters
    ----------
    function
        After vectorization.
    target
        What code is made for.
    """
    code = _Code(cpu_features(target), function.body)

    def added(node: tirx.Add) -> Expr:
        for total, call in ((node.a, node.b), (node.b, node.a)):
            if _is(call, _DOT2):
                return code.dot(total, call)
        return node

    def alone(call: tvm.ir.Call) -> Expr:
        if _is(call, _DOT2):
            return code.dot(splat(tirx.const(0, "float32"), lanes_of(call)), call)
        if _is(call, _NEAREST):
            return code.nearest(call.args[0])
        return _wide(call.args[0]) if _is(call, _WIDENED) else call

    body = tvm_ffi.structural_map(function.body, (tirx.Add, added))
    body = tvm_ffi.structural_map(body, (tvm.ir.Call, alone))
    if code.functions:
        text = tvm.ir.StringImm("\n".join(dict.fromkeys(code.functions.values())))
        body = tirx.AttrStmt(tirx.const(0, "int32"), "pragma_import_llvm", text, body)
    return function.with_body(body)


def _is(node: object, operator: tvm.ir.Op) -> bool:
    return isinstance(node, tvm.ir.Call) and node.op == operator


class _Code:
    """The code that is made.

    Parameters
    ----------
    features
        LLVM's, of the CPU.
    body
        What code is made of.

    Attributes
    ----------
    functions
        Those in LLVM's language that it calls, by name.
    """

    def __init__(self, features: frozenset[str], body: tirx.Stmt) -> None:
        self.native, self.neon = bool(bfloat16_products(features)), "neon" in features
        self.functions: dict[str, str] = {}
        self._analyzer = bound(body)

    def nearest(self, real: Expr) -> Expr:
        """The bits nearest to float32 values."""
        lanes = lanes_of(real)
        if self.native:
            return self._call("nearest", lanes, vector_of("uint16", lanes), real)
        variable = tirx.Var("real", vector_of("float32", lanes))
        return tirx.Let(variable, real, _nearest_by_arithmetic(variable))

    def dot(self, total: Expr, call: tvm.ir.Call) -> Expr:
        """Products added to as many float32."""
        *factors, weights = call.args
        lanes = lanes_of(weights)
        register = min(lanes, NEON_WORDS) if self.neon else lanes
        if not self.native or register not in _DOTS[self.neon]:
            return _dot_by_arithmetic(total, factors, weights)
        operands = total, words(factors, lanes, self._analyzer, neon=self.neon), weights
        parts = [
            self._call(
                "dot",
                register,
                vector_of("float32", register),
                *(part(value, start, register) for value in operands),
            )
            for start in range(0, lanes, register)
        ]
        return parts[0] if len(parts) == 1 else tirx.Shuffle(parts, list(range(lanes)))

    def _call(self, name: str, lanes: int, dtype: str, *operands: Expr) -> Expr:
        symbol = f"ofa_tvm_{name}_{lanes}"
        text = _DOT_TEXT if name == "dot" else _NEAREST_TEXT if lanes > 1 else _NEAREST_ONE
        intrinsic = _DOTS[self.neon].get(lanes, "")
        self.functions[symbol] = text.format(symbol=symbol, n=lanes, m=2 * lanes, intrinsic=intrinsic)
        return tirx.call_pure_extern(dtype, symbol, *operands)


_DOTS = {
    False: {
        4: "llvm.x86.avx512bf16.dpbf16ps.128",
        8: "llvm.x86.avx512bf16.dpbf16ps.256",
        16: "llvm.x86.avx512bf16.dpbf16ps.512",
    },
    True: {4: "llvm.aarch64.neon.bfdot.v4f32.v8bf16"},
}
"""LLVM's intrinsics by the number of sums, on x86 and on ARM."""

_DOT_TEXT = """
declare <{n} x float> @{intrinsic}(<{n} x float>, <{m} x bfloat>, <{m} x bfloat>)
define linkonce_odr <{n} x float> @{symbol}(<{n} x float> %t, <{n} x i32> %a, <{n} x i32> %w) alwaysinline {{
  %x = bitcast <{n} x i32> %a to <{m} x bfloat>
  %y = bitcast <{n} x i32> %w to <{m} x bfloat>
  %r = call <{n} x float> @{intrinsic}(<{n} x float> %t, <{m} x bfloat> %x, <{m} x bfloat> %y)
  ret <{n} x float> %r
}}"""

_NEAREST_TEXT = """
define linkonce_odr <{n} x i16> @{symbol}(<{n} x float> %x) alwaysinline {{
  %y = fptrunc <{n} x float> %x to <{n} x bfloat>
  %r = bitcast <{n} x bfloat> %y to <{n} x i16>
  ret <{n} x i16> %r
}}"""


_NEAREST_ONE = """
define linkonce_odr i16 @{symbol}(float %x) alwaysinline {{
  %y = fptrunc float %x to bfloat
  %r = bitcast bfloat %y to i16
  ret i16 %r
}}"""


def _nearest_by_arithmetic(real: Expr) -> Expr:
    """Half of the last bit that is kept is added, or a little less where that bit is even."""
    lanes = lanes_of(real)

    def constant(value: int) -> Expr:
        return splat(tirx.const(value, "uint32"), lanes)

    bits = reinterpreted(real, "uint32", lanes)
    upper = shifted(bits, _HALF, "right")
    rounded = bits + constant(0x7FFF) + tirx.bitwise_and(upper, constant(1))
    number = tirx.LE(real, splat(tirx.FloatImm("float32", math.inf), lanes))
    found = tirx.Select(number, shifted(rounded, _HALF, "right"), tirx.bitwise_or(upper, constant(_QUIET)))
    return tirx.Cast(vector_of("uint16", lanes), found)


def _wide(bits: Expr) -> Expr:
    lanes = lanes_of(bits)
    word = tirx.Cast(vector_of("uint32", lanes), bits)
    return reinterpreted(shifted(word, _HALF, "left"), "float32", lanes)


def _dot_by_arithmetic(total: Expr, factors: Sequence[Expr], weights: Expr) -> Expr:
    lanes = lanes_of(weights)
    upper = splat(tirx.const(-(1 << _HALF), "int32"), lanes)
    halves = shifted(weights, _HALF, "left"), tirx.bitwise_and(weights, upper)
    for factor, half in zip(factors, halves, strict=True):
        wide = _wide(factor.value) if isinstance(factor, tirx.Broadcast) else _wide(factor)
        total = total + splat(wide, lanes) * reinterpreted(half, "float32", lanes)
    return total
