"""Four products of bytes, added, or two: the operators that integer kernels are made of.

`dot4(a0, a1, a2, a3, w)` is a0 * w0 + a1 * w1 + a2 * w2 + a3 * w3 as int32. The factors a are uint8 or int8;
w is one int32 that holds four int8, the first in its lowest byte. To TVM's schedules it is an operator like
any other, so integer kernels have the templates of all; what a CPU makes of it is decided behind all
scheduling:

- AVX512-VNNI and AVX-VNNI: `vpdpbusd`, which adds to the accumulator;
- other x86: two `vpmaddwd` of bytes widened to 16 bits; or `vpmaddubsw`, which adds two products in 16 bits
  and saturates, where the weights leave no sum that it could cut (`has_short_sums`);
- ARM with dotprod: `sdot`, with i8mm `usdot`;
- other ARM: `smull`, whose products of 16 bits are added in pairs (`addp`, `sadalp`);
- elsewhere plain arithmetic in 32 bits.

`dot2(a0, a1, w)` is a0 * w0 + a1 * w1 as int32, of uint8 and of one int32 that holds two int16: `vpmaddwd` on
x86, plain arithmetic elsewhere.

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

from ofa_tvm.compiler.vectors import NEON_WORDS, element_of, lanes_of, pure_operator, splat, vector_of
from ofa_tvm.compiler.words import bound, part, reinterpreted, shifted, words, zipped
from ofa_tvm.targets.tvm_target import cpu_features

REVISION = "dots-6"
"""Part of a cached object file's key: to be raised with every change of the code that this module makes."""

BYTES_A_WORD, PAIR = 4, 2
_SHORT_SUM = np.iinfo(np.int16).max // np.iinfo(np.uint8).max  # of two weights of one sign: 128
_DOT4 = pure_operator("tirx.ofa_tvm_dot4")
_DOT2 = pure_operator("tirx.ofa_tvm_dot2_of_bytes")


def dot4(
    factors: Sequence[Expr | te.TensorSlice], weights: Expr | te.TensorSlice, *, narrow: bool = False
) -> Expr:
    """The sum of four products.

    Parameters
    ----------
    factors
        Four values, all uint8 or all int8.
    weights
        int32 that holds four int8; uint32 says that their sums are short (`has_short_sums`).
    narrow
        Whether none of these is -128: then two products of signed bytes are at most 32,512, 16 bits.
    """
    return tirx.call_intrin("int32", _DOT4, *factors, weights, tirx.const(int(narrow), "int32"))


def dot2(factors: Sequence[Expr], weights: Expr | te.TensorSlice) -> Expr:
    """The sum of two products.

    Parameters
    ----------
    factors
        Two uint8.
    weights
        int32 that holds two int16.
    """
    return tirx.call_intrin("int32", _DOT2, *factors, weights)


def int16_pairs(weights: np.ndarray) -> np.ndarray:
    """int8 weights (..., 2) as int32 (...) of two int16, the first in the lower half."""
    return np.ascontiguousarray(weights, np.int16).view("<i4")[..., 0]


def quads(weights: np.ndarray, *, short: bool = False) -> np.ndarray:
    """int8 weights (..., 4) as int32 (...), the first in the lowest byte; uint32 where sums are `short`."""
    return np.ascontiguousarray(weights, np.int8).view("<u4" if short else "<i4")[..., 0]


def has_short_sums(weights: np.ndarray) -> bool:
    """Whether uint8 times int8 weights (..., 4), added in pairs from the first on, never leave 16 bits."""
    pairs = weights.reshape(*weights.shape[:-1], -1, 2).astype(np.int16)
    one_sign = np.maximum(np.maximum(pairs, 0).sum(-1), np.maximum(-pairs, 0).sum(-1))
    return bool((one_sign <= _SHORT_SUM).all())


def is_narrow(weights: np.ndarray) -> bool:
    """Whether none of int8 weights is -128."""
    return bool(weights.size and weights.min() > np.iinfo(np.int8).min)


def with_dots(function: tirx.PrimFunc, target: tvm.target.Target) -> tirx.PrimFunc:
    """A vectorized function for a CPU whose dots are instructions of that CPU.

    Parameters
    ----------
    function
        After vectorization.
    target
        What code is made for.
    """
    if not has_dots(function.body):
        return function
    code = _Code(cpu_features(target), bound(function.body))

    def added(node: tirx.Add) -> Expr:
        for total, call in ((node.a, node.b), (node.b, node.a)):
            if _is_dot(call):
                return _dot_of(call).added_to(total, code)
        return node

    def alone(call: tvm.ir.Call) -> Expr:
        if not _is_dot(call):
            return call
        dot = _dot_of(call)
        return dot.added_to(splat(tirx.const(0, "int32"), dot.lanes), code)

    body = tvm_ffi.structural_map(function.body, (tirx.Add, added))
    return function.with_body(tvm_ffi.structural_map(body, (tvm.ir.Call, alone)))


def has_dots(body: tirx.Stmt) -> bool:
    """Whether there is a dot in a statement."""
    found: list[bool] = []
    tvm_ffi.structural_walk(body, (tvm.ir.Call, lambda call: found.append(_is_dot(call))))
    return any(found)


def has_short_dots(body: tirx.Stmt) -> bool:
    """Whether the dots in a statement are of weights whose sums are short."""
    found: list[bool] = []

    def look(call: tvm.ir.Call) -> None:
        if _is_dot(call):
            found.append(call.op == _DOT4 and element_of(call.args[BYTES_A_WORD]) == "uint32")

    tvm_ffi.structural_walk(body, (tvm.ir.Call, look))
    return bool(found) and all(found)


def _is_dot(node: object) -> bool:
    return isinstance(node, tvm.ir.Call) and node.op in (_DOT4, _DOT2)


def _dot_of(call: tvm.ir.Call) -> _Dot | _DotOfTwo:
    return _Dot.of(call) if call.op == _DOT4 else _DotOfTwo(tuple(call.args[:PAIR]), call.args[PAIR])


@dataclass(frozen=True)
class _Code:
    """What code is made: LLVM's features of the CPU, and what is known of variables."""

    features: frozenset[str]
    analyzer: Analyzer

    @property
    def neon(self) -> bool:
        """Whether vectors are ARM's."""
        return "neon" in self.features


@dataclass(frozen=True)
class _Dot:
    """A vector of dots: its factors and weights, how many there are, and what is known of the weights."""

    factors: tuple[Expr, ...]
    weights: Expr
    lanes: int
    narrow: bool
    short: bool

    @classmethod
    def of(cls, call: tvm.ir.Call) -> _Dot:
        *factors, weights, narrow = call.args
        narrow = narrow.value if isinstance(narrow, tirx.Broadcast) else narrow
        lanes, short = lanes_of(weights), element_of(weights) == "uint32"
        if short:
            weights = reinterpreted(weights, "int32", lanes)
        return cls(tuple(factors), weights, lanes, bool(int(narrow)), short)

    def added_to(self, total: Expr, code: _Code) -> Expr:
        """The dots added to as many int32, by the CPU's best instructions."""
        signed = element_of(self.factors[0]) == "int8"
        register = min(self.lanes, NEON_WORDS) if code.neon else self.lanes
        make = _instruction(register, code.features, signed=signed, narrow=self.narrow, short=self.short)
        if make is None:
            return self._by_arithmetic(total)
        factors = words(self.factors, self.lanes, code.analyzer, neon=code.neon)
        operands = total, factors, self.weights
        parts = [
            make(*(part(value, start, register) for value in operands))
            for start in range(0, self.lanes, register)
        ]
        return parts[0] if len(parts) == 1 else tirx.Shuffle(parts, list(range(self.lanes)))

    def _by_arithmetic(self, total: Expr) -> Expr:
        dtype = vector_of("int32", self.lanes)
        for i, factor in enumerate(self.factors):
            byte = shifted(shifted(self.weights, 24 - 8 * i, "left"), 24, "right")
            total = total + tirx.Cast(dtype, factor) * byte
        return total


@dataclass(frozen=True)
class _DotOfTwo:
    """A vector of dots of two: its factors and weights."""

    factors: tuple[Expr, ...]
    weights: Expr

    @property
    def lanes(self) -> int:
        """How many there are."""
        return lanes_of(self.weights)

    def added_to(self, total: Expr, code: _Code) -> Expr:
        """As `_Dot.added_to`."""
        lanes = self.lanes
        name = _products_of_words(code.features).get(lanes)
        if name is None or any(isinstance(factor, tirx.Broadcast) for factor in self.factors):
            return self._by_arithmetic(total)
        side_by_side = tirx.Cast(vector_of("uint16", PAIR * lanes), zipped(self.factors, lanes))
        left, right = (reinterpreted(v, "int16", PAIR * lanes) for v in (side_by_side, self.weights))
        return total + tirx.call_llvm_pure_intrin(vector_of("int32", lanes), name, left, right)

    def _by_arithmetic(self, total: Expr) -> Expr:
        dtype = vector_of("int32", self.lanes)
        halves = shifted(shifted(self.weights, 16, "left"), 16, "right"), shifted(self.weights, 16, "right")
        for factor, half in zip(self.factors, halves, strict=True):
            total = total + splat(tirx.Cast(dtype, factor), self.lanes) * half
        return total


Instruction = Callable[[Expr, Expr, Expr], Expr]
"""Of accumulators, factors and weights, all int32 vectors of equal length."""


def _instruction(
    lanes: int, features: frozenset[str], *, signed: bool, narrow: bool, short: bool
) -> Instruction | None:
    """The best way to add `lanes` dots; None where there is none but arithmetic."""
    if "sse2" in features:
        return None if signed else _x86_instruction(lanes, features, short=short)
    if lanes == NEON_WORDS and signed and "dotprod" in features:
        return _by_signed_bytes
    if lanes == NEON_WORDS and not signed and "i8mm" in features:
        return partial(_by_bytes, "llvm.aarch64.neon.usdot.v4i32.v16i8")
    if lanes == NEON_WORDS and signed and "neon" in features:
        return partial(_by_long_products, narrow)
    return None


def _x86_instruction(lanes: int, features: frozenset[str], *, short: bool) -> Instruction | None:
    vnni = "avxvnni" in features or {"avx512vnni", "avx512vl"} <= features
    if (lanes == 16 and "avx512vnni" in features) or (lanes in (4, 8) and vnni):
        return partial(_by_bytes, f"llvm.x86.avx512.vpdpbusd.{32 * lanes}")
    words, of_bytes = _products_of_words(features), {}
    if "ssse3" in features:
        of_bytes[4] = "llvm.x86.ssse3.pmadd.ub.sw.128"
    if "avx2" in features:
        of_bytes[8] = "llvm.x86.avx2.pmadd.ub.sw"
    if "avx512bw" in features:
        of_bytes[16] = "llvm.x86.avx512.pmaddubs.w.512"
    if lanes not in words:
        return None
    if short and lanes in of_bytes:
        return partial(_by_short_sums, of_bytes[lanes], words[lanes])
    return partial(_by_words, words[lanes])


def _products_of_words(features: frozenset[str]) -> dict[int, str]:
    """x86's instructions that add two products of 16-bit integers, by how many sums they make."""
    found = {}
    if "sse2" in features:
        found[4] = "llvm.x86.sse2.pmadd.wd"
    if "avx2" in features:
        found[8] = "llvm.x86.avx2.pmadd.wd"
    if "avx512bw" in features:
        found[16] = "llvm.x86.avx512.pmaddw.d.512"
    return found


def _by_bytes(name: str, total: Expr, factors: Expr, weights: Expr) -> Expr:
    """By an instruction that adds four products of bytes to each int32."""
    lanes = lanes_of(total)
    operands = (reinterpreted(value, "int8", BYTES_A_WORD * lanes) for value in (factors, weights))
    return tirx.call_llvm_pure_intrin(vector_of("int32", lanes), name, total, *operands)


def _by_signed_bytes(total: Expr, factors: Expr, weights: Expr) -> Expr:
    """By ARM's instruction, which takes one element of a register as its last operand."""
    return _by_bytes("llvm.aarch64.neon.sdot.v4i32.v16i8", total, weights, factors)


def _by_long_products(narrow: bool, total: Expr, factors: Expr, weights: Expr) -> Expr:
    """By ARMv8.0's products of bytes in 16 bits."""
    left, right = (reinterpreted(value, "int8", BYTES_A_WORD * NEON_WORDS) for value in (factors, weights))
    halves = [
        tirx.call_llvm_pure_intrin(
            "int16x8",
            "llvm.aarch64.neon.smull.v8i16",
            *(part(value, start, 2 * NEON_WORDS) for value in (left, right)),
        )
        for start in (0, 2 * NEON_WORDS)
    ]
    long_sum = partial(tirx.call_llvm_pure_intrin, "int32x4", "llvm.aarch64.neon.saddlp.v4i32.v8i16")
    if narrow:
        pairs = tirx.call_llvm_pure_intrin("int16x8", "llvm.aarch64.neon.addp.v8i16", *halves)
        return total + long_sum(pairs)
    pairs = [long_sum(half) for half in halves]
    return total + tirx.call_llvm_pure_intrin("int32x4", "llvm.aarch64.neon.addp.v4i32", *pairs)


def _by_words(name: str, total: Expr, factors: Expr, weights: Expr) -> Expr:
    """By an instruction that adds two products of 16-bit integers: bytes 0 and 2, then bytes 1 and 3."""
    lanes = lanes_of(total)
    unsigned, signed = (partial(reinterpreted, dtype=d, lanes=2 * lanes) for d in ("uint16", "int16"))
    low, high = tirx.const(0xFF, "uint16"), tirx.const(8, "uint16")
    pairs = (
        (
            tirx.bitwise_and(unsigned(factors), splat(low, 2 * lanes)),
            shifted(shifted(signed(weights), 8, "left"), 8, "right"),
        ),
        (
            tirx.shift_right(unsigned(factors), splat(high, 2 * lanes)),
            shifted(signed(weights), 8, "right"),
        ),
    )
    for values, factor in pairs:
        total = total + tirx.call_llvm_pure_intrin(vector_of("int32", lanes), name, signed(values), factor)
    return total


def _by_short_sums(of_bytes: str, of_words: str, total: Expr, factors: Expr, weights: Expr) -> Expr:
    """By an instruction that adds two products of bytes in 16 bits, and one that adds two of its sums."""
    lanes = lanes_of(total)
    left, right = (reinterpreted(value, "int8", BYTES_A_WORD * lanes) for value in (factors, weights))
    sums = tirx.call_llvm_pure_intrin(vector_of("int16", 2 * lanes), of_bytes, left, right)
    ones = splat(tirx.const(1, "int16"), 2 * lanes)
    return total + tirx.call_llvm_pure_intrin(vector_of("int32", lanes), of_words, sums, ones)
