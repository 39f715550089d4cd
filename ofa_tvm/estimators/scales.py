"""How much each group of features explains, and which rows are outliers: learned from the rows themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cholesky
from scipy.linalg.lapack import dpotri
from scipy.optimize import minimize
from threadpoolctl import threadpool_limits

from ofa_tvm.estimators.solvers import Dual, Kernel, Solver

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
class Scales:
    """What `learn_scales` found; see `ofa_tvm.estimators.gaussian.Posterior`."""

    variances: np.ndarray
    noise: float
    row_weights: np.ndarray
    residuals: np.ndarray
    std: np.ndarray
    inflation: float


@dataclass(frozen=True)
class _Found:
    """Log scales and row weights, and each row's residual and variance as predicted from the others."""

    theta: np.ndarray
    row_weights: np.ndarray
    residuals: np.ndarray
    variances: np.ndarray

    @property
    def log_density(self) -> float:
        """Of the left-out rows under Student-t noise, but for a constant."""
        tails = np.log1p(self.residuals**2 / self.variances / _STUDENT_DOF)
        return float(-0.5 * np.log(self.variances).sum() - 0.5 * (_STUDENT_DOF + 1) * tails.sum())


class _Search:
    """Looks for the scales that make the targets likeliest.

    Rows that the others contradict are weighed down by the expectation step of Student-t noise.
    """

    def __init__(
        self,
        solver: Solver,
        kernels: Sequence[Kernel],
        y: np.ndarray,
        centre: np.ndarray,
        given: np.ndarray,
        known: np.ndarray | None,
        robust: bool,
    ) -> None:
        self._solver, self._y, self._centre, self._given, self._known = solver, y, centre, given, known
        self._kernels = [] if known is not None else [kernel(np.arange(len(y))) for kernel in kernels]
        # Of many rows, each weighing takes long and changes little.
        most = _REWEIGHTINGS if len(y) <= _ROWS_FOR_SCALES else 1
        self.reweightings = most if robust and len(y) > 8 else 0

    def settle(self, weights: np.ndarray) -> _Found:
        """Scales and weights of the rows in turn, from first weights on."""
        theta = self._learn(self._centre.copy(), weights)
        self._solver.scale(np.exp(theta[:-1]))
        found = self.condition(theta, weights)
        for iteration in range(self.reweightings):
            weights = self._reweighted(found.residuals, found.variances)
            if np.allclose(weights, found.row_weights, rtol=0.05):
                break
            if iteration == 0 and self._known is None:
                theta = self._learn(theta, weights)
                self._solver.scale(np.exp(theta[:-1]))
            found = self.condition(theta, weights)
        return found

    def likeliest(self, found: _Found) -> _Found:
        """The likeliest of some fits, of which one is known.

        Few rows leave room to take an outlier for structure. So the scales are also learned from weights by
        the scales expected beforehand, and from weights by the distance from the median; the fit that finds
        left-out rows likeliest is kept.
        """
        self._solver.scale(np.exp(self._centre[:-1]))
        expected = self.condition(self._centre, self._given)
        gaps = self._y - np.median(self._y)
        spread = np.full(len(gaps), max(2.2 * float(np.median(gaps**2)), 1e-9))
        for residuals, variances in ((expected.residuals, expected.variances), (gaps, spread)):
            other = self.settle(self._reweighted(residuals, variances))
            if other.log_density > found.log_density:
                found = other
        self._solver.scale(np.exp(found.theta[:-1]))
        return self.condition(found.theta, found.row_weights)

    def condition(self, theta: np.ndarray, weights: np.ndarray) -> _Found:
        """What the solver, scaled by `theta`, says of rows of such weights."""
        noise = float(np.exp(theta[-1]))
        residuals, variances = self._solver.condition(self._y, noise * weights)
        # Noise of a normal row, not of an outlier.
        variances = np.maximum(variances - noise * weights, 0.0) + noise * self._given
        return _Found(theta, weights, residuals, variances)

    def _learn(self, theta: np.ndarray, weights: np.ndarray) -> np.ndarray:
        if self._known is not None:
            return self._known
        result = minimize(
            _negative_evidence,
            theta,
            args=(self._kernels, self._y, weights, self._centre),
            jac=True,
            method="L-BFGS-B",
            bounds=[_LOG_BOUNDS] * len(theta),
            options={"maxiter": 60},
        )
        return np.asarray(result.x)

    def _reweighted(self, residuals: np.ndarray, variances: np.ndarray) -> np.ndarray:
        """Expectation step: a residual far beyond its deviation counts for less."""
        return self._given * (_STUDENT_DOF + residuals**2 / variances) / (_STUDENT_DOF + 1.0)


def learn_scales(
    solver: Solver,
    kernels: Sequence[Kernel],
    y: np.ndarray,
    centre: np.ndarray,
    *,
    known: Learned | None,
    robust: bool,
    row_noise: np.ndarray | None = None,
) -> Scales:
    """Learn the scales, and leave the solver conditioned by them.

    Parameters
    ----------
    solver : Solver
        Of the kernels.
    kernels, y, centre, known, robust
        As for `ofa_tvm.estimators.gaussian.fit`.
    row_noise : (n,) array, optional
        How many times the noise's variance each row has, by default once.
    """
    # Small matrices are not worth sharing: on a busy machine, waiting for a second core costs 40 times that.
    with threadpool_limits(1 if len(y) <= _ROWS_FOR_SCALES else None, user_api="blas"):
        return _learned_scales(solver, kernels, y, centre, known, robust, row_noise)


def _learned_scales(
    solver: Solver,
    kernels: Sequence[Kernel],
    y: np.ndarray,
    centre: np.ndarray,
    known: Learned | None,
    robust: bool,
    row_noise: np.ndarray | None,
) -> Scales:
    given = np.ones(len(y)) if row_noise is None else row_noise
    if known is not None:
        log_variances = known.log_variances
    elif len(y) > _ROWS_FOR_SCALES:
        log_variances = _scales_of_some(kernels, y, centre, given, robust)
    else:
        log_variances = None
    search = _Search(solver, kernels, y, centre, given, log_variances, robust)
    if known is not None and known.row_weights is not None:
        solver.scale(np.exp(known.log_variances[:-1]))
        found = search.condition(known.log_variances, known.row_weights)
    else:
        found = search.settle(given)
        if search.reweightings and len(y) <= _ROWS_FOR_STARTS:
            found = search.likeliest(found)
    variances, noise = np.exp(found.theta[:-1]), float(np.exp(found.theta[-1]))
    inflation = _inflation(found.residuals / np.sqrt(found.variances), len(found.theta))
    std = inflation * np.sqrt(found.variances)
    return Scales(variances, noise, found.row_weights, found.residuals, std, inflation)


def _scales_of_some(
    kernels: Sequence[Kernel], y: np.ndarray, centre: np.ndarray, given: np.ndarray, robust: bool
) -> np.ndarray:
    """Log variances (n_groups + 1,) by random rows, as many as tell them."""
    chosen = np.sort(np.random.default_rng(0).choice(len(y), _ROWS_FOR_SCALES, replace=False))

    def among(kernel: Kernel) -> Kernel:
        return lambda rows: kernel(chosen[rows])

    some = [among(kernel) for kernel in kernels]
    with threadpool_limits(1, user_api="blas"):
        solver = Dual(some, len(chosen))
        search = _Search(solver, some, y[chosen], centre, given[chosen], None, robust)
        return search.settle(given[chosen]).theta


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
        factor = cholesky(total, lower=True, check_finite=False, overwrite_a=True)
    except np.linalg.LinAlgError:
        return 1e25, np.zeros_like(theta)
    inverse, _ = dpotri(factor, lower=1)
    inverse += np.tril(inverse, -1).T  # LAPACK fills the lower triangle; the factor's upper one is 0
    alpha = inverse @ y
    value = 0.5 * y @ alpha + np.log(np.diag(factor)).sum()
    outer = inverse - np.outer(alpha, alpha)
    gradient = np.array(
        [0.5 * s * np.einsum("ij,ij->", outer, k) for s, k in zip(scales[:-1], kernels, strict=True)]
        + [0.5 * float(np.diag(outer) @ noise)]
    )
    # Two and a half units of log variance either way cost as much as one badly explained row.
    gap = (theta - centre) / 2.5
    return float(value + 0.5 * gap @ gap), gradient + gap / 2.5


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
