"""Matrix products in the form that the templates make fast.

In a network a kernel finds its weights in the last-level cache at best. Read in panels one vector wide they
are sequential streams, which the prefetchers follow; rows of the matrix are not.

A register tile needs several rows, and vectors whole columns. Where a product's extents have no such divisors
(a transformer's 197 tokens) more rows or columns are computed than it has, and left out of the result: the
last row several times, columns of zeros.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from tvm import relax, te, tirx

from ofa_tvm.compiler.constants import constant_of

_ROWS = range(4, 14)  # sizes of a register tile
_TILE = 8  # rows to which those without such a divisor are rounded up


def packs(matrix: np.ndarray, lanes: int) -> bool:
    """Whether panels of a (k, n) matrix would fill at least half a vector of `lanes` values."""
    return lanes > 1 and matrix.ndim == 2 and 2 * math.gcd(matrix.shape[1], lanes) >= lanes


def packed_product(bb: relax.BlockBuilder, left: relax.Expr, matrix: np.ndarray, lanes: int) -> relax.Call:
    """(..., m, k') times a (k, n) matrix, k <= k': of the columns of `left`, those from k on are not read.

    Parameters
    ----------
    bb
        Takes the kernel up.
    left
        Of two or more dimensions.
    matrix
        Where it does not fill its panels (see `packs`), columns of zeros are appended.
    lanes
        Values of a vector register.
    """
    depth, width = matrix.shape
    if not packs(matrix, lanes):
        matrix = np.pad(matrix, [(0, 0), (0, _rounded(width, lanes) - width)])
    panel = math.gcd(matrix.shape[1], lanes)
    packed = np.ascontiguousarray(matrix.reshape(depth, -1, panel).transpose(1, 0, 2))
    return bb.call_te(_product, left, constant_of(packed), width, primfunc_name_hint="matmul")


def batched_product(
    bb: relax.BlockBuilder, left: relax.Expr, right: relax.Expr, shape: Sequence[int], lanes: int
) -> relax.Call:
    """(..., m, k) times (..., k, n), neither constant, batch dimensions broadcast.

    Parameters
    ----------
    bb
        Takes the kernels up: the product, and the padding of `right` to whole vectors where it needs it.
    left, right
        Of two or more dimensions.
    shape
        Of the result.
    lanes
        Values of a vector register.
    """
    width = _rounded(shape[-1], lanes) if shape[-1] > lanes // 2 else shape[-1]
    if width > shape[-1]:
        right = bb.emit(bb.call_te(_with_columns, right, width, primfunc_name_hint="pad"))
    return bb.call_te(_batched, left, right, list(shape), primfunc_name_hint="matmul")


def _rounded(extent: int, unit: int) -> int:
    return -(-extent // unit) * unit


def _rows(extent: int) -> int:
    """Rows to compute for so many: some tile of registers divides them."""
    return extent if extent < _TILE or any(extent % rows == 0 for rows in _ROWS) else _rounded(extent, _TILE)


def _with_columns(right: te.Tensor, width: int) -> te.Tensor:
    *lead, columns = (int(extent) for extent in right.shape)
    return te.compute(
        (*lead, width),
        lambda *at: tirx.if_then_else(
            at[-1] < columns, right(*at[:-1], tirx.min(at[-1], columns - 1)), tirx.const(0, right.dtype)
        ),
        name="padded",
    )


def _product(left: te.Tensor, right: te.Tensor, width: int) -> te.Tensor:
    """The matrix is stored as (n / panel, k, panel)."""
    panels, depth, panel = (int(extent) for extent in right.shape)
    *lead, height = (int(extent) for extent in left.shape[:-1])
    k = te.reduce_axis((0, depth), name="k")

    def product(row: Sequence[tirx.Var], j: tirx.Var) -> te.Tensor:
        return te.sum(left(*row, k) * right[j // panel, k, j % panel], axis=k)

    return _of_rows(lead, height, width, panels * panel, product)


def _batched(left: te.Tensor, right: te.Tensor, shape: Sequence[int]) -> te.Tensor:
    *lead, height, width = shape
    k = te.reduce_axis((0, int(left.shape[-1])), name="k")

    def broadcast(tensor: te.Tensor, batch: Sequence[tirx.Var]) -> list[tirx.Var | int]:
        own = len(tensor.shape) - 2
        indices = batch[len(batch) - own :]
        return [0 if int(tensor.shape[d]) == 1 else index for d, index in enumerate(indices)]

    def product(row: Sequence[tirx.Var], j: tirx.Var) -> te.Tensor:
        *batch, i = row
        return te.sum(left(*broadcast(left, batch), i, k) * right(*broadcast(right, batch), k, j), axis=k)

    return _of_rows(lead, height, width, int(right.shape[-1]), product)


def _of_rows(
    lead: Sequence[int],
    height: int,
    width: int,
    computed: int,
    product: Callable[[Sequence[tirx.Var], tirx.Var], te.Tensor],
) -> te.Tensor:
    """(*lead, height, width) of `product`, computed for whole tiles of rows and for `computed` columns."""
    rows = _rows(height)
    if (rows, computed) == (height, width):
        return te.compute((*lead, height, width), lambda *at: product(at[:-1], at[-1]), name="matmul")
    whole = te.compute(
        (*lead, rows, computed),
        lambda *at: product((*at[:-2], tirx.min(at[-2], height - 1) if rows > height else at[-2]), at[-1]),
        name="matmul",
    )
    return te.compute((*lead, height, width), lambda *at: whole(*at), name="result")
