"""Normalisations, with all their outputs; statistics of half-precision tensors are in float32."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tvm import relax, topi

from ofa_tvm.compiler.constants import constant_of
from ofa_tvm.compiler.converters.node import Node, dtype_of
from ofa_tvm.compiler.converters.tensors import cast, power, reshape, scalar


def _wide(node: Node) -> relax.Expr:
    """The input in the precision in which sums are taken."""
    return cast(node, node[0], "float32" if node.dtype() in ("float16", "bfloat16") else node.dtype())


def _standardized(
    node: Node, x: relax.Expr, axes: list[int], epsilon: float
) -> tuple[relax.Expr, relax.Expr, relax.Expr]:
    """(x - mean) / sqrt(variance + epsilon), the mean, and the reciprocal of that root."""
    centre = node.op.mean(x, axes, True)
    off = node.op.subtract(x, centre)
    variance = node.op.mean(node.op.multiply(off, off), axes, True)
    inverse = node.op.divide(scalar(1, x), node.op.sqrt(node.op.add(variance, scalar(epsilon, x))))
    return node.op.multiply(off, inverse), centre, inverse


def layer_normalization(node: Node) -> Sequence[relax.Expr]:
    """ONNX `LayerNormalization`: the result, the means and the reciprocal deviations."""
    shape, epsilon = node.shape(), node.attribute("epsilon", 1e-5)
    axes = list(range(node.axis(-1), len(shape)))
    whole = node.shape(1) == shape[axes[0] :] and (not node.has(2) or node.shape(2) == node.shape(1))
    if whole and not node.wants(1) and not node.wants(2):
        bias = node[2] if node.has(2) else constant_of(np.zeros(node.shape(1), node.dtype(1)))
        return [node.op.nn.layer_norm(node[0], node[1], bias, axes, epsilon)]
    normal, centre, inverse = _standardized(node, _wide(node), axes, epsilon)
    result = node.op.multiply(cast(node, normal, node.dtype()), node[1])
    return [node.op.add(result, node[2]) if node.has(2) else result, centre, inverse]


def rms_normalization(node: Node) -> relax.Expr:
    """ONNX `RMSNormalization`."""
    x = _wide(node)
    axes = list(range(node.axis(-1), len(node.shape())))
    squares = node.op.mean(node.op.multiply(x, x), axes, True)
    root = node.op.sqrt(node.op.add(squares, scalar(node.attribute("epsilon", 1e-5), x)))
    return node.op.multiply(cast(node, node.op.divide(x, root), node.dtype()), node[1])


def group_normalization(node: Node) -> relax.Expr:
    """ONNX `GroupNormalization`; scale and bias are those of groups in version 18, of channels since."""
    n, channels, *sizes = node.shape()
    groups = int(node.attribute("num_groups"))
    if groups < 1 or channels % groups:
        raise node.refusal(f"{channels} channels do not make {groups} groups")
    x = reshape(node, _wide(node), (n, groups, -1))
    normal, _, _ = _standardized(node, x, [2], node.attribute("epsilon", 1e-5))
    each = groups if node.shape(1)[0] == groups and node.opset < 21 else channels
    whole = cast(node, normal, node.dtype())
    if each == groups:
        scale, bias = (reshape(node, node[i], (groups, 1)) for i in (1, 2))
        return reshape(node, node.op.add(node.op.multiply(whole, scale), bias), node.shape())
    scale, bias = (reshape(node, node[i], [channels] + [1] * len(sizes)) for i in (1, 2))
    return node.op.add(node.op.multiply(reshape(node, whole, node.shape()), scale), bias)


def batch_normalization(node: Node) -> Sequence[relax.Expr]:
    """ONNX `BatchNormalization`; in training mode by the batch's own statistics, which are outputs, too."""
    rank = len(node.shape())
    epsilon, momentum = node.attribute("epsilon", 1e-5), node.attribute("momentum", 0.9)
    if not node.attribute("training_mode", 0):
        if any(node.wants(i) for i in range(1, 5)):
            raise node.refusal("it asks for statistics without training_mode; export it for inference")
        x = _wide(node)
        wide = dtype_of(x)
        operands = [cast(node, node[i], wide) for i in range(1, 5)]
        result = node.op.nn.batch_norm(x, *operands, axis=1, epsilon=epsilon, training=False)
        return [cast(node, node.builder.emit(relax.TupleGetItem(result, 0)), node.dtype())]
    x = _wide(node)
    axes = [axis for axis in range(rank) if axis != 1]
    centre = node.op.mean(x, axes, True)
    off = node.op.subtract(x, centre)
    variance = node.op.mean(node.op.multiply(off, off), axes, True)
    root = node.op.sqrt(node.op.add(variance, scalar(epsilon, x)))
    scale, bias = (reshape(node, cast(node, node[i], dtype_of(x)), [-1] + [1] * (rank - 2)) for i in (1, 2))
    result = node.op.add(node.op.multiply(node.op.divide(off, root), scale), bias)
    running = []
    for old, new in ((node[3], centre), (node[4], variance)):
        new = cast(node, reshape(node, new, (-1,)), dtype_of(old))
        running.append(
            node.op.add(
                node.op.multiply(old, scalar(momentum, old)),
                node.op.multiply(new, scalar(1 - momentum, old)),
            )
        )
    return [cast(node, result, node.dtype()), *running]


def lp_normalization(node: Node) -> relax.Expr:
    """ONNX `LpNormalization`: the vectors along an axis over their norm; those of norm zero stay zero."""
    x, axis, p = node[0], node.axis(-1), node.attribute("p", 2)
    norm = power(node, node.op.sum(power(node, node.op.abs(x), p), [axis], True), 1 / p)
    safe = node.op.where(node.op.equal(norm, scalar(0, x)), scalar(1, x), norm)
    return node.op.divide(x, safe)


def mean_variance_normalization(node: Node) -> relax.Expr:
    """ONNX `MeanVarianceNormalization`."""
    x = _wide(node)
    axes = [node.normal_axis(int(axis), len(node.shape())) for axis in node.attribute("axes", (0, 2, 3))]
    off = node.op.subtract(x, node.op.mean(x, axes, True))
    deviation = node.op.sqrt(node.op.mean(node.op.multiply(off, off), axes, True))
    return cast(node, node.op.divide(off, node.op.add(deviation, scalar(1e-9, x))), node.dtype())


def local_response_normalization(node: Node) -> relax.Expr:
    """ONNX `LRN`, over `size` neighbouring channels."""
    x, shape = _wide(node), node.shape()
    size = int(node.attribute("size"))
    before, after = [0] * len(shape), [0] * len(shape)
    before[1], after[1] = (size - 1) // 2, size // 2
    squares = node.te(topi.nn.pad, node.op.multiply(x, x), pad_before=before, pad_after=after)
    total = node.op.strided_slice(squares, [1], [0], [shape[1]])
    for first in range(1, size):
        total = node.op.add(total, node.op.strided_slice(squares, [1], [first], [first + shape[1]]))
    scaled = node.op.multiply(total, scalar(node.attribute("alpha", 1e-4) / size, x))
    base = node.op.add(scaled, scalar(node.attribute("bias", 1.0), x))
    return cast(node, node.op.divide(x, power(node, base, node.attribute("beta", 0.75))), node.dtype())
