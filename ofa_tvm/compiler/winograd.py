"""Convolutions of 3 x 3 taps by Winograd's minimal filtering: 16 products for four outputs, not 36.

A tile of 4 x 4 inputs is transformed, multiplied with transformed weights and summed over the channels, a
matrix product for each of the 16 positions, and transformed back to 2 x 2 outputs (Lavin and Gray,
arXiv 1509.09308, F(2 x 2, 3 x 3)). Its transforms only add and subtract, so that in float32 it is as exact as
plain sums are; with larger tiles, which save more, it is not. What is not finite reaches all outputs of its
tile.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from tvm import relax, te, tirx

from ofa_tvm.compiler.anatomy import TILE
from ofa_tvm.compiler.constants import constant_of
from ofa_tvm.compiler.dataflow import static_shape
from ofa_tvm.compiler.fusion import OPAQUE, PATTERN, WITH_ELEMENTWISE
from ofa_tvm.compiler.padding import padded
from ofa_tvm.compiler.products import ProductForm, of_rows
from ofa_tvm.compiler.te_calls import call_te

_OUTPUTS, _INPUTS = 2, 4  # of a tile, along each axis
_ROWS = (4, 5, 6)  # of register tiles that fit 16 registers: by seven, as in 49, sums take a quarter longer
# Times in those of a multiply-add of a vector unit that keeps busy, as measured on a Zen 3 (8 lanes).
_TRANSFORM = 3.5  # of both transforms, by pixel and channel and lane
_WEIGHT = 1.0  # of a weight from memory, by lane
_WORTH = 0.85
_OF_WEIGHTS = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])


def pays(
    data: relax.Expr,
    weight: np.ndarray,
    strides: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    form: ProductForm,
) -> bool:
    """Whether a convolution is one of these, and clearly faster so; parameters as of `convolution`.

    Transforms take time by pixel and channel, transformed weights are read from memory: what is saved has to
    be more.
    """
    lanes = form.lanes or 1
    if not form.winograd or weight.dtype != np.float32 or str(data.ty.dtype) != "float32" or lanes == 1:
        return False
    kh, kw, c_in, c_out = weight.shape
    shape = static_shape(data)
    if shape is None or (kh, kw, *strides, *dilation) != (3, 3, 1, 1, 1, 1) or c_out % lanes:
        return False
    lines, columns = _sizes(shape, padding)
    products, plain = _INPUTS**2 * math.prod(_tiles(shape, padding)), 9 * shape[0] * lines * columns
    transforms = _TRANSFORM * lanes * shape[0] * lines * columns * (c_in + c_out)
    more_weights = _WEIGHT * lanes * (_INPUTS**2 - 9) * c_in * c_out
    return products * c_in * c_out + transforms + more_weights < _WORTH * plain * c_in * c_out


def winograd_convolution(
    bb: relax.BlockBuilder, data: relax.Expr, weight: np.ndarray, padding: Sequence[int], lanes: int
) -> relax.Call:
    """Convolution of 3 x 3 taps, stride and dilation 1, in float32.

    Parameters
    ----------
    bb
        Takes the kernels up.
    data
        (n, h, w, c), c >= c_in.
    weight
        (3, 3, c_in, c_out), c_out a multiple of `lanes`.
    padding
        (top, left, bottom, right)
    lanes
        Values of a vector register.
    """
    shape = static_shape(data) or (0, 0, 0, 0)
    tiles = _tiles(shape, padding)
    c_in, c_out = weight.shape[2:]
    transformed = np.einsum("ai,bj,ijkl->abkl", _OF_WEIGHTS, _OF_WEIGHTS, weight.astype(np.float64))
    panels = transformed.astype(np.float32).reshape(_INPUTS**2, c_in, -1, lanes).transpose(0, 2, 1, 3)
    parts = bb.emit(
        call_te(
            bb, _tiles_of, data, c_in, list(tiles), list(padding),
            name="winograd_input", attributes={PATTERN: OPAQUE},
        )
    )  # fmt: skip
    flat = bb.emit(relax.op.reshape(parts, (_INPUTS**2, math.prod(tiles), c_in)))
    constant = constant_of(np.ascontiguousarray(panels))
    products = bb.emit(call_te(bb, _products, flat, constant, name="winograd_sums"))
    whole = bb.emit(relax.op.reshape(products, (_INPUTS, _INPUTS, *tiles, c_out)))
    return call_te(
        bb, _outputs_of, whole, *_sizes(shape, padding),
        name="winograd_output", attributes={PATTERN: WITH_ELEMENTWISE},
    )  # fmt: skip


def _sizes(shape: Sequence[int], padding: Sequence[int]) -> tuple[int, int]:
    """Lines and columns of the result."""
    top, left, bottom, right = padding
    return shape[1] + top + bottom - 2, shape[2] + left + right - 2


def _tiles(shape: Sequence[int], padding: Sequence[int]) -> tuple[int, int, int]:
    """Images, and tiles along lines and columns."""
    lines, columns = _sizes(shape, padding)
    return shape[0], -(-lines // _OUTPUTS), -(-columns // _OUTPUTS)


def _signed(value: tirx.Expr, negative: tirx.Expr) -> tirx.Expr:
    return tirx.if_then_else(negative, -value, value)


def _tiles_of(data: te.Tensor, channels: int, tiles: list[int], padding: list[int]) -> te.Tensor:
    """(4, 4, n, tile lines, tile columns, c): each tile of inputs, transformed along both axes."""
    _, height, width, _ = (int(extent) for extent in data.shape)
    top, left, _, _ = padding
    bottom, right = (
        _OUTPUTS * count + _INPUTS - _OUTPUTS - size - before
        for count, size, before in zip(tiles[1:], (height, width), (top, left), strict=True)
    )
    source = padded(data, channels, (top, left, bottom, right))

    def value(*at: tirx.Var) -> tirx.Expr:
        a, b, image, line, column, channel = at

        def along(i: tirx.Expr) -> tirx.Expr:
            return _two(lambda j: source[image, _OUTPUTS * line + i, _OUTPUTS * column + j, channel], b)

        return _two(along, a)

    return te.compute(
        (_INPUTS, _INPUTS, *tiles, channels), value, name="tiles", attrs={TILE: [0, 1, _INPUTS]}
    )


def _two(value: Callable[[tirx.Expr], tirx.Expr], number: tirx.Expr) -> tirx.Expr:
    """Row `number` of the transform of four inputs: x0 - x2, x1 + x2, x2 - x1, x1 - x3."""
    first, second = value(tirx.min(number, 1)), value(2 + number // 3)
    return _signed(first, number == 2) + _signed(second, tirx.any(number == 0, number == 3))


def _products(left: te.Tensor, right: te.Tensor) -> te.Tensor:
    """(16, tiles, c_in) times the 16 matrices, stored as (16, c_out / panel, c_in, panel)."""
    positions, panels, depth, panel = (int(extent) for extent in right.shape)
    k = te.reduce_axis((0, depth), name="k")

    def product(row: Sequence[tirx.Var], j: tirx.Var) -> te.Tensor:
        position, tile = row
        return te.sum(left[position, tile, k] * right[position, j // panel, k, j % panel], axis=k)

    tiles, width = int(left.shape[1]), panels * panel
    return of_rows([positions], tiles, width, width, product, min(-(-tiles // n) * n for n in _ROWS))


def _outputs_of(products: te.Tensor, lines: int, columns: int) -> te.Tensor:
    """(n, lines, columns, c) of (4, 4, n, tile lines, tile columns, c)."""
    n, channels = int(products.shape[2]), int(products.shape[5])

    def value(image: tirx.Var, y: tirx.Var, x: tirx.Var, channel: tirx.Var) -> tirx.Expr:
        tile = image, y // _OUTPUTS, x // _OUTPUTS, channel

        def along(i: tirx.Expr) -> tirx.Expr:
            return _three(lambda j: products[(i, j, *tile)], x % _OUTPUTS)

        return _three(along, y % _OUTPUTS)

    return te.compute((n, lines, columns, channels), value, name="result", attrs={TILE: [1, 2, _OUTPUTS]})


def _three(value: Callable[[tirx.Expr], tirx.Expr], number: tirx.Expr) -> tirx.Expr:
    """Row `number` of the transform of four sums: x0 + x1 + x2, x1 - x2 - x3."""
    odd = number == 1
    return _signed(value(3 * number), odd) + value(1) + _signed(value(2), odd)
