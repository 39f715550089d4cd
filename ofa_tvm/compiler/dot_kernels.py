"""Integer products and convolutions: int32 sums of uint8 or int8 maps times int8 weights, four terms a dot.

Weights are stored as int32 of four bytes each, in panels one vector wide. A dot takes four channels of a
pixel; in depthwise convolutions, where a channel is alone, four lines of the window (`depthwise_kernels`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from tvm import relax, te, tirx
from tvm.ir import Expr

from ofa_tvm.compiler.constants import constant_of
from ofa_tvm.compiler.depthwise_kernels import depthwise_of_bytes
from ofa_tvm.compiler.dots import BYTES_A_WORD, dot4, has_short_sums, is_narrow, quads
from ofa_tvm.compiler.padding import output_sizes, padded_by_cases
from ofa_tvm.compiler.products import ProductForm, of_rows
from ofa_tvm.compiler.te_calls import call_te


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
    return call_te(bb, _product, left, panels, width, is_narrow(matrix), name="matmul")


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
    rest = width, *window, is_narrow(weight)
    return call_te(bb, _dense, data, panels, _outside(data, outside), *rest, name="conv2d")


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

    Where dots are no instruction, products of 16 bits serve: of two lines each on x86.
    """
    window, at = (list(strides), list(padding), list(dilation)), _outside(data, outside)
    if form.dots or not form.signed_bytes:
        return depthwise_of_bytes(bb, data, weight, *window, at, dots=form.dots)
    words = constant_of(weight[:, :, 0].astype(np.int16))
    return call_te(bb, _depthwise_by_words, data, words, at, *window, name="depthwise_conv2d")


def _outside(data: relax.Expr, value: int) -> relax.Expr:
    """What lies on the padding, as a kernel's parameter: kernels are the same for all zero points."""
    return constant_of(np.full((1,), value, str(data.ty.dtype)))


def _panels(weight: np.ndarray, form: ProductForm) -> np.ndarray:
    """int8 (kh, kw, c_in, c_out) as int32 (c_out / panel, kh, kw, c_in / 4, panel), filled up with zeros.

    As uint32 where the target gains by sums that are short, and all are.
    """
    kh, kw, c_in, c_out = weight.shape
    lanes = form.lanes or 1
    panel = max(lanes, math.gcd(c_out, form.panel)) if 2 * c_out > lanes else c_out
    padding = [(0, 0), (0, 0), (0, -c_in % BYTES_A_WORD), (0, -c_out % panel)]
    whole = np.pad(weight, padding).reshape(
        kh, kw, -1, BYTES_A_WORD, (c_out + (-c_out % panel)) // panel, panel
    )
    fours = whole.transpose(4, 0, 1, 2, 5, 3)
    return quads(fours, short=form.short_sums and has_short_sums(fours))


def _four(value: Callable[[Expr], Expr], number: Expr, dots: int, extent: int, dtype: str) -> list[Expr]:
    """The factors of one of so many dots over an axis of `extent` values; zeros where that ends before."""
    zero, found = tirx.const(0, dtype), []
    for i in range(BYTES_A_WORD):
        at = BYTES_A_WORD * number + i
        if BYTES_A_WORD * (dots - 1) + i < extent:
            found.append(value(at))
        elif dots == 1:
            found.append(zero)
        else:
            found.append(tirx.if_then_else(at < extent, value(tirx.min(at, extent - 1)), zero))
    return found


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
    source = padded_by_cases(data, padding, outside[0])
    n, height, length, _ = (int(v) for v in source.shape)
    dy, dx, dc = (te.reduce_axis((0, e), name) for e, name in ((kh, "dy"), (kw, "dx"), (dots, "dc")))

    def value(b: tirx.Var, y: tirx.Var, x: tirx.Var, c: tirx.Var) -> Expr:
        line, column = y * strides[0] + dy * dilation[0], x * strides[1] + dx * dilation[1]
        four = _four(lambda at: source[b, line, column, at], dc, dots, channels, data.dtype)
        dot = dot4(four, weight[c // panel, dy, dx, dc, c % panel], narrow=narrow)
        return te.sum(dot, axis=[dy, dx, dc])

    lines, columns = output_sizes((height, length), (kh, kw), strides, dilation)
    shape = n, lines, columns, width
    return te.compute(shape, value, name="conv2d")


def _depthwise_by_words(
    data: te.Tensor,
    weight: te.Tensor,
    outside: te.Tensor,
    strides: list[int],
    padding: list[int],
    dilation: list[int],
) -> te.Tensor:
    kh, kw, channels = (int(v) for v in weight.shape)
    source = padded_by_cases(data, padding, outside[0])
    n, height, length, _ = (int(v) for v in source.shape)
    dy, dx = te.reduce_axis((0, kh), "dy"), te.reduce_axis((0, kw), "dx")

    def value(b: tirx.Var, y: tirx.Var, x: tirx.Var, c: tirx.Var) -> Expr:
        line, column = y * strides[0] + dy * dilation[0], x * strides[1] + dx * dilation[1]
        factor = source[b, line, column, c].astype(weight.dtype).astype("int32")
        return te.sum(factor * weight[dy, dx, c].astype("int32"), axis=[dy, dx])

    lines, columns = output_sizes((height, length), (kh, kw), strides, dilation)
    shape = n, lines, columns, channels
    return te.compute(shape, value, name="depthwise_conv2d")
