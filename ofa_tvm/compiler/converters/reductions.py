"""Sums, extremes and norms over axes, given as an attribute or as an operand, over none and over nothing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from tvm import relax

from ofa_tvm.compiler.constants import constant_of
from ofa_tvm.compiler.converters.node import Converter, Node, dtype_of
from ofa_tvm.compiler.converters.tensors import cast, scalar

Before = Callable[[Node, relax.Expr], relax.Expr]


def _same(node: Node, expr: relax.Expr) -> relax.Expr:
    return expr


def _square(node: Node, expr: relax.Expr) -> relax.Expr:
    return node.op.multiply(expr, expr)


def _magnitude(node: Node, expr: relax.Expr) -> relax.Expr:
    return node.op.abs(expr)


def _log(node: Node, expr: relax.Expr) -> relax.Expr:
    return node.op.log(expr)


def _root(node: Node, expr: relax.Expr) -> relax.Expr:
    return node.op.sqrt(expr)


def _axes(node: Node) -> list[int]:
    """Axes to reduce; all of them where none are given, unless the node says that this means none."""
    rank = len(node.shape())
    given = node.attribute("axes")
    axes = node.integers(1, "axes") if node.has(1) else None if given is None else list(given)
    if not axes:
        return [] if node.attribute("noop_with_empty_axes", 0) else list(range(rank))
    return sorted({node.normal_axis(int(axis), rank) for axis in axes})


def _of_nothing(node: Node, axes: list[int], value: float) -> relax.Expr | None:
    """The result where an axis of no elements is reduced, None where there is something to reduce."""
    shape = node.shape()
    if all(shape[axis] for axis in axes):
        return None
    kept = node.attribute("keepdims", 1) == 1
    left = [1 if axis in axes else n for axis, n in enumerate(shape) if kept or axis not in axes]
    dtype = np.dtype(node.dtype())
    if dtype.kind in "iu" and not np.isfinite(value):
        limits = np.iinfo(dtype)
        value = limits.min if value < 0 else limits.max
    return constant_of(np.full(left, value, dtype))


def reduction(name: str, of_nothing: float, before: Before = _same, after: Before = _same) -> Converter:
    """A converter for `after(reduce(before(x)))`."""

    def converted(node: Node) -> relax.Expr:
        axes = _axes(node)
        empty = _of_nothing(node, axes, of_nothing)
        if empty is not None:
            return empty
        x = before(node, node[0])
        keepdims = node.attribute("keepdims", 1) == 1
        logical = dtype_of(x) == "bool"
        x = cast(node, x, "uint8") if logical else x
        if axes:
            x = getattr(node.op, name)(x, axes, keepdims)
        return after(node, cast(node, x, "bool") if logical else x)

    return converted


def log_sum_exp(node: Node) -> relax.Expr:
    """ONNX `ReduceLogSumExp`, which neither overflows nor stumbles over infinities."""
    axes = _axes(node)
    empty = _of_nothing(node, axes, -np.inf)
    if empty is not None:
        return empty
    if not axes:
        return node[0]
    keepdims = node.attribute("keepdims", 1) == 1
    largest = node.op.max(node[0], axes, True)
    finite = node.op.where(node.op.isinf(largest), scalar(0.0, largest), largest)
    total = node.op.sum(node.op.exp(node.op.subtract(node[0], finite)), axes, keepdims)
    return node.op.add(node.op.log(total), finite if keepdims else node.op.squeeze(finite, axes))


def _extreme(name: str) -> Converter:
    of_nothing = -np.inf if name == "max" else np.inf
    plain, logical = reduction(name, of_nothing), reduction(name, name == "min")
    return lambda node: (logical if node.dtype() == "bool" else plain)(node)


REDUCTIONS: dict[str, Converter] = {
    "ReduceL1": reduction("sum", 0, before=_magnitude),
    "ReduceL2": reduction("sum", 0, before=_square, after=_root),
    "ReduceLogSum": reduction("sum", -np.inf, after=_log),
    "ReduceLogSumExp": log_sum_exp,
    "ReduceMax": _extreme("max"),
    "ReduceMean": reduction("mean", np.nan),
    "ReduceMin": _extreme("min"),
    "ReduceProd": reduction("prod", 1),
    "ReduceSum": reduction("sum", 0),
    "ReduceSumSquare": reduction("sum", 0, before=_square),
}
