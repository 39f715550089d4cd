"""Clip at any bounds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tvm
from tvm import relax

from ofa_tvm.compiler.converters.node import Node


def clip(node: Node) -> relax.Expr:
    """`min(upper, max(lower, x))`: of swapped bounds the upper one wins (ONNX operators, Clip-13).

    Constant bounds become `relax.clip`, which layouts and fusion see through. Bounds that bound nothing
    (infinite, NaN) are left out; a missing one is the type's lowest or largest finite value.
    """
    dtype = node.dtype()
    limits = np.finfo(dtype) if np.dtype(dtype).kind == "f" else np.iinfo(dtype)
    bounds = [_bound(node, 1, "min", limits.min), _bound(node, 2, "max", limits.max)]
    constants = [value for value in map(_scalar, bounds) if value is not None]
    if len(constants) < len(bounds):
        return _by_tensors(node, bounds)
    lower, upper = (
        value if _excludes(value, side, limits) else None
        for value, side in zip(constants, (np.greater, np.less), strict=True)
    )
    if lower is not None and upper is not None and upper < lower:
        lower = upper
    x = node[0]
    floating = isinstance(limits, np.finfo)
    if floating and lower is not None and upper is not None and np.isfinite([lower, upper]).all():
        return relax.op.clip(x, float(lower), float(upper))
    if lower is not None:
        x = node.op.maximum(x, _constant(lower))
    if upper is not None:
        x = node.op.minimum(x, _constant(upper))
    return x


def _bound(node: Node, index: int, attribute: str, default: Any) -> relax.Expr:
    if node.opset < 11 and attribute in node.attributes:
        return _constant(np.array(node.attribute(attribute), node.dtype()))
    return node[index] if node.has(index) else _constant(np.array(default, node.dtype()))


def _by_tensors(node: Node, bounds: Sequence[relax.Expr]) -> relax.Expr:
    x, dtype = node[0], node.dtype()
    sides = ((node.op.maximum, -np.inf), (node.op.minimum, np.inf))
    for bound, (side, free) in zip(bounds, sides, strict=True):
        value = node.op.reshape(bound, ())
        if np.dtype(dtype).kind == "f":
            value = node.op.where(node.op.isnan(value), _constant(np.array(free, dtype)), value)
        x = side(x, value)
    return x


def _constant(value: np.ndarray | np.generic) -> relax.Expr:
    """A constant of the value's own dtype; `relax.const` makes float32 of a float64 scalar."""
    return relax.const(tvm.runtime.tensor(np.asarray(value)))


def _scalar(expr: relax.Expr) -> np.ndarray | None:
    """Value of a constant of one element, else None."""
    value = expr.value.numpy() if isinstance(expr, tvm.ir.GenericConst) else None
    return value.reshape(()) if value is not None and value.size == 1 else None


def _excludes(value: np.ndarray, side: Callable[..., Any], limits: np.finfo[Any] | np.iinfo[Any]) -> bool:
    """Whether some value of the type lies on the wrong side of a bound."""
    if isinstance(limits, np.iinfo):
        return bool(side(value, limits.min if side is np.greater else limits.max))
    return bool(np.isfinite(value) or side(value, 0))
