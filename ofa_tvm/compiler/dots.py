"""Four products of bytes, added: the operator that integer kernels are made of.

`dot4(a0, a1, a2, a3, w)` is a0 * w0 + a1 * w1 + a2 * w2 + a3 * w3 as int32. The factors a are uint8 or int8;
w is one int32 that holds four int8, the first in its lowest byte. To TVM's schedules it is an operator like
any other, so integer kernels have the templates of all; what a CPU makes of it is decided behind all
scheduling:

- AVX512-VNNI and AVX-VNNI: `vpdpbusd`, which adds to the accumulator;
- other x86: two `vpmaddwd` of bytes widened to 16 bits (`vpmaddubsw` saturates, so it is never used);
- ARM with dotprod: `sdot`, with i8mm `usdot`;
- elsewhere plain arithmetic in 32 bits.

(Intel, Architectures Software Developer's Manual; Arm, A-profile A64 instruction set.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import tvm
import tvm_ffi
from tvm import te, tirx
from tvm.ir import Expr
from tvm.sym.analyzer import Analyzer

from ofa_tvm.compiler.cpu_model import cpu_features

REVISION = "dots-1"
"""Part of a cached object file's key: to be raised with every change of the code that this module makes."""

_NAME = "tirx.ofa_tvm_dot4"
_BYTES = 4

tvm.ir.register_op_attr(_NAME, "TVectorizable", True)
tvm.ir.register_op_attr(_NAME, "TCallEffectKind", 1)  # tirx.CallEffectKind.Pure
tvm.ir.register_op_attr(_NAME, "TScriptPrinterName", "dot4")
_DOT4 = tvm.ir.Op.get(_NAME)


def dot4(factors: Sequence[Expr | te.TensorSlice], weights: Expr | te.TensorSlice) -> Expr:
    """The sum of four products.

    Parameters
    ----------
    factors
        Four values, all uint8 or all int8.
    weights
        int32 that holds four int8.
    """
    return tirx.call_intrin("int32", _DOT4, *factors, weights)


def quads(weights: np.ndarray) -> np.ndarray:
    """int8 weights (..., 4) as int32 (...), the first in the lowest byte."""
    return np.ascontiguousarray(weights, np.int8).view("<i4")[..., 0]


def with_dots(function: tirx.PrimFunc, target: tvm.target.Target) -> tirx.PrimFunc:
    """A vectorized function for a CPU whose dots are instructions of that CPU.

    Parameters
    ----------
    function
        After vectorization.
    target
        What code is made for.
    """
    features = cpu_features(target)
    if not has_dots(function.body):
        return function

    def added(node: tirx.Add) -> Expr:
        for total, call in ((node.a, node.b), (node.b, node.a)):
            if _is_dot(call):
                return _Dot.of(call).added_to(total, features)
        return node

    def alone(call: tvm.ir.Call) -> Expr:
        if not _is_dot(call):
            return call
        dot = _Dot.of(call)
        return dot.added_to(_splat(tirx.const(0, "int32"), dot.lanes), features)

    body = tvm_ffi.structural_map(function.body, (tirx.Add, added))
    return function.with_body(tvm_ffi.structural_map(body, (tvm.ir.Call, alone)))


def has_dots(body: tirx.Stmt) -> bool:
    """Whether there is a dot in a statement."""
    found: list[bool] = []
    tvm_ffi.structural_walk(body, (tvm.ir.Call, lambda call: found.append(_is_dot(call))))
    return any(found)


def _is_dot(node: object) -> bool:
    return isinstance(node, tvm.ir.Call) and node.op == _DOT4


@dataclass(frozen=True)
class _Dot:
    """A vector of dots: its factors and weights, and how many there are."""

    factors: tuple[Expr, ...]
    weights: Expr
    lanes: int

    @classmethod
    def of(cls, call: tvm.ir.Call) -> _Dot:
        *factors, weights = call.args
        return cls(tuple(factors), weights, _lanes(weights))

    def added_to(self, total: Expr, features: frozenset[str]) -> Expr:
        """The dots added to as many int32, by the CPU's best instructions."""
        signed = _element(self.factors[0]) == "int8"
        make = _instruction(self.lanes, features, signed)
        return self._by_arithmetic(total) if make is None else make(total, self._quads(), self.weights)

    def _quads(self) -> Expr:
        """The factors as int32, four bytes each."""
        return _interleaved(self.factors, self.lanes)

    def _by_arithmetic(self, total: Expr) -> Expr:
        dtype = _vector("int32", self.lanes)
        for i, factor in enumerate(self.factors):
            byte = _shifted(_shifted(self.weights, 24 - 8 * i, "left"), 24, "right")
            total = total + tirx.Cast(dtype, factor) * byte
        return total


def _interleaved(factors: Sequence[Expr], lanes: int) -> Expr:
    if all(isinstance(factor, tirx.Broadcast) for factor in factors):
        return _splat(_word([factor.value for factor in factors]), lanes)
    if lanes == 1:
        return _word(factors)
    order = [lanes * byte + lane for lane in range(lanes) for byte in range(_BYTES)]
    vectors = [_as_vector(factor, lanes) for factor in factors]
    return _reinterpreted(tirx.Shuffle(vectors, order), "int32", lanes)


def _as_vector(factor: Expr, lanes: int) -> Expr:
    return factor if _lanes(factor) == lanes else _splat(factor, lanes)


def _word(factors: Sequence[Expr]) -> Expr:
    """Four scalars as one int32: one load where they lie side by side, once for both sides of a choice."""
    first = factors[0]
    if all(_is_choice(factor) for factor in factors):
        condition = first.args[0]
        if all(tvm_ffi.structural_equal(factor.args[0], condition) for factor in factors[1:]):
            sides = [_word([factor.args[i] for factor in factors]) for i in (1, 2)]
            return tirx.if_then_else(condition, *sides)
    if _side_by_side(factors):
        ramp = tirx.Ramp(first.indices[0], tirx.const(1, _element(first.indices[0])), _BYTES)
        return _reinterpreted(tirx.BufferLoad(first.source, [ramp]), "int32", 1)
    word = _byte(factors[0])
    for i, factor in enumerate(factors[1:], 1):
        word = tirx.bitwise_or(word, tirx.shift_left(_byte(factor), tirx.const(8 * i, "uint32")))
    return tirx.reinterpret("int32", word)


def _byte(factor: Expr) -> Expr:
    """A scalar's eight bits in the lowest ones of a uint32."""
    if isinstance(factor, tirx.IntImm):
        return tirx.const(int(factor) & 0xFF, "uint32")
    return tirx.bitwise_and(tirx.Cast("uint32", factor), tirx.const(0xFF, "uint32"))


def _is_choice(factor: Expr) -> bool:
    return isinstance(factor, tvm.ir.Call) and str(factor.op.name).endswith("if_then_else")


def _side_by_side(factors: Sequence[Expr]) -> bool:
    if not all(isinstance(factor, tvm.ir.TensorLoad) and len(factor.indices) == 1 for factor in factors):
        return False
    first, analyzer = factors[0], Analyzer()
    return all(
        factor.source.same_as(first.source)
        and analyzer.can_prove_equal(factor.indices[0] - first.indices[0], i)
        for i, factor in enumerate(factors)
    )


Instruction = Callable[[Expr, Expr, Expr], Expr]
"""Of accumulators, factors and weights, all int32 vectors of equal length."""


def _instruction(lanes: int, features: frozenset[str], signed: bool) -> Instruction | None:
    """The best way to add `lanes` dots; None where there is none but arithmetic."""
    if "sse2" in features:
        return None if signed else _x86_instruction(lanes, features)
    if lanes == 4 and signed and "dotprod" in features:
        return partial(_by_bytes, "llvm.aarch64.neon.sdot.v4i32.v16i8")
    if lanes == 4 and not signed and "i8mm" in features:
        return partial(_by_bytes, "llvm.aarch64.neon.usdot.v4i32.v16i8")
    return None


def _x86_instruction(lanes: int, features: frozenset[str]) -> Instruction | None:
    short = "avxvnni" in features or {"avx512vnni", "avx512vl"} <= features
    if (lanes == 16 and "avx512vnni" in features) or (lanes in (4, 8) and short):
        return partial(_by_bytes, f"llvm.x86.avx512.vpdpbusd.{32 * lanes}")
    name = {4: "llvm.x86.sse2.pmadd.wd"}
    if "avx2" in features:
        name[8] = "llvm.x86.avx2.pmadd.wd"
    if "avx512bw" in features:
        name[16] = "llvm.x86.avx512.pmaddw.d.512"
    return partial(_by_words, name[lanes]) if lanes in name else None


def _by_bytes(name: str, total: Expr, factors: Expr, weights: Expr) -> Expr:
    """By an instruction that adds four products of bytes to each int32."""
    lanes = _lanes(total)
    operands = (_reinterpreted(value, "int8", _BYTES * lanes) for value in (factors, weights))
    return tirx.call_llvm_pure_intrin(_vector("int32", lanes), name, total, *operands)


def _by_words(name: str, total: Expr, factors: Expr, weights: Expr) -> Expr:
    """By an instruction that adds two products of 16-bit integers: bytes 0 and 2, then bytes 1 and 3."""
    lanes = _lanes(total)
    unsigned, signed = (partial(_reinterpreted, dtype=d, lanes=2 * lanes) for d in ("uint16", "int16"))
    low, high = tirx.const(0xFF, "uint16"), tirx.const(8, "uint16")
    pairs = (
        (
            tirx.bitwise_and(unsigned(factors), _splat(low, 2 * lanes)),
            _shifted(_shifted(signed(weights), 8, "left"), 8, "right"),
        ),
        (
            tirx.shift_right(unsigned(factors), _splat(high, 2 * lanes)),
            _shifted(signed(weights), 8, "right"),
        ),
    )
    for values, factor in pairs:
        total = total + tirx.call_llvm_pure_intrin(_vector("int32", lanes), name, signed(values), factor)
    return total


def _shifted(value: Expr, bits: int, direction: str) -> Expr:
    """Integers shifted; to the right with their sign."""
    if not bits:
        return value
    amount = _splat(tirx.const(bits, _element(value)), _lanes(value))
    return tirx.shift_left(value, amount) if direction == "left" else tirx.shift_right(value, amount)


def _reinterpreted(value: Expr, dtype: str, lanes: int) -> Expr:
    return tirx.reinterpret(_vector(dtype, lanes), value)


def _splat(value: Expr, lanes: int) -> Expr:
    return value if lanes == 1 else tirx.Broadcast(value, lanes)


def _vector(dtype: str, lanes: int) -> str:
    return dtype if lanes == 1 else f"{dtype}x{lanes}"


def _lanes(value: Expr) -> int:
    return int(tvm.DataType(str(value.ty.dtype)).lanes)


def _element(value: Expr) -> str:
    return str(value.ty.dtype).partition("x")[0]
