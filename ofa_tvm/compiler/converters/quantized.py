"""`ConvInteger`: in the arithmetic that ONNX defines, on values widened first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tvm import relax

from ofa_tvm.compiler.converters.convolution import convolve
from ofa_tvm.compiler.converters.node import Node
from ofa_tvm.compiler.converters.tensors import cast, reshape
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
