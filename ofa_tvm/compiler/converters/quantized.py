"""Integer convolutions and products: in the arithmetic that ONNX defines, on values widened first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tvm import relax

from ofa_tvm.compiler.converters.convolution import convolve
from ofa_tvm.compiler.converters.node import Node, dtype_of
from ofa_tvm.compiler.converters.tensors import cast, reshape, scalar
from ofa_tvm.compiler.converters.windows import windows


def _centred(node: Node, value: relax.Expr, zero: int, shape: Sequence[int] | None, dtype: str) -> relax.Expr:
    """An operand minus its zero point (operand number `zero`), whose elements lie as `shape` says."""
    wide = cast(node, value, dtype)
    if not node.has(zero):
        return wide
    point = cast(node, node[zero], dtype)
    return node.op.subtract(wide, point if shape is None else reshape(node, point, shape))


def _along(node: Node, index: int, rank: int, axis: int) -> list[int] | None:
    """The shape in which one value an element of `axis` is broadcast; None for a single value."""
    shape = node.shape(index) if node.has(index) else ()
    if int(np.prod(shape)) == 1:
        return [1] * rank
    return [-1 if i == axis % rank else 1 for i in range(rank)] if len(shape) == 1 else None


def _requantized(node: Node, value: relax.Expr, scale: relax.Expr, zero: int) -> relax.Expr:
    """float32 values divided by a scale, rounded, moved by the zero point and kept within its type."""
    dtype = node.dtype(zero)
    limits = np.iinfo(dtype)
    rounded = node.op.round(node.op.divide(value, scale))
    moved = node.op.add(rounded, cast(node, node[zero], dtype_of(rounded)))
    low, high = scalar(int(limits.min), moved), scalar(int(limits.max), moved)
    return node.op.astype(node.op.minimum(node.op.maximum(moved, low), high), dtype)


def conv_integer(node: Node) -> relax.Expr:
    """ONNX `ConvInteger`: int32 sums of products."""
    data, weight = _operands(node, 0, 1, 2, 3, "int32")
    return _convolved(node, data, weight, 1)


def _operands(
    node: Node, data: int, weight: int, data_zero: int, weight_zero: int, dtype: str
) -> tuple[relax.Expr, relax.Expr]:
    rank = len(node.shape())
    each = _along(node, weight_zero, rank, 0)
    left = _centred(node, node[data], data_zero, [1] * rank, dtype)
    return left, _centred(node, node[weight], weight_zero, each, dtype)


def _convolved(node: Node, data: relax.Expr, weight: relax.Expr, kernel: int) -> relax.Expr:
    axes = windows(node, node.shape(kernel)[2:])
    return convolve(
        node,
        data,
        weight,
        strides=[a.stride for a in axes],
        padding=[a.before for a in axes] + [a.after for a in axes],
        dilation=[a.dilation for a in axes],
        groups=int(node.attribute("group", 1)),
    )


def qlinear_conv(node: Node) -> relax.Expr:
    """ONNX `QLinearConv`: float32 sums of small integers, which are exact up to 2^24."""
    rank = len(node.shape())
    data, weight = _operands(node, 0, 3, 2, 5, "float32")
    total = _convolved(node, data, weight, 3)
    if node.has(8):
        bias = reshape(node, cast(node, node[8], "float32"), [1, -1] + [1] * (rank - 2))
        total = node.op.add(total, bias)
    each = _along(node, 4, rank, 1)
    weight_scale = reshape(node, node[4], each or [1] * rank)
    scale = node.op.multiply(reshape(node, node[1], [1] * rank), weight_scale)
    return _requantized(node, node.op.multiply(total, scale), node[6], 7)


def qlinear_matmul(node: Node) -> relax.Expr:
    """ONNX `QLinearMatMul`; zero points and scales are one a tensor, a row of the first, or a column."""
    rank_a, rank_b = len(node.shape(0)), len(node.shape(3))
    a = _centred(node, node[0], 2, _along(node, 2, rank_a, -2), "float32")
    b = _centred(node, node[3], 5, _along(node, 5, rank_b, -1), "float32")
    total = node.op.matmul(a, b)
    rank = len(node.shape_of(total))
    for index, axis in ((1, -2), (4, -1)):
        each = _along(node, index, rank, axis)
        scale = cast(node, node[index], "float32")
        total = node.op.multiply(total, scale if each is None else reshape(node, scale, each))
    return _requantized(node, total, cast(node, node[6], "float32"), 7)
