from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from ofa_tvm.latency.suggest import telling_rows


@pytest.mark.parametrize(("known", "n", "count"), [(0, 2, 2), (1, 10, 4), (3, 1, 1), (5, 3, 0)])
def test_rows_are_chosen_once_and_no_more_than_are_left(known: int, n: int, count: int) -> None:
    features = np.random.default_rng(0).standard_normal((5, 3))
    rows = telling_rows([sparse.csr_matrix(features)], np.log([1.0, 0.1]), known, n)
    assert len(rows) == len(set(rows)) == count
    assert all(row >= known for row in rows)


def test_the_row_that_tells_of_most_others_comes_first() -> None:
    """Three rows are alike, one is alone; once one of the three is known, the lonely one tells more."""
    rows = np.array([[1.0, 0.0], [0.0, 0.9], [1.0, 0.0], [1.0, 0.0]])
    first, second = telling_rows([sparse.csr_matrix(rows)], np.log([1.0, 0.1]), 0, 2)
    assert first in (0, 2, 3) and second == 1
