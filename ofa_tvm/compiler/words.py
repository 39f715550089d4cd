"""Words of 32 bits made of two or four narrow factors, as instructions for dots take them.

The factors are scalars or vectors of 8 or of 16 bits, the first of a word in its lowest bits.
"""

from __future__ import annotations

from collections.abc import Sequence

import tvm
import tvm_ffi
from tvm import tirx
from tvm.ir import Expr
from tvm.sym.analyzer import Analyzer

from ofa_tvm.compiler.vectors import NEON_WORDS, element_of, lanes_of, splat, vector_of

_BITS = 32


def bound(body: tirx.Stmt) -> Analyzer:
    """Knows the indices that have become variables of their own."""
    analyzer = Analyzer()

    def bind(node: tirx.Bind) -> None:
        if str(getattr(node.value.ty, "dtype", "")) in ("int32", "int64"):
            analyzer.bind(node.var, node.value)

    tvm_ffi.structural_walk(body, (tirx.Bind, bind))
    return analyzer


def words(factors: Sequence[Expr], lanes: int, analyzer: Analyzer, *, neon: bool) -> Expr:
    """So many int32; a register of NEON where they are all the same.

    Parameters
    ----------
    factors
        Scalars, or vectors of so many values.
    analyzer
        See `bound`.
    neon
        Whether vectors are ARM's.
    """
    if neon and lanes >= NEON_WORDS and all(isinstance(factor, tirx.Broadcast) for factor in factors):
        found = _element_everywhere([factor.value for factor in factors], analyzer)
        if found is not None:
            return found
    if all(isinstance(factor, tirx.Broadcast) for factor in factors):
        return splat(_word([factor.value for factor in factors]), lanes)
    if lanes == 1:
        return _word(factors)
    vectors = [splat(factor, lanes) for factor in factors]
    while len(vectors) > 1:
        dtype = f"int{2 * _BITS // len(vectors)}"
        pairs = [vectors[i : i + 2] for i in range(0, len(vectors), 2)]
        vectors = [reinterpreted(zipped(pair, lanes), dtype, lanes) for pair in pairs]
    return vectors[0]


def part(vector: Expr, start: int, lanes: int) -> Expr:
    """Some of a vector's values, where there are more."""
    if lanes_of(vector) == lanes:
        return vector
    if isinstance(vector, tirx.Broadcast):
        return splat(vector.value, lanes)
    return tirx.Shuffle([vector], list(range(start, start + lanes)))


def shifted(value: Expr, bits: int, direction: str) -> Expr:
    """Integers shifted; signed ones to the right with their sign."""
    if not bits:
        return value
    amount = splat(tirx.const(bits, element_of(value)), lanes_of(value))
    return tirx.shift_left(value, amount) if direction == "left" else tirx.shift_right(value, amount)


def reinterpreted(value: Expr, dtype: str, lanes: int) -> Expr:
    """The same bits as so many values of another type."""
    return tirx.reinterpret(vector_of(dtype, lanes), value)


def is_choice(factor: object) -> bool:
    """Whether a condition chooses a value."""
    return isinstance(factor, tvm.ir.Call) and str(factor.op.name).endswith("if_then_else")


def zipped(vectors: Sequence[Expr], lanes: int) -> Expr:
    """Values of two vectors in turn."""
    return tirx.Shuffle(list(vectors), [lanes * i + lane for lane in range(lanes) for i in range(2)])


def _word(factors: Sequence[Expr]) -> Expr:
    """Scalars as one int32: one load where they lie side by side, once for both sides of a choice."""
    first = factors[0]
    if all(is_choice(factor) for factor in factors):
        condition = first.args[0]
        if all(tvm_ffi.structural_equal(factor.args[0], condition) for factor in factors[1:]):
            sides = [_word([factor.args[i] for factor in factors]) for i in (1, 2)]
            return tirx.if_then_else(condition, *sides)
    if _side_by_side(factors):
        load = _load(first)
        ramp = tirx.Ramp(load.indices[0], tirx.const(1, element_of(load.indices[0])), len(factors))
        return reinterpreted(tirx.BufferLoad(load.source, [ramp]), "int32", 1)
    bits = _BITS // len(factors)
    word = _low_bits(factors[0], bits)
    for i, factor in enumerate(factors[1:], 1):
        word = tirx.bitwise_or(word, tirx.shift_left(_low_bits(factor, bits), tirx.const(bits * i, "uint32")))
    return tirx.reinterpret("int32", word)


def _element_everywhere(factors: Sequence[Expr], analyzer: Analyzer) -> Expr | None:
    """A register of one word, the element of a vector that is loaded for several words of a row.

    ARM's instructions take one element of a register for all, but LLVM makes a load of each element that it
    is shown alone.
    """
    if not _side_by_side(factors):
        return None
    load, count = _load(factors[0]), len(factors)
    index = load.indices[0]
    modular, step = analyzer.modular_set(index), tirx.const(1, element_of(index))
    extent = load.source.shape[0]
    whole = int(extent) if isinstance(extent, tirx.IntImm) else 1  # a last part would be read beyond
    for size in (NEON_WORDS * count, NEON_WORDS * count // 2):
        at = int(modular.base) % size
        if int(modular.coeff) % size == 0 and at % count == 0 and whole % size == 0:
            vector = tirx.BufferLoad(load.source, [tirx.Ramp(index - at, step, size)])
            register = NEON_WORDS * count
            found = [reinterpreted(vector, "int32", size // count)]
            return tirx.Shuffle(found * (register // size), [at // count] * NEON_WORDS)
    return None


def _low_bits(factor: Expr, bits: int) -> Expr:
    """A scalar's bits in the lowest ones of a uint32."""
    mask = (1 << bits) - 1
    if isinstance(factor, tirx.IntImm):
        return tirx.const(int(factor) & mask, "uint32")
    return tirx.bitwise_and(tirx.Cast("uint32", factor), tirx.const(mask, "uint32"))


def _load(factor: Expr) -> Expr:
    """What a factor is the bits of."""
    if isinstance(factor, tvm.ir.Call) and str(factor.op.name).endswith("reinterpret"):
        return factor.args[0]
    return factor


def _side_by_side(factors: Sequence[Expr]) -> bool:
    loads = [_load(factor) for factor in factors]
    if not all(isinstance(load, tvm.ir.TensorLoad) and len(load.indices) == 1 for load in loads):
        return False
    first, analyzer = loads[0], Analyzer()
    return all(
        load.source.same_as(first.source) and analyzer.can_prove_equal(load.indices[0] - first.indices[0], i)
        for i, load in enumerate(loads)
    )
