"""Matrix products with constant matrices, on panels one vector wide.

In a network a kernel finds its weights in the last-level cache at best. Read in panels they are sequential
streams, which the prefetchers follow; rows of the matrix are not.
"""

from __future__ import annotations

import math

import numpy as np
from tvm import relax, te


def packs(matrix: np.ndarray, lanes: int) -> bool:
    """Whether panels of a (k, n) matrix would fill at least half a vector of `lanes` values."""
    return lanes > 1 and matrix.ndim == 2 and 2 * math.gcd(matrix.shape[1], lanes) >= lanes


def packed_product(bb: relax.BlockBuilder, left: relax.Expr, matrix: np.ndarray, lanes: int) -> relax.Call:
    """(m, k') times a (k, n) matrix, k <= k': of the columns of `left`, those from k on are not read.

    Parameters
    ----------
    bb
        Takes the kernel up.
    left
        Two-dimensional.
    matrix
        See `packs`.
    lanes
        Values of a vector register.
    """
    depth, width = matrix.shape
    panel = math.gcd(width, lanes)
    packed = np.ascontiguousarray(matrix.reshape(depth, width // panel, panel).transpose(1, 0, 2))
    return bb.call_te(_product, left, relax.const(packed), primfunc_name_hint="matmul")


def _product(left: te.Tensor, right: te.Tensor) -> te.Tensor:
    """The matrix is stored as (n / panel, k, panel)."""
    panels, depth, panel = (int(extent) for extent in right.shape)
    k = te.reduce_axis((0, depth), name="k")
    return te.compute(
        (left.shape[0], panels * panel),
        lambda i, j: te.sum(left[i, k] * right[j // panel, k, j % panel], axis=k),
        name="matmul",
    )
