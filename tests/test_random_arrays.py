"""The one rule for arrays that are called with."""

from __future__ import annotations

import numpy as np
import pytest

from ofa_tvm.random_arrays import random_array


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_floats_are_normal_or_positive(dtype: str) -> None:
    normal = random_array((500, 8), dtype, np.random.default_rng(1))
    assert normal.shape == (500, 8) and normal.dtype == dtype
    assert abs(normal.mean()) < 0.1 and 0.9 < normal.std() < 1.1 and normal.min() < -2
    positive = random_array((500, 8), dtype, np.random.default_rng(1), positive=True)
    assert 0 <= positive.min() < 0.01 and 0.99 < positive.max() <= 1 and abs(positive.mean() - 0.5) < 0.05
    np.testing.assert_array_equal(normal, random_array((500, 8), dtype, np.random.default_rng(1)))


@pytest.mark.parametrize("dtype", ["int64", "uint8", "bool"])
@pytest.mark.parametrize("positive", [True, False])
def test_other_numbers_are_valid_indices(dtype: str, positive: bool) -> None:
    found = random_array((3,), dtype, np.random.default_rng(0), positive=positive)
    assert found.dtype == dtype and not found.any()


def test_formats_that_numpy_lacks_are_random_too() -> None:
    pytest.importorskip("ml_dtypes")
    found = random_array((100,), "bfloat16", np.random.default_rng(0)).astype(np.float32)
    assert found.std() > 0.5
