"""Convolutions with the channel innermost."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from tvm import relax, te, tirx

from ofa_tvm.compiler.constants import constant_of
from ofa_tvm.compiler.padding import output_sizes, padded
from ofa_tvm.compiler.products import (
    ProductForm,
    added_in_blocks,
    packs,
    paired,
    product_of,
    product_of_pairs,
)
from ofa_tvm.compiler.te_calls import call_te
from ofa_tvm.compiler.winograd import pays, winograd_convolution

_MANY = 16  # input channels from which on weights are read in panels


def convolution(
    bb: relax.BlockBuilder,
    data: relax.Expr,
    weight: np.ndarray,
    strides: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    form: ProductForm,
) -> relax.Expr:
    """Convolution of all channels; of those of `data`, none from the weights' c_in on is read.

    Weights of many channels are stored in panels one vector wide, as those of products are.

    The convolution of float16 is float32, see `added_in_blocks` for one that is added in half.

    Parameters
    ----------
    bb
        Takes the kernel up.
    data
        (n, h, w, c), c >= c_in.
    weight
        (kh, kw, c_in, c_out)
    strides, padding, dilation
        (y, x); padding (top, left, bottom, right).
    form
        How to compute its products.
    """
    lanes = form.lanes or 1
    in_half = form.in_half and weight.dtype == np.float16
    kh, kw, c_in, c_out = weight.shape
    if pays(data, weight, strides, padding, dilation, form):
        return winograd_convolution(bb, data, weight, padding, lanes)
    if _packs_channels(weight, lanes):
        panel = math.gcd(c_out, lanes)
        weight = weight.reshape(kh, kw, c_in, -1, panel).transpose(3, 0, 1, 2, 4)
        if form.in_pairs and weight.dtype == np.float32:
            window = list(strides), list(padding), list(dilation)
            panels = constant_of(paired(weight))
            return call_te(bb, _dense_of_pairs, data, panels, *window, c_in, name="conv2d")

    def part(start: int, stop: int) -> relax.Call:
        return call_te(
            bb,
            _dense,
            data,
            constant_of(np.ascontiguousarray(weight[..., start:stop, :])),
            list(strides),
            list(padding),
            list(dilation),
            start,
            in_half,
            name="conv2d",
        )

    return added_in_blocks(bb, c_in, kh * kw, part) if in_half else part(0, c_in)


def _packs_channels(weight: np.ndarray, lanes: int) -> bool:
    """Whether weights (kh, kw, c_in, c_out) are worth storing in panels; those of pictures are few."""
    return weight.shape[2] >= _MANY and packs(weight.reshape(-1, weight.shape[3]), lanes)


def _dense(
    data: te.Tensor,
    weight: te.Tensor,
    strides: list[int],
    padding: list[int],
    dilation: list[int],
    start: int,
    in_half: bool,
) -> te.Tensor:
    """The weights are (kh, kw, c_in, c_out), or (c_out / panel, kh, kw, c_in, panel)."""
    *panels, kh, kw, c_in, panel = (int(v) for v in weight.shape)
    source = padded(data, c_in, padding, start)
    n, height, width, _ = (int(v) for v in source.shape)
    dy, dx = te.reduce_axis((0, kh), "dy"), te.reduce_axis((0, kw), "dx")
    dc = te.reduce_axis((0, c_in), "dc")

    def value(b: tirx.Var, y: tirx.Var, x: tirx.Var, c: tirx.Var) -> tirx.Expr:
        line, column = y * strides[0] + dy * dilation[0], x * strides[1] + dx * dilation[1]
        at = (c // panel, dy, dx, dc, c % panel) if panels else (dy, dx, dc, c)
        factors = source[b, line, column, dc], weight[at]
        return te.sum(product_of(*factors, data.dtype, in_half=in_half), axis=[dy, dx, dc])

    lines, columns = output_sizes((height, width), (kh, kw), strides, dilation)
    shape = n, lines, columns, math.prod(panels) * panel
    return te.compute(shape, value, name="conv2d")


def _dense_of_pairs(
    data: te.Tensor, weight: te.Tensor, strides: list[int], padding: list[int], dilation: list[int], c_in: int
) -> te.Tensor:
    """The weights are (c_out / panel, kh, kw, c_in / 2, panel)."""
    panels, kh, kw, terms, panel = (int(v) for v in weight.shape)
    source = padded(data, c_in, padding)
    n, height, width, _ = (int(v) for v in source.shape)
    dy, dx, dc = (te.reduce_axis((0, e), name) for e, name in ((kh, "dy"), (kw, "dx"), (terms, "dc")))

    def value(b: tirx.Var, y: tirx.Var, x: tirx.Var, c: tirx.Var) -> tirx.Expr:
        line, column = y * strides[0] + dy * dilation[0], x * strides[1] + dx * dilation[1]
        two = weight[c // panel, dy, dx, dc, c % panel]
        product = product_of_pairs(lambda at: source[b, line, column, at], two, dc, c_in)
        return te.sum(product, axis=[dy, dx, dc])

    lines, columns = output_sizes((height, width), (kh, kw), strides, dilation)
    shape = n, lines, columns, panels * panel
    return te.compute(shape, value, name="conv2d")


def depthwise(
    data: te.Tensor,
    weight: te.Tensor,
    strides: list[int],
    padding: list[int],
    dilation: list[int],
    out_dtype: str,
) -> te.Tensor:
    """Depthwise convolution of data (n, h, w, c) with weight (kh, kw, 1, c)."""
    kh, kw, _, channels = (int(v) for v in weight.shape)
    source = padded(data, channels, padding)
    n, height, width, _ = (int(v) for v in source.shape)
    dy, dx = te.reduce_axis((0, kh), "dy"), te.reduce_axis((0, kw), "dx")
    lines, columns = output_sizes((height, width), (kh, kw), strides, dilation)
    shape = n, lines, columns, channels
    return te.compute(
        shape,
        lambda b, y, x, c: te.sum(
            source[b, y * strides[0] + dy * dilation[0], x * strides[1] + dx * dilation[1], c].astype(
                out_dtype
            )
            * weight[dy, dx, 0, c].astype(out_dtype),
            axis=[dy, dx],
        ),
        name="depthwise_conv2d",
    )


def grouped(
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
    source = padded(data, int(data.shape[3]), padding)
    n, height, width, _ = (int(v) for v in source.shape)
    out_h, out_w = output_sizes((height, width), (kh, kw), strides, dilation)
    dy, dx, k = (te.reduce_axis((0, e), name) for e, name in ((kh, "dy"), (kw, "dx"), (depth, "k")))
    each = outputs // groups

    def product(b: tirx.Var, g: tirx.Var, y: tirx.Var, x: tirx.Var, c: tirx.Var) -> tirx.Expr:
        line, column = y * strides[0] + dy * dilation[0], x * strides[1] + dx * dilation[1]
        left = source[b, line, column, g * depth + k].astype(out_dtype)
        return te.sum(left * weight[dy, dx, k, g * each + c].astype(out_dtype), axis=[dy, dx, k])

    summed = te.compute((n, groups, out_h, out_w, each), product, name="conv2d")
    return te.compute(
        (n, out_h, out_w, outputs), lambda b, y, x, o: summed[b, o // each, y, x, o % each], name="result"
    )
