"""From a Relax graph to fused kernels: own operator definitions, TVM's fusion."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import tvm
from tvm import relax, te, tirx

from ofa_tvm.compiler.layout import static_shape
from ofa_tvm.compiler.schedules import machine


def lower(mod: tvm.IRModule, target: tvm.target.Target) -> tvm.IRModule:
    """Legalize and fuse: afterwards `main` only calls kernels (PrimFuncs) and reshapes, which are views."""
    passes = tvm.transform.Sequential(
        [
            relax.backend.DispatchSortScan(),  # TopK, CumSum and such have no legalization
            relax.transform.LegalizeOps(
                {"relax.nn.conv2d": _conv2d, "relax.matmul": partial(_matmul, machine(target).lanes)},
                skip_ops=["relax.reshape"],
            ),
            relax.transform.AnnotateTIROpPattern(),
            relax.transform.FuseOps(),
            relax.transform.FuseTIR(),
            relax.transform.DeadCodeElimination(["main"]),
        ]
    )
    with target:
        return passes(mod)


def _matmul(lanes: int, bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """Products with constant matrices on packed panels; all others with TVM's definition.

    In a network a kernel finds its weights in the last-level cache at best. Read in panels one vector wide
    they are sequential streams, which the prefetchers follow; rows of the matrix are not.
    """
    left, right = call.args[0], call.args[1]
    shape = static_shape(left)
    if not isinstance(right, tvm.ir.GenericConst) or shape is None or len(shape) != 2:
        return relax.transform.legalize_ops.linear_algebra._matmul(bb, call)
    matrix = right.value.numpy()
    panel = math.gcd(matrix.shape[-1], lanes)
    if matrix.ndim != 2 or 2 * panel < lanes or call.attrs.out_dtype not in (None, "", left.ty.dtype):
        return relax.transform.legalize_ops.linear_algebra._matmul(bb, call)
    depth, width = matrix.shape
    packed = np.ascontiguousarray(matrix.reshape(depth, width // panel, panel).transpose(1, 0, 2))
    return bb.call_te(_packed_matmul, left, relax.const(packed), primfunc_name_hint="matmul")


def _packed_matmul(left: te.Tensor, right: te.Tensor) -> te.Tensor:
    """(m, k) times a (k, n) matrix that is stored as (n / panel, k, panel)."""
    rows, depth = left.shape
    panels, _, panel = (int(extent) for extent in right.shape)
    k = te.reduce_axis((0, depth), name="k")
    return te.compute(
        (rows, panels * panel),
        lambda i, j: te.sum(left[i, k] * right[j // panel, k, j % panel], axis=k),
        name="matmul",
    )


def _conv2d(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """NHWC depthwise convolutions with our definition; all others with TVM's."""
    attributes = call.attrs
    shape = static_shape(call.args[0])
    depthwise = (
        attributes.data_layout == "NHWC"
        and shape is not None
        and int(attributes.groups) == shape[3]
        and (static_shape(call.args[1]) or ())[2:] == (1, shape[3])
    )
    if not depthwise:
        return relax.transform.legalize_ops.nn._nn_conv2d(bb, call)
    return bb.call_te(
        _depthwise_nhwc,
        call.args[0],
        call.args[1],
        [int(v) for v in attributes.strides],
        [int(v) for v in attributes.padding],
        [int(v) for v in attributes.dilation],
        primfunc_name_hint="depthwise_conv2d",
    )


def _depthwise_nhwc(
    data: te.Tensor, weight: te.Tensor, strides: list[int], padding: list[int], dilation: list[int]
) -> te.Tensor:
    """Depthwise convolution with the channel innermost, for data (N, H, W, C) and weight (kh, kw, 1, C)."""
    n, height, width, channels = (int(v) for v in data.shape)
    kh, kw = int(weight.shape[0]), int(weight.shape[1])
    top, left, bottom, right = padding
    out_h = (height + top + bottom - dilation[0] * (kh - 1) - 1) // strides[0] + 1
    out_w = (width + left + right - dilation[1] * (kw - 1) - 1) // strides[1] + 1
    padded = te.compute(
        (n, height + top + bottom, width + left + right, channels),
        lambda b, y, x, c: tirx.if_then_else(
            tirx.all(y >= top, y < top + height, x >= left, x < left + width),
            data[b, y - top, x - left, c],
            tirx.const(0, data.dtype),
        ),
        name="padded",
    )
    dy, dx = te.reduce_axis((0, kh), "dy"), te.reduce_axis((0, kw), "dx")
    return te.compute(
        (n, out_h, out_w, channels),
        lambda b, y, x, c: te.sum(
            padded[b, y * strides[0] + dy * dilation[0], x * strides[1] + dx * dilation[1], c]
            * weight[dy, dx, 0, c],
            axis=[dy, dx],
        ),
        name="depthwise_conv2d",
    )
