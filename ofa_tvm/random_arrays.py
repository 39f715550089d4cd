"""The arrays that kernels and networks are called with to time them and to compare what they compute."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt


def random_array(
    shape: Sequence[int], dtype: str, rng: np.random.Generator, *, positive: bool = False
) -> npt.NDArray[Any]:
    """Random numbers of a floating-point format; zeros of any other, which are valid indices everywhere.

    Parameters
    ----------
    positive
        From 0 to 1, evenly, which no root or logarithm refuses: a kernel may start with either. Else standard
        normal, as networks' inputs are.
    """
    kind = np.dtype(dtype)
    if "float" not in kind.name:
        return np.zeros(shape, kind)
    return (rng.random(shape) if positive else rng.standard_normal(shape)).astype(kind)
