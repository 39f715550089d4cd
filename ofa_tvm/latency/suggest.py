"""Which subnets to measure next."""

from __future__ import annotations

import numpy as np
from scipy import sparse


def telling_rows(scaled: sparse.csr_matrix, noise: float, known: int, n: int) -> list[int]:
    """Rows that, once measured, leave the least variance in all rows, chosen one after the other.

    Parameters
    ----------
    scaled : (n_rows, n_features) matrix
        Features whose weights have unit variance; the first `known` rows are measured already.
    noise : float
        Variance of a measurement.
    n : int
        Rows to choose, at most those that are not measured.
    """
    covariance = (scaled @ scaled.T).toarray()
    chosen: list[int] = []
    for step in range(known + min(n, len(covariance) - known)):
        pick = step
        if step >= known:
            told = (covariance[known:] ** 2).sum(axis=0) / (np.diag(covariance) + noise)
            told[:known] = -1.0
            told[chosen] = -1.0
            pick = int(told.argmax())
            chosen.append(pick)
        column = covariance[:, pick].copy()
        covariance -= np.outer(column, column) / (column[pick] + noise)
    return chosen
