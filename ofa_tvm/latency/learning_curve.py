"""How the error of a latency model falls with the number of measured subnets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ofa_tvm.latency.regression import LatencyRegressor

FEWEST = 20  # subnets, before some can be held out
ALONE, GUIDED = "from measurements alone", "with a first guess"
_SIZES = (2, 5, 10, 20, 50, 100, 200, 500)
_HELD_OUT = 0.25
_FITS = 120  # subnets in all the fits of one size: small ones vary more, and are repeated more often
_MOST_REPEATS = 6


@dataclass(frozen=True)
class LearningCurve:
    """Mean relative errors on subnets that were held out.

    Attributes
    ----------
    samples : tuple of int
        Numbers of subnets that models were fitted to.
    errors : dict
        Kind of model -> its error for each number, a share of 1.
    held_out : int
        Subnets behind each error of one fit.
    """

    samples: tuple[int, ...]
    errors: Mapping[str, tuple[float, ...]]
    held_out: int


def learning_curve(
    model: LatencyRegressor, genes: np.ndarray, latency: np.ndarray, *, seed: int = 0
) -> LearningCurve | None:
    """Fit the model to ever more of its subnets and compare it with others, over random orders of them.

    A model with a first guess (its prior) is fitted with and without it. The guess stays as it is: where it
    had been fitted to all subnets itself, its curve starts a little low.

    Parameters
    ----------
    model
        Whose settings and prior are taken.
    genes : (n, n_genes) array
    latency : (n,) array
        Measured, in the model's unit.
    seed
        Of the orders.

    Returns
    -------
    LearningCurve or None
        None for fewer than 20 subnets.
    """
    n = len(latency)
    if n < FEWEST:
        return None
    test = min(500, round(_HELD_OUT * n))
    sizes = tuple(size for size in _SIZES if size < n - test)
    if n - test < 2 * _SIZES[-1]:
        sizes = (*sizes, n - test)
    orders = [np.random.default_rng((seed, i)).permutation(n) for i in range(_MOST_REPEATS)]
    priors = {ALONE: None} if model.prior is None else {GUIDED: model.prior, ALONE: None}
    errors: dict[str, tuple[float, ...]] = {}
    for name, prior in priors.items():
        curve = []
        for size in sizes:
            found = []
            for order in orders[: max(1, _FITS // size)]:
                known, others = order[:size], order[n - test :]
                alone = model.clone(prior=prior, variations=())
                fitted = alone.fit(genes[known], latency[known])
                found.append(np.abs(fitted(genes[others]) / latency[others] - 1).mean())
            curve.append(float(np.mean(found)))
        errors[name] = tuple(curve)
    return LearningCurve(sizes, errors, test)
