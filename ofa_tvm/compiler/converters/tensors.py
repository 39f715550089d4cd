"""Small expressions that several converters are made of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tvm import relax

from ofa_tvm.compiler.constants import constant_of
from ofa_tvm.compiler.converters.node import Node, dtype_of


def scalar(value: float | bool, like: relax.Expr) -> relax.Expr:
    """A constant of the element type of `like`."""
    return relax.const(value, dtype_of(like))


def cast(node: Node, expr: relax.Expr, dtype: str) -> relax.Expr:
    return expr if dtype_of(expr) == dtype else node.op.astype(expr, dtype)


def gather(node: Node, expr: relax.Expr, indices: np.ndarray, axis: int) -> relax.Expr:
    """What lies at constant positions along an axis."""
    return node.op.take(expr, constant_of(np.asarray(indices, np.int32)), axis)


def weighted(node: Node, expr: relax.Expr, taps: np.ndarray, weights: np.ndarray, axis: int) -> relax.Expr:
    """Sums along an axis: output i is the sum over j of weights[i, j] x input[taps[i, j]]."""
    behind = len(node.shape_of(expr)) - 1 - axis
    total: relax.Expr | None = None
    for tap, weight in zip(taps.T, weights.T, strict=True):
        if weight.any():
            factor = constant_of(weight.reshape([-1] + [1] * behind))
            term = node.op.multiply(gather(node, expr, tap, axis), factor)
            total = term if total is None else node.op.add(total, term)
    return relax.op.zeros_like(expr) if total is None else total


def matrix_product(node: Node, expr: relax.Expr, matrix: np.ndarray, axis: int) -> relax.Expr:
    """The expression with one axis multiplied by a constant matrix (from, to)."""
    shape = node.shape_of(expr)
    order = [*(i for i in range(len(shape)) if i != axis), axis]
    rows = reshape(node, node.op.permute_dims(expr, order), (-1, shape[axis]))
    product = node.op.matmul(rows, constant_of(matrix))
    whole = reshape(node, product, [*(shape[i] for i in order[:-1]), matrix.shape[1]])
    return node.op.permute_dims(whole, [int(i) for i in np.argsort(order)])


def reshape(node: Node, expr: relax.Expr, shape: Sequence[int]) -> relax.Expr:
    return node.op.reshape(expr, tuple(int(v) for v in shape))


def power(node: Node, expr: relax.Expr, exponent: float) -> relax.Expr:
    """What is not negative to a constant power."""
    if exponent == 1:
        return expr
    if exponent == 2:
        return node.op.multiply(expr, expr)
    if exponent == 0.5:
        return node.op.sqrt(expr)
    return node.op.power(expr, scalar(exponent, expr))
