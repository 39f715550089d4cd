"""Which subnets to measure next."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import sparse


def telling_rows(
    features: Sequence[sparse.csr_matrix], log_variances: np.ndarray, known: int, n: int
) -> list[int]:
    """Rows that, once measured, leave the least variance in all rows, chosen one after the other.

    Parameters
    ----------
    features : sequence of (n_rows, n_features) matrices
        A group each; the first `known` rows are measured already.
    log_variances : (n_groups + 1,) array
        Logarithms of the variances of the groups' weights, and last of a measurement.
    n : int
        Rows to choose, at most those that are not measured.
    """
    scaled = sparse.hstack(
        [np.sqrt(v) * f for v, f in zip(np.exp(log_variances[:-1]), features, strict=True)]
    ).tocsr()
    noise = float(np.exp(log_variances[-1]))
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
