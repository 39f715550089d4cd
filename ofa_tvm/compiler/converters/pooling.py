"""Pooling: windows whose padding and number are settled here, so that TVM's kernels have nothing to guess."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tvm import relax, te, tirx, topi

from ofa_tvm.compiler.constants import constant_of
from ofa_tvm.compiler.converters.node import Node
from ofa_tvm.compiler.converters.tensors import power, reshape, scalar
from ofa_tvm.compiler.converters.windows import Window, windows


def _kernel(node: Node) -> list[int]:
    kernel = node.attribute("kernel_shape")
    if kernel is None or len(kernel) != len(node.shape()) - 2 or len(kernel) > 3:
        raise node.refusal("pooling is over one, two or three axes behind batch and channels")
    return [int(v) for v in kernel]


def max_pool(node: Node) -> Sequence[relax.Expr]:
    """ONNX `MaxPool`, all versions, with the positions of the maxima if they are asked for."""
    axes = windows(node, _kernel(node))
    operator = getattr(node.op.nn, f"max_pool{len(axes)}d")
    largest = operator(
        node[0],
        [a.kernel for a in axes],
        [a.stride for a in axes],
        [a.before for a in axes] + [a.after + a.missing for a in axes],
        [a.dilation for a in axes],
    )
    if not node.wants(1):
        return [largest]
    column_major = bool(node.attribute("storage_order", 0))
    return [largest, node.te(_positions, node[0], largest, axes=axes, column_major=column_major)]


def _positions(data: te.Tensor, largest: te.Tensor, axes: list[Window], column_major: bool) -> te.Tensor:
    """Where in the whole tensor each window has its maximum; the first if there are several."""
    sizes = [a.size for a in axes]
    inner = [te.reduce_axis((0, a.kernel), f"k{i}") for i, a in enumerate(axes)]
    last = tirx.const(np.iinfo(np.int64).max, "int64")

    def first(n: tirx.Var, c: tirx.Var, *o: tirx.Var) -> tirx.Expr:
        at = [o[i] * a.stride + inner[i] * a.dilation - a.before for i, a in enumerate(axes)]
        inside = tirx.all(*(tirx.all(p >= 0, p < size) for p, size in zip(at, sizes, strict=True)))
        value = data[(n, c, *(tirx.max(0, tirx.min(p, size - 1)) for p, size in zip(at, sizes, strict=True)))]
        position = tirx.const(0, "int64")
        for p, size in zip(at, sizes, strict=True):
            position = position * size + p.astype("int64")
        found = tirx.any(value == largest[(n, c, *o)], value != value)
        return te.min(tirx.Select(tirx.all(inside, found), position, last), axis=inner)

    in_map = te.compute(largest.shape, first, name="position")

    def in_tensor(n: tirx.Var, c: tirx.Var, *o: tirx.Var) -> tirx.Expr:
        position = in_map[(n, c, *o)]
        if column_major:
            coordinates = []
            for size in reversed(sizes):
                coordinates.append(tirx.indexmod(position, tirx.const(size, "int64")))
                position = tirx.indexdiv(position, tirx.const(size, "int64"))
            position = tirx.const(0, "int64")
            for coordinate, size in zip(coordinates, reversed(sizes), strict=True):
                position = position * size + coordinate
        return (n * data.shape[1] + c).astype("int64") * int(np.prod(sizes)) + position

    return te.compute(largest.shape, in_tensor, name="indices")


def average_pool(node: Node) -> relax.Expr:
    """ONNX `AveragePool`, all versions."""
    axes = windows(node, _kernel(node))
    data = node[0]
    padded = bool(node.attribute("count_include_pad", 0)) and any(a.before or a.after for a in axes)
    if padded and any(a.missing for a in axes):  # what is counted is the model's padding, but nothing beyond
        data = _zeros_around(node, axes, beyond=False)
        pads = [0] * len(axes) + [a.missing for a in axes]
        padded = False
    else:
        pads = [a.before for a in axes] + [a.after + a.missing for a in axes]
    operator = getattr(node.op.nn, f"avg_pool{len(axes)}d")
    return operator(
        data,
        [a.kernel for a in axes],
        [a.stride for a in axes],
        pads,
        [a.dilation for a in axes],
        count_include_pad=padded,
    )


def _zeros_around(node: Node, axes: list[Window], beyond: bool) -> relax.Expr:
    before = [0, 0] + [a.before for a in axes]
    after = [0, 0] + [a.after + (a.missing if beyond else 0) for a in axes]
    if not any(before) and not any(after):
        return node[0]
    return node.te(topi.nn.pad, node[0], pad_before=before, pad_after=after)


def lp_pool(node: Node) -> relax.Expr:
    """ONNX `LpPool`: the p-norm of each window."""
    p = node.attribute("p", 2)
    axes = windows(node, _kernel(node))
    data = power(node, node.op.abs(_zeros_around(node, axes, beyond=True)), p)
    operator = getattr(node.op.nn, f"avg_pool{len(axes)}d")
    means = operator(
        data,
        [a.kernel for a in axes],
        [a.stride for a in axes],
        [0] * (2 * len(axes)),
        [a.dilation for a in axes],
    )
    return power(node, node.op.multiply(means, scalar(float(np.prod([a.kernel for a in axes])), data)), 1 / p)


def global_lp_pool(node: Node) -> relax.Expr:
    """ONNX `GlobalLpPool`."""
    p = node.attribute("p", 2)
    spatial = list(range(2, len(node.shape())))
    return power(node, node.op.sum(power(node, node.op.abs(node[0]), p), spatial, keepdims=True), 1 / p)


def max_unpool(node: Node) -> relax.Expr:
    """ONNX `MaxUnpool`: each value where its maximum was found, zeros elsewhere."""
    n, c, *sizes = node.shape()
    kernel = _kernel(node)
    rank = len(kernel)
    strides = node.attribute("strides") or [1] * rank
    pads = node.attribute("pads") or [0] * (2 * rank)
    shape = [
        n,
        c,
        *((size - 1) * strides[i] + kernel[i] - pads[i] - pads[rank + i] for i, size in enumerate(sizes)),
    ]
    zeros = constant_of(np.zeros(int(np.prod(shape)), node.dtype()))
    flat = node.op.scatter_elements(
        zeros, reshape(node, node[1], (-1,)), reshape(node, node[0], (-1,)), axis=0
    )
    result = reshape(node, flat, shape)
    given = node.integers(2, "output shape") or shape
    if given == shape:
        return result
    if any(wanted < made for wanted, made in zip(given, shape, strict=True)):
        raise node.refusal(f"its output shape {given} is smaller than what {shape} positions need")
    after = [wanted - made for wanted, made in zip(given, shape, strict=True)]
    return node.te(topi.nn.pad, result, pad_before=[0] * len(shape), pad_after=after)
