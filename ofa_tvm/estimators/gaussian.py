"""Bayesian linear regression over groups of features whose importance is learned from the data.

Each group g has weights w_g ~ N(0, s_g^2); the s_g and the noise maximise the marginal likelihood (automatic
relevance determination by group; Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006,
section 5.4), with a weak prior that keeps them sensible when there are only a few measurements. Seen from
the samples it is a Gaussian process whose kernel is sum_g s_g^2 K_g, which is how it is computed (`fit`);
where there are more samples than features, the weights are solved for instead (`fit_linear`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.linalg import solve_triangular

from ofa_tvm.estimators.scales import Learned, Scales, learn_scales
from ofa_tvm.estimators.solvers import Dual, Kernel, Primal

_DENSE = 0.25  # share of entries above which multiplying zeros is quicker than skipping them


@dataclass(frozen=True)
class Posterior:
    """Result of `fit`.

    Attributes
    ----------
    variances : (n_groups,) array
        s_g^2, in units of the targets squared.
    noise : float
        Noise variance of a row with weight 1.
    row_weights : (n,) array
        Noise variance of each row against that of a normal one, larger for outliers.
    alpha : (n,) array
        Dual weights: the mean is sum_g s_g^2 K_g(x, X) alpha.
    loo_residuals : (n,) array
        Target minus its prediction from all other rows.
    loo_std : (n,) array
        Standard deviation of that prediction, noise of a normal row included.
    factor : tuple
        Cholesky factor of K + noise.
    inflation : float
        Standard deviations are to be multiplied by it (`loo_std` is): it makes up for the scales having been
        learned from the same rows, as dividing by the degrees of freedom does in least squares.
    """

    variances: np.ndarray
    noise: float
    row_weights: np.ndarray
    alpha: np.ndarray
    loo_residuals: np.ndarray
    loo_std: np.ndarray
    factor: tuple[np.ndarray, bool]
    inflation: float

    @property
    def learned(self) -> Learned:
        """For a file."""
        return Learned(np.log(np.append(self.variances, self.noise)), self.row_weights)


def fit(
    kernels: Sequence[Kernel],
    y: np.ndarray,
    centre: np.ndarray,
    *,
    known: Learned | None = None,
    robust: bool = True,
) -> Posterior:
    """Learn the scales and condition on the targets.

    Parameters
    ----------
    kernels : sequence of callables
        One a group: row numbers (m,) -> Gram matrix (m, m) of these rows.
    y : (n,) array
        Targets of about unit scale.
    centre : (n_groups + 1,) array
        Log variances expected beforehand, the noise's last.
    known : Learned, optional
        By an earlier fit to the same rows, to use as it is.
    robust : bool
        Weigh rows down that the others contradict.
    """
    solver = Dual(kernels, len(y))
    scales = learn_scales(solver, kernels, y, centre, known=known, robust=robust)
    return Posterior(
        variances=scales.variances,
        noise=scales.noise,
        row_weights=scales.row_weights,
        alpha=solver.alpha,
        loo_residuals=scales.residuals,
        loo_std=scales.std,
        factor=solver.factor,
        inflation=scales.inflation,
    )


class LinearPosterior:
    """Result of `fit_linear`.

    Attributes
    ----------
    weights : list of (n_features,) arrays
        Mean weight of each feature, a list entry a group.
    learned : Learned
    variances, noise, loo_residuals, loo_std, inflation
        As in `Posterior`.
    """

    def __init__(self, features: Sequence[sparse.csr_matrix], solver: Dual | Primal, scales: Scales) -> None:
        self.variances, self.noise = scales.variances, scales.noise
        self.loo_residuals, self.loo_std = scales.residuals, scales.std
        self.inflation = scales.inflation
        self.learned = Learned(np.log(np.append(self.variances, self.noise)), scales.row_weights)
        self._features, self._solver = features, solver
        self.weights = (
            solver.by_group()
            if isinstance(solver, Primal)
            else [v * (f.T @ solver.alpha) for v, f in zip(self.variances, features, strict=True)]
        )

    def spread(self, features: Sequence[sparse.csr_matrix]) -> np.ndarray:
        """Variance of the mean at other rows, (m,), noise not included."""
        own = sum(v * _squares(f) for v, f in zip(self.variances, features, strict=True))
        if isinstance(self._solver, Primal):
            scaled = self._solver.select(features)
            # What no training row has keeps its variance.
            return np.maximum(own - _squares(scaled), 0.0) + self._solver.spread(scaled)
        cross = sum(
            v * (f @ g.T).toarray() for v, f, g in zip(self.variances, features, self._features, strict=True)
        )
        solved = solve_triangular(self._solver.factor[0], cross.T, lower=True, check_finite=False)
        return np.maximum(own - np.einsum("ij,ij->j", solved, solved), 0.0)


def fit_linear(
    features: Sequence[sparse.csr_matrix],
    y: np.ndarray,
    centre: np.ndarray,
    *,
    known: Learned | None = None,
    robust: bool = True,
    row_noise: np.ndarray | None = None,
) -> LinearPosterior:
    """`fit` for linear kernels, given by features: a (n, n_features) matrix a group.

    `row_noise` (n,) is how many times the noise's variance each row has, by default once.
    """

    kernels = [_kernel_of(f) for f in features]
    used = sum(int((f.getnnz(axis=0) > 0).sum()) for f in features)
    solver = Primal(features) if used < len(y) else Dual(kernels, len(y))
    scales = learn_scales(solver, kernels, y, centre, known=known, robust=robust, row_noise=row_noise)
    return LinearPosterior(features, solver, scales)


def _kernel_of(f: sparse.csr_matrix) -> Kernel:
    """Products of rows of features; those that most rows have are multiplied as dense ones."""
    if f.nnz > _DENSE * np.prod(f.shape):
        dense = f.toarray()
        return lambda rows: dense[rows] @ dense[rows].T
    return lambda rows: (f[rows] @ f[rows].T).toarray()


def _squares(f: sparse.csr_matrix) -> np.ndarray:
    return np.asarray(f.multiply(f).sum(axis=1)).ravel()
