"""From a Relax graph to fused kernels: own operator definitions, TVM's fusion."""

from __future__ import annotations

import math

import tvm
from tvm import relax, te, tirx

from ofa_tvm.compiler.layout import static_shape


def lower(mod: tvm.IRModule, target: tvm.target.Target) -> tvm.IRModule:
    """Legalize and fuse: afterwards `main` only calls kernels (PrimFuncs) and reshapes, which are views."""
    passes = tvm.transform.Sequential(
        [
            relax.transform.LegalizeOps(
                {"relax.nn.conv2d": _conv2d} | dict.fromkeys(_REDUCERS, _reduction),
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


_REDUCERS = {"relax.mean": te.sum, "relax.sum": te.sum, "relax.max": te.max, "relax.min": te.min}


def _reduction(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """Reductions over some axes.

    TVM's own definition names its blocks after the variable that is reduced, so that the same kernel would
    have other block names in another network and its logged schedule would not fit.
    """
    name = call.op.name.removeprefix("relax.")
    axes = call.attrs.axis
    shape = static_shape(call.args[0])
    if not shape:
        return call  # left to TVM's build pipeline
    reduced = sorted({int(a) % len(shape) for a in (axes if axes is not None else range(len(shape)))})
    return bb.call_te(
        _reduce, call.args[0], name, reduced, bool(call.attrs.keepdims), primfunc_name_hint=name
    )


def _reduce(data: te.Tensor, name: str, reduced: list[int], keepdims: bool) -> te.Tensor:
    shape = [int(extent) for extent in data.shape]
    axes = {axis: te.reduce_axis((0, shape[axis]), f"r{axis}") for axis in reduced}
    out = [1 if i in axes else extent for i, extent in enumerate(shape) if keepdims or i not in axes]

    def element(*position: tirx.Var) -> tvm.ir.PrimExpr:
        free = iter(p for i, p in enumerate(position) if not (keepdims and i in axes))
        return data(*[axes[i] if i in axes else next(free) for i in range(len(shape))])

    result = te.compute(
        out, lambda *p: _REDUCERS[f"relax.{name}"](element(*p), axis=list(axes.values())), name=f"{name}_reduce"
    )
    if name != "mean":
        return result
    scale = tirx.const(1 / math.prod(shape[axis] for axis in reduced), data.dtype)
    return te.compute(out, lambda *p: result(*p) * scale, name="mean_scale")


def _conv2d(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """NHWC depthwise convolutions with our definition; all others with TVM's."""
    attributes = call.attrs
    shape = static_shape(call.args[0])
    depthwise = (
        attributes.data_layout == "NHWC"
        and shape is not None
        and int(attributes.groups) == shape[3]
        and static_shape(call.args[1])[2:] == (1, shape[3])
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
    """Depthwise convolution whose innermost loop is the channel, for data (N, H, W, C), weight (kh, kw, 1, C)."""
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
