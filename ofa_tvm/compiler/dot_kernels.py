"""Integer products and convolutions: int32 sums of uint8 or int8 maps times int8 weights, four terms a dot.

Weights are stored as int32 of four bytes each, in panels one vector wide. A dot takes four channels of a
pixel; in depthwise convolutions, where a channel is alone, four lines of the window (the last are filled up
with zeros).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from tvm import relax, te, tirx
from tvm.ir import Expr

from ofa_tvm.compiler.anatomy import LINES
from ofa_tvm.compiler.constants import constant_of
from ofa_tvm.compiler.convolutions import output_size
from ofa_tvm.compiler.dataflow import static_shape
from ofa_tvm.compiler.dots import dot4, quads
from ofa_tvm.compiler.products import ProductForm, of_rows

_DOT = 4
_EXACT = 500  # products of two bytes whose sum float32 holds


def integer_product(
    bb: relax.BlockBuilder, left: relax.Expr, matrix: np.ndarray, form: ProductForm
) -> relax.Call:
    """(..., m, k') times an int8 (k, n) matrix, k <= k': columns of `left` from k on do not count.

    Parameters
    ----------
    bb
        Takes the kernel up.
    left
        Of two or more dimensions.
    matrix
        Columns of zeros are appended where it does not fill its panels.
    form
        How the target computes products.
    """
    width = matrix.shape[1]
    panels = constant_of(_panels(matrix[np.newaxis, np.newaxis], form)[:, 0, 0])
    return bb.call_te(_product, left, panels, width, _narrow(matrix), primfunc_name_hint="matmul")


def integer_convolution(
    bb: relax.BlockBuilder,
    data: relax.Expr,
    weight: np.ndarray,
    strides: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    form: ProductForm,
    outside: int,
) -> relax.Call:
    """Convolution of all channels; those of `data` from the weights' c_in on do not count.

    Parameters
    ----------
    bb
        Takes the kernel up.
    data
        (n, h, w, c), c >= c_in.
    weight
        int8 (kh, kw, c_in, c_out), c_out a multiple of the panel that it is stored in.
    strides, padding, dilation
        (y, x); padding (top, left, bottom, right).
    form
        How the target computes products.
    outside
        What lies on the padding: the zero point.
    """
    window = list(strides), list(padding), list(dilation)
    panels, width = constant_of(_panels(weight, form)), weight.shape[3]
    rest = width, *window, _narrow(weight)
    return bb.call_te(_dense, data, panels, _outside(data, outside), *rest, primfunc_name_hint="conv2d")


def integer_depthwise(
    bb: relax.BlockBuilder,
    data: relax.Expr,
    weight: np.ndarray,
    strides: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    form: ProductForm,
    outside: int,
) -> relax.Call:
    """Depthwise convolution of data (n, h, w, c) with int8 (kh, kw, 1, c); see `integer_convolution`.

    Lines that are taken together serve several lines of the result, each with weights of its own. Where dots
    are no instruction, products of 16 bits need none of that, nor those of float32, which are as exact: a sum
    of fewer than 500 products of bytes is below 2^24.
    """
    window, name = (list(strides), list(padding), list(dilation)), "depthwise_conv2d"
    if not form.dots:
        exact = not form.signed_bytes and weight.shape[0] * weight.shape[1] < _EXACT
        words = constant_of(weight[:, :, 0].astype(np.float32 if exact else np.int16))
        constants = words, _outside(data, outside)
        return bb.call_te(_depthwise_by_words, data, *constants, *window, primfunc_name_hint=name)
    kh, kw, _, channels = weight.shape
    height = (static_shape(data) or (0, 0))[1]
    out_height = output_size(height + padding[0] + padding[2], kh, strides[0], dilation[0])
    lines = _lines_together(kh, strides[0], out_height) if dilation[0] == 1 else 1
    spread = np.zeros((lines, -(-((lines - 1) * strides[0] + kh) // _DOT) * _DOT, kw, channels), np.int8)
    for line in range(lines):
        spread[line, line * strides[0] : line * strides[0] + kh] = weight[:, :, 0]
    packed = quads(spread.reshape(lines, -1, _DOT, kw, channels).transpose(0, 1, 3, 4, 2))
    rest = kh, *window, _narrow(weight)
    constants = constant_of(packed), _outside(data, outside)
    return bb.call_te(_depthwise, data, *constants, *rest, primfunc_name_hint=name)


def _outside(data: relax.Expr, value: int) -> relax.Expr:
    """What lies on the padding, as a kernel's parameter: kernels are the same for all zero points."""
    return constant_of(np.full((1,), value, str(data.ty.dtype)))


def _narrow(weight: np.ndarray) -> bool:
    """Whether there is no -128."""
    return bool(weight.size and weight.min() > np.iinfo(np.int8).min)


def _lines_together(taps: int, stride: int, lines: int) -> int:
    """How many lines of the result the lines that dots take together, four or eight, have all taps of.

    They divide `lines`, so that all tiles are alike.
    """
    most = (-taps % _DOT) // stride + 1
    return max(d for d in range(1, most + 1) if lines % d == 0)


def _panels(weight: np.ndarray, form: ProductForm) -> np.ndarray:
    """int8 (kh, kw, c_in, c_out) as int32 (c_out / panel, kh, kw, c_in / 4, panel), filled up with zeros."""
    kh, kw, c_in, c_out = weight.shape
    lanes = form.lanes or 1
    panel = max(lanes, math.gcd(c_out, form.panel)) if 2 * c_out > lanes else c_out
    padding = [(0, 0), (0, 0), (0, -c_in % _DOT), (0, -c_out % panel)]
    whole = np.pad(weight, padding).reshape(kh, kw, -1, _DOT, (c_out + (-c_out % panel)) // panel, panel)
    return quads(whole.transpose(4, 0, 1, 2, 5, 3))


def _four(value: Callable[[Expr], Expr], number: Expr, dots: int, extent: int, dtype: str) -> list[Expr]:
    """The factors of one of so many dots over an axis of `extent` values; zeros where that ends before."""
    zero, found = tirx.const(0, dtype), []
    for i in range(_DOT):
        at = _DOT * number + i
        if _DOT * (dots - 1) + i < extent:
            found.append(value(at))
        elif dots == 1:
            found.append(zero)
        else:
            found.append(tirx.if_then_else(at < extent, value(tirx.min(at, extent - 1)), zero))
    return found


def _padded(data: te.Tensor, padding: Sequence[int], outside: te.Tensor) -> te.Tensor:
    """A map (n, h, w, c) with a constant around it, read in place (`convolutions.padded`).

    Lines are asked for apart from columns: so TVM can take a loop over lines apart where several tiles lie in
    a line, the first and last of which reach beyond it.
    """
    n, height, width, channels = (int(v) for v in data.shape)
    top, left, bottom, right = padding

    def value(b: tirx.Var, y: tirx.Var, x: tirx.Var, c: tirx.Var) -> Expr:
        line = tirx.likely(tirx.all(y >= top, y < top + height))
        column = tirx.likely(tirx.all(x >= left, x < left + width))
        return tirx.if_then_else(tirx.all(line, column), data[b, y - top, x - left, c], outside[0])

    return te.compute((n, height + top + bottom, width + left + right, channels), value, name="padded")


def _product(left: te.Tensor, right: te.Tensor, width: int, narrow: bool) -> te.Tensor:
    panels, dots, panel = (int(extent) for extent in right.shape)
    *lead, height, depth = (int(extent) for extent in left.shape)
    k = te.reduce_axis((0, dots), name="k")

    def product(row: Sequence[tirx.Var], j: tirx.Var) -> Expr:
        four = _four(lambda at: left(*row, at), k, dots, depth, left.dtype)
        return te.sum(dot4(four, right[j // panel, k, j % panel], narrow=narrow), axis=k)

    return of_rows(lead, height, width, panels * panel, product)


def _dense(
    data: te.Tensor,
    weight: te.Tensor,
    outside: te.Tensor,
    width: int,
    strides: list[int],
    padding: list[int],
    dilation: list[int],
    narrow: bool,
) -> te.Tensor:
    _, kh, kw, dots, panel = (int(v) for v in weight.shape)
    channels = int(data.shape[3])
    source = _padded(data, padding, outside)
    n, height, length, _ = (int(v) for v in source.shape)
    dy, dx, dc = (te.reduce_axis((0, e), name) for e, name in ((kh, "dy"), (kw, "dx"), (dots, "dc")))

    def value(b: tirx.Var, y: tirx.Var, x: tirx.Var, c: tirx.Var) -> Expr:
        line, column = y * strides[0] + dy * dilation[0], x * strides[1] + dx * dilation[1]
        four = _four(lambda at: source[b, line, column, at], dc, dots, channels, data.dtype)
        dot = dot4(four, weight[c // panel, dy, dx, dc, c % panel], narrow=narrow)
        return te.sum(dot, axis=[dy, dx, dc])

    shape = (
        n,
        output_size(height, kh, strides[0], dilation[0]),
        output_size(length, kw, strides[1], dilation[1]),
        width,
    )
    return te.compute(shape, value, name="conv2d")


def _depthwise(
    data: te.Tensor,
    weight: te.Tensor,
    outside: te.Tensor,
    kh: int,
    strides: list[int],
    padding: list[int],
    dilation: list[int],
    narrow: bool,
) -> te.Tensor:
    together, groups, kw, channels = (int(v) for v in weight.shape)
    source = _padded(data, padding, outside)
    n, height, length, _ = (int(v) for v in source.shape)
    dg, dx = te.reduce_axis((0, groups), "dg"), te.reduce_axis((0, kw), "dx")
    read = (together - 1) * strides[0] + kh  # lines that have weights
    zero = tirx.const(0, data.dtype)

    def value(b: tirx.Var, y: tirx.Var, x: tirx.Var, c: tirx.Var) -> Expr:
        first, column = y // together * (together * strides[0]), x * strides[1] + dx * dilation[1]

        def line(i: int) -> Expr:
            dy = _DOT * dg + i
            found = source[b, first + dy * dilation[0], column, c]
            if _DOT * (groups - 1) + i < read:
                return found
            return zero if groups == 1 else tirx.if_then_else(dy < read, found, zero)

        factors = [line(i) for i in range(_DOT)]
        return te.sum(dot4(factors, weight[y % together, dg, dx, c], narrow=narrow), axis=[dg, dx])

    shape = (
        n,
        output_size(height, kh, strides[0], dilation[0]),
        output_size(length, kw, strides[1], dilation[1]),
        channels,
    )
    return te.compute(shape, value, name="depthwise_conv2d", attrs={LINES: together})


def _depthwise_by_words(
    data: te.Tensor,
    weight: te.Tensor,
    outside: te.Tensor,
    strides: list[int],
    padding: list[int],
    dilation: list[int],
) -> te.Tensor:
    kh, kw, channels = (int(v) for v in weight.shape)
    sums = "float32" if weight.dtype == "float32" else "int32"
    source = _padded(data, padding, outside)
    n, height, length, _ = (int(v) for v in source.shape)
    dy, dx = te.reduce_axis((0, kh), "dy"), te.reduce_axis((0, kw), "dx")

    def value(b: tirx.Var, y: tirx.Var, x: tirx.Var, c: tirx.Var) -> Expr:
        line, column = y * strides[0] + dy * dilation[0], x * strides[1] + dx * dilation[1]
        factor = source[b, line, column, c].astype(weight.dtype).astype(sums)
        return te.sum(factor * weight[dy, dx, c].astype(sums), axis=[dy, dx])

    shape = (
        n,
        output_size(height, kh, strides[0], dilation[0]),
        output_size(length, kw, strides[1], dilation[1]),
        channels,
    )
    result = te.compute(shape, value, name="depthwise_conv2d")
    if sums == "int32":
        return result
    return te.compute(shape, lambda *at: result(*at).astype("int32"), name="sums")
