"""Bayesian linear regression over groups of features whose importance is learned from the data.

Each group g has weights w_g ~ N(0, s_g^2); the s_g and the noise maximise the marginal likelihood (automatic
relevance determination by group; Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006,
section 5.4), with a weak prior that keeps them sensible when there are only a few measurements. Seen from
the samples it is a Gaussian process whose kernel is sum_g s_g^2 K_g, which is how it is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize

# More rows than these tell nothing new about a handful of scales.
_ROWS_FOR_SCALES = 600
_LOG_BOUNDS = (-18.0, 8.0)
# Degrees of freedom of the Student-t noise: outliers from a busy machine pull little.
_STUDENT_DOF = 4.0
_REWEIGHTINGS = 4


@dataclass(frozen=True)
class Posterior:
    """Result of `fit`.

    Attributes
    ----------
    variances : (n_groups,) array
        s_g^2, in units of the targets squared.
    noise : float
        Noise variance of a row with weight 1.
    row_noise : (n,) array
        Noise variance of each row, larger for outliers.
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
    row_noise: np.ndarray
    alpha: np.ndarray
    loo_residuals: np.ndarray
    loo_std: np.ndarray
    factor: tuple[np.ndarray, bool]
    inflation: float


def _negative_evidence(
    theta: np.ndarray, kernels: Sequence[np.ndarray], y: np.ndarray, weights: np.ndarray, centre: np.ndarray
) -> tuple[float, np.ndarray]:
    """Minus log posterior of the log scales, and its gradient."""
    scales = np.exp(theta)
    n = len(y)
    noise = scales[-1] * weights
    total = np.diag(noise)
    for scale, kernel in zip(scales[:-1], kernels, strict=True):
        total += scale * kernel
    total[np.diag_indices(n)] += 1e-10 * np.trace(total) / n
    try:
        factor = cho_factor(total, lower=True, check_finite=False)
    except np.linalg.LinAlgError:
        return 1e25, np.zeros_like(theta)
    alpha = cho_solve(factor, y, check_finite=False)
    inverse = cho_solve(factor, np.eye(n), check_finite=False)
    value = 0.5 * y @ alpha + np.log(np.diag(factor[0])).sum()
    outer = inverse - np.outer(alpha, alpha)
    gradient = np.array(
        [0.5 * s * np.einsum("ij,ij->", outer, k) for s, k in zip(scales[:-1], kernels, strict=True)]
        + [0.5 * float(np.diag(outer) @ noise)]
    )
    # Two and a half units of log variance either way cost as much as one badly explained row.
    gap = (theta - centre) / 2.5
    return float(value + 0.5 * gap @ gap), gradient + gap / 2.5


def fit(
    kernels: Sequence[Callable[[np.ndarray], np.ndarray]],
    y: np.ndarray,
    centre: np.ndarray,
    *,
    fixed: np.ndarray | None = None,
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
    fixed : (n_groups + 1,) array, optional
        Log variances to use as they are.
    robust : bool
        Weigh rows down that the others contradict.
    """
    n = len(y)
    weights = np.ones(n)
    chosen = np.arange(n)
    if n > _ROWS_FOR_SCALES:
        chosen = np.sort(np.random.default_rng(0).choice(n, _ROWS_FOR_SCALES, replace=False))
    theta = centre.copy() if fixed is None else fixed
    small = [kernel(chosen) for kernel in kernels]
    rows = np.arange(n)

    def gram(theta: np.ndarray) -> np.ndarray:
        total = np.zeros((n, n))
        for scale, kernel in zip(np.exp(theta[:-1]), kernels, strict=True):
            total += scale * kernel(rows)
        return total

    def learn(theta: np.ndarray) -> np.ndarray:
        if fixed is not None:
            return fixed
        result = minimize(
            _negative_evidence,
            theta,
            args=(small, y[chosen], weights[chosen], centre),
            jac=True,
            method="L-BFGS-B",
            bounds=[_LOG_BOUNDS] * len(theta),
            options={"maxiter": 60},
        )
        return result.x

    theta = learn(theta)
    explained = gram(theta)
    last = 0 if not robust or n <= 8 else _REWEIGHTINGS if n <= _ROWS_FOR_SCALES else 2
    for iteration in range(last + 1):
        total = explained.copy()
        noise = float(np.exp(theta[-1]))
        total[np.diag_indices(n)] += noise * weights + 1e-10 * np.trace(total) / n
        factor = cho_factor(total, lower=True, check_finite=False, overwrite_a=True)
        alpha = cho_solve(factor, y, check_finite=False)
        inverse_diagonal = _inverse_diagonal(factor)
        residuals = alpha / inverse_diagonal
        variances = np.maximum(1 / inverse_diagonal - noise * weights, 0.0) + noise
        if iteration == last:
            break
        # Expectation step of Student-t noise: a residual far beyond its deviation counts for less.
        new = (_STUDENT_DOF + residuals**2 / variances) / (_STUDENT_DOF + 1.0)
        if np.allclose(new, weights, rtol=0.05):
            break
        weights = new
        if iteration == 0:
            theta = learn(theta)
            explained = gram(theta)
    inflation = float(np.sqrt(n / max(n - len(theta), 0.25 * n)))
    return Posterior(
        variances=np.exp(theta[:-1]),
        noise=noise,
        row_noise=noise * weights,
        alpha=alpha,
        loo_residuals=residuals,
        loo_std=inflation * np.sqrt(variances),
        factor=factor,
        inflation=inflation,
    )


def _inverse_diagonal(factor: tuple[np.ndarray, bool]) -> np.ndarray:
    from scipy.linalg.lapack import dtrtri

    inverse, info = dtrtri(factor[0], lower=1)
    if info:
        raise np.linalg.LinAlgError("singular kernel matrix")
    return np.einsum("ij,ij->j", np.tril(inverse), np.tril(inverse))
