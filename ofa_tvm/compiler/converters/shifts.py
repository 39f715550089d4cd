"""Shifts of bits."""

from __future__ import annotations

import numpy as np
from tvm import relax

from ofa_tvm.compiler.constants import constant_of
from ofa_tvm.compiler.converters.node import Node


def bit_shift(node: Node) -> relax.Expr:
    """`BitShift`; by as many bits as there are, or by less than none, only the sign is left (as in ONNX)."""
    data, amount, dtype = node[0], node[1], np.dtype(node.dtype())
    bits = 8 * dtype.itemsize

    def number(value: int) -> relax.Expr:
        return constant_of(np.asarray(value, dtype))

    inside = node.op.less(amount, number(bits))
    if dtype.kind == "i":
        inside = node.op.logical_and(inside, node.op.greater_equal(amount, number(0)))
    safe = node.op.where(inside, amount, number(0))
    if node.attribute("direction") == "LEFT":
        return node.op.where(inside, node.op.left_shift(data, safe), number(0))
    shifted = node.op.right_shift(data, safe)
    if dtype.kind == "u":
        return node.op.where(inside, shifted, number(0))
    sign = node.op.where(node.op.less(data, number(0)), number(-1), number(0))
    return node.op.where(inside, shifted, sign)
