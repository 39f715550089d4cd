"""From a Relax graph to fused kernels: own operator definitions, TVM's fusion."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import tvm
from tvm import relax, te, tirx

from ofa_tvm.compiler import normalisation
from ofa_tvm.compiler.layout import static_shape
from ofa_tvm.compiler.products import batched_product, packed_product, packs
from ofa_tvm.compiler.templates import lanes


def lower(mod: tvm.IRModule, target: tvm.target.Target, dtype: str = "float32") -> tvm.IRModule:
    """Legalize and fuse: afterwards `main` only calls kernels (PrimFuncs) and reshapes, which are views.

    `dtype` is that of weights and feature maps.
    """
    vector = lanes(target, dtype)
    own = {"relax.nn.conv2d": _conv2d, "relax.matmul": partial(_matmul, vector), "relax.take": _take}
    if vector:
        own |= normalisation.legalizers(lanes(target) or vector)
    passes = tvm.transform.Sequential(
        [
            relax.backend.DispatchSortScan(),  # TopK, CumSum and such have no legalization
            relax.transform.LegalizeOps(own, skip_ops=["relax.reshape"]),
            relax.transform.AnnotateTIROpPattern(),
            relax.transform.DeadCodeElimination(["main"]),  # FuseOps warns of dead code on stderr
            relax.transform.FuseOps(),
            relax.transform.FuseTIR(),
            relax.transform.DeadCodeElimination(["main"]),
        ]
    )
    with target:
        return passes(mod)


def _matmul(lanes: int | None, bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """On a CPU products with constant matrices on packed panels, and others of whole tiles; else TVM's."""
    left, right = call.args[0], call.args[1]
    left_shape, right_shape, shape = static_shape(left), static_shape(right), static_shape(call)
    floating = str(left.ty.dtype).startswith("float") and call.attrs.out_dtype in (None, "", left.ty.dtype)
    if lanes and floating and left_shape and right_shape and shape and len(left_shape) > 1:
        matrix = right.value.numpy() if isinstance(right, tvm.ir.GenericConst) else None
        several = math.prod(shape[:-1]) > 1
        if matrix is not None and (packs(matrix, lanes) or (several and _is_wide(matrix, lanes))):
            return packed_product(bb, left, matrix, lanes)
        if several and len(right_shape) > 1:
            return batched_product(bb, left, right, shape, lanes)
    return relax.transform.legalize_ops.linear_algebra._matmul(bb, call)


def _is_wide(matrix: np.ndarray, lanes: int) -> bool:
    return matrix.ndim == 2 and 2 * matrix.shape[1] > lanes


def _take(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """Gathering whose indices stay inside: constant ones are known to, computed ones are cut to the edges.

    TVM's own definition reads wherever an index points, and warns of it each time.
    """
    data, indices = call.args
    shape = static_shape(data)
    if call.attrs.axis is None or shape is None or static_shape(indices) is None:
        return relax.transform.legalize_ops.index._take(bb, call)
    axis = int(call.attrs.axis) % len(shape)
    inside = False
    if isinstance(indices, tvm.ir.GenericConst):
        values = indices.value.numpy()
        inside = bool(((values >= 0) & (values < shape[axis])).all())
    return bb.call_te(_gathered, data, indices, axis, inside, primfunc_name_hint="take")


def _gathered(data: te.Tensor, indices: te.Tensor, axis: int, inside: bool) -> te.Tensor:
    def element(*i: tirx.Var) -> tirx.Expr:
        index = indices[i[axis : axis + len(indices.shape)]]
        if not inside:
            index = tirx.max(tirx.min(index, data.shape[axis] - 1), tirx.const(0, indices.dtype))
        return data[(*i[:axis], index, *i[axis + len(indices.shape) :])]

    shape = [*data.shape[:axis], *indices.shape, *data.shape[axis + 1 :]]
    return te.compute(shape, element, name="take")


def _conv2d(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """NHWC depthwise and grouped convolutions with our definitions; all others with TVM's."""
    attributes = call.attrs
    shape = static_shape(call.args[0])
    depthwise = (
        attributes.data_layout == "NHWC"
        and shape is not None
        and int(attributes.groups) == shape[3]
        and (static_shape(call.args[1]) or ())[2:] == (1, shape[3])
    )
    grouped = (
        attributes.data_layout == "NHWC"
        and shape is not None
        and int(attributes.groups) > 1
        and (static_shape(call.args[1]) or ())[2:3] != (1,)
    )
    if not depthwise and not grouped:
        return relax.transform.legalize_ops.nn._nn_conv2d(bb, call)
    arguments = (
        [int(v) for v in attributes.strides],
        [int(v) for v in attributes.padding],
        [int(v) for v in attributes.dilation],
        str(attributes.out_dtype or call.args[0].ty.dtype),
    )
    if depthwise:
        name = "depthwise_conv2d"
        return bb.call_te(_depthwise_nhwc, *call.args, *arguments, primfunc_name_hint=name)
    groups = int(attributes.groups)
    return bb.call_te(_grouped_nhwc, *call.args, groups, *arguments, primfunc_name_hint="conv2d")


def _padded(data: te.Tensor, padding: list[int]) -> te.Tensor:
    n, height, width, channels = (int(v) for v in data.shape)
    top, left, bottom, right = padding
    return te.compute(
        (n, height + top + bottom, width + left + right, channels),
        lambda b, y, x, c: tirx.if_then_else(
            tirx.all(y >= top, y < top + height, x >= left, x < left + width),
            data[b, y - top, x - left, c],
            tirx.const(0, data.dtype),
        ),
        name="padded",
    )


def _grouped_nhwc(
    data: te.Tensor,
    weight: te.Tensor,
    groups: int,
    strides: list[int],
    padding: list[int],
    dilation: list[int],
    out_dtype: str,
) -> te.Tensor:
    """Grouped convolution for data (N, H, W, C) and weight (kh, kw, C / groups, outputs).

    The sum has an axis for the groups, so that a tile of outputs is known to lie in one of them.
    """
    kh, kw, depth, outputs = (int(v) for v in weight.shape)
    padded = _padded(data, padding)
    n, height, width, _ = (int(v) for v in padded.shape)
    out_h = (height - dilation[0] * (kh - 1) - 1) // strides[0] + 1
    out_w = (width - dilation[1] * (kw - 1) - 1) // strides[1] + 1
    dy, dx, k = (te.reduce_axis((0, e), name) for e, name in ((kh, "dy"), (kw, "dx"), (depth, "k")))
    each = outputs // groups

    def product(b: tirx.Var, g: tirx.Var, y: tirx.Var, x: tirx.Var, c: tirx.Var) -> tvm.ir.Expr:
        line, column = y * strides[0] + dy * dilation[0], x * strides[1] + dx * dilation[1]
        left = padded[b, line, column, g * depth + k].astype(out_dtype)
        return te.sum(left * weight[dy, dx, k, g * each + c].astype(out_dtype), axis=[dy, dx, k])

    summed = te.compute((n, groups, out_h, out_w, each), product, name="conv2d")
    return te.compute(
        (n, out_h, out_w, outputs), lambda b, y, x, o: summed[b, o // each, y, x, o % each], name="result"
    )


def _depthwise_nhwc(
    data: te.Tensor,
    weight: te.Tensor,
    strides: list[int],
    padding: list[int],
    dilation: list[int],
    out_dtype: str,
) -> te.Tensor:
    """Depthwise convolution with the channel innermost, for data (N, H, W, C) and weight (kh, kw, 1, C)."""
    kh, kw = int(weight.shape[0]), int(weight.shape[1])
    padded = _padded(data, padding)
    n, height, width, channels = (int(v) for v in padded.shape)
    out_h = (height - dilation[0] * (kh - 1) - 1) // strides[0] + 1
    out_w = (width - dilation[1] * (kw - 1) - 1) // strides[1] + 1
    dy, dx = te.reduce_axis((0, kh), "dy"), te.reduce_axis((0, kw), "dx")
    return te.compute(
        (n, out_h, out_w, channels),
        lambda b, y, x, c: te.sum(
            padded[b, y * strides[0] + dy * dilation[0], x * strides[1] + dx * dilation[1], c].astype(
                out_dtype
            )
            * weight[dy, dx, 0, c].astype(out_dtype),
            axis=[dy, dx],
        ),
        name="depthwise_conv2d",
    )
