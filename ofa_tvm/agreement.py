"""Do two computations of the same outputs agree? One comparison, with a named tolerance a stage and dtype."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ofa_tvm.number_formats import Stage, exactness


def tolerance(stage: Stage, dtype: str) -> float:
    """The largest `relative_difference` that is accepted of what was computed in `dtype`."""
    return exactness(dtype).tolerance[stage]


def absolute_difference(want: npt.NDArray[Any], got: npt.NDArray[Any]) -> float:
    """Largest absolute difference; infinite where other places are NaN or infinite, or the shapes differ."""
    a, b = np.asarray(want, dtype=np.float64), np.asarray(got, dtype=np.float64)
    if a.shape != b.shape:
        return float("inf")
    finite = np.isfinite(a)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True) or not np.isfinite(b[finite]).all():
        return float("inf")
    gap = np.subtract(a, b, where=finite, out=np.zeros_like(a))  # where both are infinite it is none
    return float(np.abs(gap).max(initial=0.0))


def largest(array: npt.NDArray[Any]) -> float:
    """The largest absolute value that is finite, 0 without any."""
    values = np.abs(np.asarray(array, dtype=np.float64))
    return float(np.max(values, initial=0.0, where=np.isfinite(values)))


def relative_difference(want: npt.NDArray[Any], got: npt.NDArray[Any], least: float = 1e-12) -> float:
    """`absolute_difference` as a share of the largest value wanted, which counts as `least` at least."""
    return absolute_difference(want, got) / max(largest(want), least)
