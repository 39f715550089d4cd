"""Bayesian linear regression over groups of features whose importance is learned from the data.

Each group g has weights w_g ~ N(0, s_g^2); the s_g and the noise maximise the marginal likelihood (automatic
relevance determination by group; Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006,
section 5.4), with a weak prior that keeps them sensible when there are only a few measurements. Seen from
the samples it is a Gaussian process whose kernel is sum_g s_g^2 K_g, which is how it is computed (`fit`);
where there are more samples than features, the weights are solved for instead (`fit_linear`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.optimize import minimize

# More rows than these tell nothing new about a handful of scales.
_ROWS_FOR_SCALES = 600
_LOG_BOUNDS = (-18.0, 8.0)
# Degrees of freedom of the Student-t noise: outliers from a busy machine pull little.
_STUDENT_DOF = 4.0
_REWEIGHTINGS = 4
# Up to so many rows the fit is also started from weights of its own.
_ROWS_FOR_STARTS = 100
# Rows from which on the residuals themselves say how wide a 95 % interval is.
_ROWS_FOR_INTERVALS = 20.0

Kernel = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Learned:
    """What a fit learns from its rows: with it, conditioning on them again gives the same posterior.

    Attributes
    ----------
    log_variances : (n_groups + 1,) array
        Logarithms of the groups' s_g^2 and, last, of the noise.
    row_weights : (n,) array or None
        Noise variance of each row against that of a normal one, larger for outliers. None (files of format 1
        did not keep them): to be found anew for these variances.
    """

    log_variances: np.ndarray
    row_weights: np.ndarray | None = None


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


class _Dual:
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
        self.factor = cho_factor(total, lower=True, check_finite=False, overwrite_a=True)
        self.alpha = cho_solve(self.factor, y, check_finite=False)
        inverse_diagonal = _inverse_diagonal(self.factor)
        return self.alpha / inverse_diagonal, 1 / inverse_diagonal


class _Primal:
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
        """As `_Dual.condition`."""
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


@dataclass(frozen=True)
class _Scales:
    variances: np.ndarray
    noise: float
    row_weights: np.ndarray
    residuals: np.ndarray
    std: np.ndarray
    inflation: float


def _log_density(residuals: np.ndarray, variances: np.ndarray) -> float:
    """Of left-out rows under Student-t noise, but for a constant."""
    tails = np.log1p(residuals**2 / variances / _STUDENT_DOF)
    return float(-0.5 * np.log(variances).sum() - 0.5 * (_STUDENT_DOF + 1) * tails.sum())


def _learn(
    solver: _Dual | _Primal,
    kernels: Sequence[Kernel],
    y: np.ndarray,
    centre: np.ndarray,
    known: Learned | None,
    robust: bool,
    row_noise: np.ndarray | None,
) -> _Scales:
    n = len(y)
    given = np.ones(n) if row_noise is None else row_noise
    chosen = np.arange(n)
    if n > _ROWS_FOR_SCALES:
        chosen = np.sort(np.random.default_rng(0).choice(n, _ROWS_FOR_SCALES, replace=False))
    small = [] if known is not None else [kernel(chosen) for kernel in kernels]

    def learn(theta: np.ndarray, weights: np.ndarray) -> np.ndarray:
        if known is not None:
            return known.log_variances
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

    def condition(theta: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        noise = float(np.exp(theta[-1]))
        residuals, variances = solver.condition(y, noise * weights)
        # Noise of a normal row, not of an outlier.
        return residuals, np.maximum(variances - noise * weights, 0.0) + noise * given

    def reweighted(residuals: np.ndarray, variances: np.ndarray) -> np.ndarray:
        """Expectation step of Student-t noise: a residual far beyond its deviation counts for less."""
        return given * (_STUDENT_DOF + residuals**2 / variances) / (_STUDENT_DOF + 1.0)

    last = 0 if not robust or n <= 8 else _REWEIGHTINGS if n <= _ROWS_FOR_SCALES else 2

    def settle(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        theta = learn(centre.copy(), weights)
        solver.scale(np.exp(theta[:-1]))
        for iteration in range(last + 1):
            residuals, variances = condition(theta, weights)
            if iteration == last:
                break
            new = reweighted(residuals, variances)
            if np.allclose(new, weights, rtol=0.05):
                break
            weights = new
            if iteration == 0:
                theta = learn(theta, weights)
                solver.scale(np.exp(theta[:-1]))
        return theta, weights, residuals, variances

    if known is not None and known.row_weights is not None:
        theta, weights = known.log_variances, known.row_weights
        solver.scale(np.exp(theta[:-1]))
        found = (theta, weights, *condition(theta, weights))
        last = 0
    else:
        found = settle(given)
    if last and n <= _ROWS_FOR_STARTS:
        # Few rows leave room to take an outlier for structure. So the scales are also learned from weights by
        # the scales expected beforehand, and from weights by the distance from the median; the fit that finds
        # left-out rows likeliest is kept.
        solver.scale(np.exp(centre[:-1]))
        gaps = y - np.median(y)
        spread = np.full(n, max(2.2 * float(np.median(gaps**2)), 1e-9))
        for start in (reweighted(*condition(centre, given)), reweighted(gaps, spread)):
            other = settle(start)
            if _log_density(*other[2:]) > _log_density(*found[2:]):
                found = other
        solver.scale(np.exp(found[0][:-1]))
        condition(*found[:2])
    theta, weights, residuals, variances = found
    noise = float(np.exp(theta[-1]))
    inflation = _inflation(residuals / np.sqrt(variances), len(theta))
    return _Scales(np.exp(theta[:-1]), noise, weights, residuals, inflation * np.sqrt(variances), inflation)


def _inflation(residuals: np.ndarray, n_scales: int) -> float:
    """What deviations are multiplied by, from the left-out residuals (n,) in units of them."""
    n = len(residuals)
    learned = n / max(n - n_scales, 0.25 * n)
    # The more rows, the more the widths follow the residuals seen: 95 % of them shall lie inside, and one
    # standard error more of them, because an interval that is too narrow does the greater harm.
    rank = min(n, int(np.ceil(0.95 * (n + 1) + np.sqrt(0.95 * 0.05 * n))))
    seen = float(np.sort(np.abs(residuals))[rank - 1]) / 1.96
    share = n / (n + _ROWS_FOR_INTERVALS)
    return float(np.sqrt(learned * (1 - share + share * max(seen, 1.0) ** 2)))


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
    solver = _Dual(kernels, len(y))
    scales = _learn(solver, kernels, y, centre, known, robust, None)
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

    def __init__(
        self, features: Sequence[sparse.csr_matrix], solver: _Dual | _Primal, scales: _Scales
    ) -> None:
        self.variances, self.noise = scales.variances, scales.noise
        self.loo_residuals, self.loo_std = scales.residuals, scales.std
        self.inflation = scales.inflation
        self.learned = Learned(np.log(np.append(self.variances, self.noise)), scales.row_weights)
        self._features, self._solver = features, solver
        self.weights = (
            solver.by_group()
            if isinstance(solver, _Primal)
            else [v * (f.T @ solver.alpha) for v, f in zip(self.variances, features, strict=True)]
        )

    def spread(self, features: Sequence[sparse.csr_matrix]) -> np.ndarray:
        """Variance of the mean at other rows, (m,), noise not included."""
        own = sum(v * _squares(f) for v, f in zip(self.variances, features, strict=True))
        if isinstance(self._solver, _Primal):
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

    def of(f: sparse.csr_matrix) -> Kernel:
        return lambda rows: (f[rows] @ f[rows].T).toarray()

    kernels = [of(f) for f in features]
    used = sum(int((f.getnnz(axis=0) > 0).sum()) for f in features)
    solver = _Primal(features) if used < len(y) else _Dual(kernels, len(y))
    return LinearPosterior(features, solver, _learn(solver, kernels, y, centre, known, robust, row_noise))


def _squares(f: sparse.csr_matrix) -> np.ndarray:
    return np.asarray(f.multiply(f).sum(axis=1)).ravel()


def _inverse_diagonal(factor: tuple[np.ndarray, bool]) -> np.ndarray:
    from scipy.linalg.lapack import dtrtri

    inverse, info = dtrtri(factor[0], lower=1)
    if info:
        raise np.linalg.LinAlgError("singular kernel matrix")
    return np.einsum("ij,ij->j", np.tril(inverse), np.tril(inverse))
