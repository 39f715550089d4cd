"""Conditioning linear regression on its targets: through the kernel matrix of the rows, or the features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from scipy import sparse
from scipy.linalg import cho_factor, cho_solve, cholesky, solve_triangular
from scipy.linalg.lapack import dtrtri

Kernel = Callable[[np.ndarray], np.ndarray]
"""Of a group: row numbers (m,) -> Gram matrix (m, m) of these rows."""


class Solver(Protocol):
    """Either way to condition."""

    def scale(self, variances: np.ndarray) -> None:
        """Set the groups' variances (n_groups,)."""

    def condition(self, y: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Leave-one-out residuals and variances (noise of the row included), both (n,)."""


class Dual:
    """Conditions on the targets through the (n, n) kernel matrix."""

    def __init__(self, kernels: Sequence[Kernel], n: int) -> None:
        self._kernels, self._rows = kernels, np.arange(n)

    def scale(self, variances: np.ndarray) -> None:
        n = len(self._rows)
        self._gram = np.zeros((n, n))
        for variance, kernel in zip(variances, self._kernels, strict=True):
            self._gram += variance * kernel(self._rows)

    def condition(self, y: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Leave-one-out residuals and variances (noise of the row included), both (n,)."""
        total = self._gram.copy()
        total[np.diag_indices(len(y))] += noise + 1e-10 * np.trace(total) / len(y)
        lower = cholesky(total, lower=True, check_finite=False, overwrite_a=True)
        self.factor = lower, True
        self.alpha = cho_solve(self.factor, y, check_finite=False)
        inverse_diagonal = _inverse_diagonal(lower)
        return self.alpha / inverse_diagonal, 1 / inverse_diagonal


class Primal:
    """Conditions on the targets through the weights of the features."""

    def __init__(self, features: Sequence[sparse.csr_matrix]) -> None:
        self._features = features
        self._used = [np.flatnonzero(f.getnnz(axis=0)) for f in features]

    def scale(self, variances: np.ndarray) -> None:
        self._deviations = np.sqrt(variances)
        self.scaled = self.select(self._features)

    def select(self, features: Sequence[sparse.csr_matrix]) -> sparse.csr_matrix:
        """Columns that the training rows use, scaled to weights of unit variance."""
        return sparse.hstack(
            [d * f[:, used] for d, f, used in zip(self._deviations, features, self._used, strict=True)]
        ).tocsr()

    def condition(self, y: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `Dual.condition`."""
        phi = self.scaled
        weighted = sparse.diags(1 / noise) @ phi
        precision = (phi.T @ weighted).toarray()
        precision[np.diag_indices(len(precision))] += 1.0
        self.factor = cho_factor(precision, lower=True, check_finite=False, overwrite_a=True)
        self.weights = cho_solve(self.factor, weighted.T @ y, check_finite=False)
        left_out = np.maximum(1 - self.spread(phi) / noise, 1e-9)
        return (y - phi @ self.weights) / left_out, noise / left_out

    def spread(self, scaled: sparse.csr_matrix) -> np.ndarray:
        """Variance of the mean at rows of scaled features."""
        out = np.empty(scaled.shape[0])
        for start in range(0, len(out), 1024):
            rows = scaled[start : start + 1024].toarray()
            solved = solve_triangular(self.factor[0], rows.T, lower=True, check_finite=False)
            out[start : start + 1024] = np.einsum("ij,ij->j", solved, solved)
        return out

    def by_group(self) -> list[np.ndarray]:
        """Weights of the features as they were given; 0 where no training row has them."""
        ends = np.cumsum([len(used) for used in self._used])[:-1]
        groups = []
        for f, used, d, weights in zip(
            self._features, self._used, self._deviations, np.split(self.weights, ends), strict=True
        ):
            group = np.zeros(f.shape[1])
            group[used] = d * weights
            groups.append(group)
        return groups


def _inverse_diagonal(factor: np.ndarray) -> np.ndarray:
    """Diagonal (n,) of the inverse of L L^T, by its lower triangle L, whose upper one is 0."""
    inverse, info = dtrtri(factor, lower=1)
    if info:
        raise np.linalg.LinAlgError("singular kernel matrix")
    return np.asarray(np.einsum("ij,ij->j", inverse, inverse))
