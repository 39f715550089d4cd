"""Do two computations of the same outputs agree? One comparison, with a named tolerance a stage and dtype."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Stage = Literal["export", "kernel", "measure", "ship"]
"""What is compared: "export", the ONNX file with PyTorch's network; "kernel", one kernel by a schedule or on
a device with the same by another; "measure", a module's outputs of random inputs on a device, before it is
timed; "ship", its outputs of many kinds of inputs, before it ships. The last two: with ONNX Runtime's."""

_FLOAT32 = 1e-3  # rounding gives 1e-6 to 1e-5; other sums in other orders up to 1e-4

# Largest difference, as a share of the largest value. float16 keeps 11 bits of each value, and whole networks
# round many times; random inputs are rounded worse than pictures.
TOLERANCES: Mapping[Stage, Mapping[str, float]] = {
    "export": {},
    "kernel": {"float16": 2e-2},
    "measure": {"float16": 5e-2},
    "ship": {"float16": 3e-2},
}


def tolerance(stage: Stage, dtype: str) -> float:
    """The largest `relative_difference` that is accepted of what was computed in `dtype`."""
    return TOLERANCES[stage].get(dtype, _FLOAT32)


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
