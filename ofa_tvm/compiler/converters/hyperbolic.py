"""Hyperbolic functions, accurate near zero as well, where exponentials and logarithms cancel."""

from __future__ import annotations

from tvm import relax

from ofa_tvm.compiler.converters.node import Node
from ofa_tvm.compiler.converters.tensors import scalar

# x (1 + x^2 / 6 (1 + x^2 / 20 (...))): the next term is below 1e-17 of the sum for |x| <= 1.
_SINH_DIVISORS = (6, 20, 42, 72, 110, 156, 210, 272)
_ATANH_SERIES_UP_TO, _ATANH_TERMS = 0.3, 16  # x + x^3 / 3 + x^5 / 5 + ...: the next term is below 1e-19


def sinh(node: Node) -> relax.Expr:
    """ONNX `Sinh`: its series up to one, exponentials beyond."""
    x, op = node[0], node.op
    one = scalar(1, x)
    magnitude = op.abs(x)
    inside = op.minimum(magnitude, one)
    square = op.multiply(inside, inside)
    series = one
    for divisor in reversed(_SINH_DIVISORS):
        series = op.add(one, op.multiply(op.multiply(square, scalar(1 / divisor, x)), series))
    grown, shrunk = _exponentials(node, magnitude)
    value = op.where(op.less(magnitude, one), op.multiply(inside, series), op.subtract(grown, shrunk))
    return _with_sign(node, value)


def cosh(node: Node) -> relax.Expr:
    """ONNX `Cosh`."""
    grown, shrunk = _exponentials(node, node.op.abs(node[0]))
    return node.op.add(grown, shrunk)


def atanh(node: Node) -> relax.Expr:
    """ONNX `Atanh`: its series up to 0.3, a logarithm beyond.

    The usual mends of log(1 + u) for small u rest on how 1 + u is rounded, which TVM's simplifier undoes.
    """
    x, op = node[0], node.op
    one, bound = scalar(1, x), scalar(_ATANH_SERIES_UP_TO, x)
    magnitude = op.abs(x)
    inside = op.minimum(magnitude, bound)
    square = op.multiply(inside, inside)
    series = scalar(1 / (2 * _ATANH_TERMS + 1), x)
    for term in reversed(range(_ATANH_TERMS)):
        series = op.add(scalar(1 / (2 * term + 1), x), op.multiply(square, series))
    ratio = op.divide(op.add(one, magnitude), op.subtract(one, magnitude))
    beyond = op.multiply(op.log(ratio), scalar(0.5, x))
    value = op.where(op.less(magnitude, bound), op.multiply(inside, series), beyond)
    return _with_sign(node, value)


def _exponentials(node: Node, magnitude: relax.Expr) -> tuple[relax.Expr, relax.Expr]:
    """Halves of e^x and e^-x; by the root of e^x, which does not overflow where its half does not."""
    root = node.op.exp(node.op.multiply(magnitude, scalar(0.5, magnitude)))
    half = scalar(0.5, magnitude)
    return node.op.multiply(node.op.multiply(root, half), root), node.op.divide(
        node.op.divide(half, root), root
    )


def _with_sign(node: Node, value: relax.Expr) -> relax.Expr:
    """An odd function's value by its magnitude; x itself where that is a zero of either sign, or NaN."""
    x, zero = node[0], scalar(0, node[0])
    signed = node.op.where(node.op.less(x, zero), node.op.negative(value), value)
    return node.op.where(node.op.greater(node.op.abs(x), zero), signed, x)
