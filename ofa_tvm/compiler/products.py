"""Matrix products in the form that the templates make fast.

In a network a kernel finds its weights in the last-level cache at best. Read in panels one vector wide they
are sequential streams, which the prefetchers follow; rows of the matrix are not.

A register tile needs several rows, and vectors whole columns. Where a product's extents have no such divisors
(a transformer's 197 tokens) more rows or columns are computed than it has, and left out of the result: the
last row several times, columns of zeros.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from tvm import relax, te, tirx, topi

from ofa_tvm.compiler.constants import constant_of
from ofa_tvm.compiler.dataflow import static_shape
from ofa_tvm.compiler.pairs import PAIR, dot2, nearest, pairs
from ofa_tvm.compiler.te_calls import call_te

_ROWS = range(4, 14)  # sizes of a register tile
_FEW_ROWS = 4  # for fewer than so many, a product takes as long as its weights take from memory
HALF_TERMS = 128  # float16 products that are added in float16: 1 % off if all are alike, 0.1 % if not
_TILE = 8  # rows to which those without such a divisor are rounded up


@dataclass(frozen=True)
class ProductForm:
    """How a target computes products.

    Parameters
    ----------
    lanes
        Values in a vector register; None where channels and panels are not padded to them.
    in_half
        Whether products of float16 are added in float16, a block at a time.
    half_weights
        Whether weights that few rows are multiplied with are stored as float16.
    signed_bytes
        Whether quantised maps are stored as int8, not uint8.
    byte_tables
        Whether functions of quantised maps are looked up.
    panel
        Columns of the panels in which int8 weights are stored, where they fill them.
    dots
        Whether an instruction adds products of four bytes.
    short_sums
        Whether it gains by int8 weights two products of which fit 16 bits (`dots.has_short_sums`).
    in_pairs
        Whether weights are stored as pairs of bfloat16, with which maps are multiplied in bfloat16.
    pair_dots
        Whether an instruction adds products of two bfloat16.
    winograd
        Whether convolutions may be computed by Winograd's filtering: where maps are float32.
    """

    lanes: int | None = 1
    in_half: bool = False
    half_weights: bool = False
    signed_bytes: bool = False
    byte_tables: bool = False
    panel: int = 1
    dots: bool = True
    short_sums: bool = False
    in_pairs: bool = False
    pair_dots: bool = True
    winograd: bool = False


PLAIN = ProductForm()


def packs(matrix: np.ndarray, lanes: int) -> bool:
    """Whether panels of a (k, n) matrix would fill at least half a vector of `lanes` values."""
    return lanes > 1 and matrix.ndim == 2 and 2 * math.gcd(matrix.shape[1], lanes) >= lanes


def few_rows(left: relax.Expr) -> bool:
    """Whether a product with `left` (..., m, k) is bound by reading its weights."""
    shape = static_shape(left)
    return shape is not None and math.prod(shape[:-1]) < _FEW_ROWS


def as_half(weights: np.ndarray) -> np.ndarray:
    """Weights in float16, those beyond its range cut to it."""
    largest = np.finfo(np.float16).max
    return np.clip(weights, -largest, largest).astype(np.float16)


def product_of(left: tirx.Expr, right: tirx.Expr, *dtypes: str, in_half: bool = False) -> tirx.Expr:
    """One term of a sum of products; what has a factor of float16 is float32 unless it is added `in_half`."""
    if "float16" not in dtypes or in_half:
        return left * right
    return left.astype("float32") * right.astype("float32")


def paired(panels: np.ndarray) -> np.ndarray:
    """Weights (..., k, panel) as pairs (..., k / 2, panel) of them, filled up with zeros."""
    *lead, depth, panel = panels.shape
    whole = np.pad(panels, [(0, 0)] * len(lead) + [(0, -depth % PAIR), (0, 0)])
    return pairs(whole.reshape(*lead, -1, PAIR, panel).swapaxes(-1, -2))


def product_of_pairs(
    value: Callable[[tirx.Expr], tirx.Expr], weights: tirx.Expr, number: tirx.Expr, extent: int
) -> tirx.Expr:
    """One of the products of pairs that are the sum over an axis of `extent` float32 values.

    Parameters
    ----------
    value
        The value at an index.
    weights
        Those that belong to this pair.
    number
        Of the pair.
    """
    factors = [nearest(value(PAIR * number))]
    last, zero = PAIR * number + 1, tirx.const(0, "uint16")
    if extent % PAIR:
        inside = nearest(value(tirx.min(last, extent - 1)))
        factors.append(tirx.if_then_else(last < extent, inside, zero))
    else:
        factors.append(nearest(value(last)))
    return dot2(factors, weights)


def added_in_blocks(
    bb: relax.BlockBuilder, depth: int, products: int, part: Callable[[int, int], relax.Call]
) -> relax.Expr:
    """A sum over `depth` in float16, a block at a time; blocks are added in float32.

    Parameters
    ----------
    bb
        Takes the kernels up.
    depth
        Extent of the sum that may be divided.
    products
        For each of these, how many products there are.
    part
        The float16 sum from one index up to another.

    Returns
    -------
    Expr
        float32, or float16 where one block is enough.
    """
    count = -(-depth // max(1, HALF_TERMS // products))
    bounds = [depth * i // count for i in range(count + 1)]
    blocks = [bb.emit(part(start, stop)) for start, stop in itertools.pairwise(bounds)]
    if count == 1:
        return blocks[0]
    total, *others = [bb.emit(call_te(bb, topi.cast, block, "float32")) for block in blocks]
    for other in others:
        total = bb.emit(call_te(bb, topi.add, total, other))
    return total


def packed_product(
    bb: relax.BlockBuilder, left: relax.Expr, matrix: np.ndarray, form: ProductForm
) -> relax.Call:
    """(..., m, k') times a (k, n) matrix, k <= k': of the columns of `left`, those from k on are not read.

    The product of float16 is float32, see `added_in_blocks` for one that is added in half.

    Parameters
    ----------
    bb
        Takes the kernel up.
    left
        Of two or more dimensions.
    matrix
        Where it does not fill its panels (see `packs`), columns of zeros are appended.
    form
        How to compute it.
    """
    depth, width = matrix.shape
    lanes = form.lanes or 1
    in_half = form.in_half and matrix.dtype == np.float16
    if form.half_weights and matrix.dtype == np.float32 and few_rows(left):
        matrix = as_half(matrix)
    if not packs(matrix, lanes):
        matrix = np.pad(matrix, [(0, 0), (0, _rounded(width, lanes) - width)])
    panel = math.gcd(matrix.shape[1], lanes)
    packed = np.ascontiguousarray(matrix.reshape(depth, -1, panel).transpose(1, 0, 2))
    if form.in_pairs and matrix.dtype == np.float32:
        panels = constant_of(paired(packed))
        return call_te(bb, _product_of_pairs, left, panels, width, depth, name="matmul")

    def part(start: int, stop: int) -> relax.Call:
        panels = constant_of(packed[:, start:stop])
        return call_te(bb, _product, left, panels, width, start, in_half, name="matmul")

    return added_in_blocks(bb, depth, 1, part) if in_half else part(0, depth)


def batched_product(
    bb: relax.BlockBuilder, left: relax.Expr, right: relax.Expr, shape: Sequence[int], lanes: int
) -> relax.Call:
    """(..., m, k) times (..., k, n), neither constant, batch dimensions broadcast; of float16 in float32.

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
        right = bb.emit(call_te(bb, _with_columns, right, width, name="pad"))
    return call_te(bb, _batched, left, right, list(shape), name="matmul")


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


def _product(left: te.Tensor, right: te.Tensor, width: int, start: int, in_half: bool) -> te.Tensor:
    """The matrix is stored as (n / panel, k, panel)."""
    panels, depth, panel = (int(extent) for extent in right.shape)
    *lead, height = (int(extent) for extent in left.shape[:-1])
    k = te.reduce_axis((0, depth), name="k")

    def product(row: Sequence[tirx.Var], j: tirx.Var) -> te.Tensor:
        value = left(*row, start + k if start else k)
        factors = value, right[j // panel, k, j % panel]
        return te.sum(product_of(*factors, left.dtype, right.dtype, in_half=in_half), axis=k)

    return of_rows(lead, height, width, panels * panel, product)


def _product_of_pairs(left: te.Tensor, right: te.Tensor, width: int, depth: int) -> te.Tensor:
    """The matrix is stored as (n / panel, k / 2, panel)."""
    panels, terms, panel = (int(extent) for extent in right.shape)
    *lead, height = (int(extent) for extent in left.shape[:-1])
    k = te.reduce_axis((0, terms), name="k")

    def product(row: Sequence[tirx.Var], j: tirx.Var) -> te.Tensor:
        weights = right[j // panel, k, j % panel]
        return te.sum(product_of_pairs(lambda at: left(*row, at), weights, k, depth), axis=k)

    return of_rows(lead, height, width, panels * panel, product)


def _batched(left: te.Tensor, right: te.Tensor, shape: Sequence[int]) -> te.Tensor:
    *lead, height, width = shape
    k = te.reduce_axis((0, int(left.shape[-1])), name="k")

    def broadcast(tensor: te.Tensor, batch: Sequence[tirx.Var]) -> list[tirx.Var | int]:
        own = len(tensor.shape) - 2
        indices = batch[len(batch) - own :]
        return [0 if int(tensor.shape[d]) == 1 else index for d, index in enumerate(indices)]

    def product(row: Sequence[tirx.Var], j: tirx.Var) -> te.Tensor:
        *batch, i = row
        factors = left(*broadcast(left, batch), i, k), right(*broadcast(right, batch), k, j)
        return te.sum(product_of(*factors, left.dtype), axis=k)

    return of_rows(lead, height, width, int(right.shape[-1]), product)


def of_rows(
    lead: Sequence[int],
    height: int,
    width: int,
    computed: int,
    product: Callable[[Sequence[tirx.Var], tirx.Var], te.Tensor],
    rows: int = 0,
) -> te.Tensor:
    """(*lead, height, width) of `product(row indices, column)`, computed for whole tiles of rows.

    Parameters
    ----------
    lead, height, width
        Shape of the result.
    computed
        Columns to compute, `width` or more.
    product
        One element.
    rows
        Rows to compute, `height` or more; by default what some tile of registers divides.
    """
    rows = rows or _rows(height)
    if (rows, computed) == (height, width):
        return te.compute((*lead, height, width), lambda *at: product(at[:-1], at[-1]), name="matmul")
    whole = te.compute(
        (*lead, rows, computed),
        lambda *at: product((*at[:-2], tirx.min(at[-2], height - 1) if rows > height else at[-2]), at[-1]),
        name="matmul",
    )
    return te.compute((*lead, height, width), lambda *at: whole(*at), name="result")
