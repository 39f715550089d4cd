"""Floating-point expressions in forms that TVM's simplifier leaves alone, where it would change their value.

It reasons as of whole numbers: `not x < y` becomes `y <= x`, which no NaN fulfils; `(x + y) - y` becomes x,
though it is how exporters round; `x == x` becomes true, though it asks for NaN.
"""

from __future__ import annotations

import math

import tvm_ffi
from tvm import tirx
from tvm.ir import Expr

_EQUALITIES = (tirx.EQ, tirx.NE)
_COMPARISONS = (tirx.LT, tirx.LE, tirx.GT, tirx.GE, *_EQUALITIES)
_CONNECTIVES = {tirx.And: tirx.bitwise_and, tirx.Or: tirx.bitwise_or}


def as_written(body: tirx.Stmt) -> tirx.Stmt:
    """The same code, whose differences and truth values of floats are computed as they are written.

    Parameters
    ----------
    body
        Of a scheduled kernel.
    """
    return tvm_ffi.structural_map(
        body,
        [
            (tirx.Sub, _difference),
            (_EQUALITIES, _equality),
            (tirx.Not, _negation),
            (tuple(_CONNECTIVES), _connective),
            (tirx.Select, _choice),
        ],
    )


def _is_float(expr: Expr) -> bool:
    return "float" in str(expr.ty.dtype)


def _same(one: Expr, other: Expr) -> bool:
    return bool(tvm_ffi.structural_equal(one, other))


def _difference(node: tirx.Sub) -> Expr:
    """As a sum, where a term of one side is the other side."""
    if not _is_float(node) or not (_is_term(node.a, node.b) or _is_term(node.b, node.a)):
        return node
    if isinstance(node.b, tirx.FloatImm):
        return tirx.Add(node.a, tirx.FloatImm(node.b.ty.dtype, -node.b.value))
    return tirx.Add(node.a, tirx.Mul(node.b, tirx.FloatImm(node.b.ty.dtype, -1.0)))


def _is_term(term: Expr, of: Expr) -> bool:
    return _same(term, of) or (isinstance(of, tirx.Add) and (_same(term, of.a) or _same(term, of.b)))


def _equality(node: tirx.EQ | tirx.NE) -> Expr:
    """Whether a value equals itself: whether it is a number."""
    if not _is_float(node.a) or not _same(node.a, node.b):
        return node
    number = tirx.LE(node.a, tirx.FloatImm(node.a.ty.dtype, math.inf))
    return number if isinstance(node, tirx.EQ) else _inverted(number)


def _inverted(truth: Expr) -> Expr:
    return tirx.bitwise_xor(truth, tirx.const(True, "bool"))


def _negation(node: tirx.Not) -> Expr:
    return _inverted(node.a) if _comparisons(node.a) else node


def _connective(node: tirx.And | tirx.Or) -> Expr:
    """By bits: alternatives that leave NaN out are taken for all there is."""
    connected = _CONNECTIVES[type(node)](node.a, node.b)
    return connected if _comparisons(node.a) and _comparisons(node.b) else node


def _choice(node: tirx.Select) -> Expr:
    """With a condition that says nothing of those inside its branches."""
    outer = _comparisons(node.condition)
    inner = [c for side in (node.true_value, node.false_value) if outer for c in _comparisons(side)]
    if not any(_of_the_same(one, other) for one in outer for other in inner):
        return node
    condition = tirx.bitwise_xor(node.condition, tirx.const(False, "bool"))
    return tirx.Select(condition, node.true_value, node.false_value)


def _of_the_same(one: Expr, other: Expr) -> bool:
    return (_same(one.a, other.a) and _same(one.b, other.b)) or (
        _same(one.a, other.b) and _same(one.b, other.a)
    )


def _comparisons(expr: Expr) -> list[Expr]:
    """Those of floats in an expression."""
    found: list[Expr] = []

    def visit(node: Expr) -> None:
        if _is_float(node.a):
            found.append(node)

    tvm_ffi.structural_walk(expr, (_COMPARISONS, visit))
    return found
