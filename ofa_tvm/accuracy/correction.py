"""An accuracy model that learned from the measurements of a search, where it cannot be fitted anew."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ofa_tvm.accuracy.predictor import AccuracyPredictor
from ofa_tvm.estimators.contract import Function, Predictor
from ofa_tvm.spaces import Arch
from ofa_tvm.spaces.space import Space

_FEWEST = 3  # of which more than their level can be learned
CORRECTING = 12
"""Subnets of which more can be learned than the mean of what a dtype costs, which is little beside noise."""


def learn_error(space: Space, model: Predictor, archs: Sequence[Arch], accuracies: np.ndarray) -> Function:
    """The model with its error on measured subnets added; of few ones the error's mean.

    Parameters
    ----------
    space : Space
        The model's.
    archs : sequence of Arch
        n subnets, one at least.
    accuracies : (n,) array
        As they were measured.

    Raises
    ------
    UserError
        If an accuracy is not finite.
    """
    genes = space.encode(archs)
    errors = accuracies - model(genes)
    if len(errors) < _FEWEST or np.ptp(errors) == 0:
        level = float(errors.mean())
        return lambda population: model(population) + level
    error = AccuracyPredictor(space).fit(genes, errors)
    return lambda population: model(population) + error(population)


def transferred(
    model: AccuracyPredictor, archs: Sequence[Arch], accuracies: np.ndarray, dtype: str
) -> AccuracyPredictor:
    """A predictor for another dtype, of few subnets that were evaluated in it.

    The rows that `model` was fitted to are moved by what the dtype costs those subnets: against their own
    accuracy where they are among these rows, which both evaluations' images then share, else against the
    model's. The mean is taken of less than a dozen subnets.

    Parameters
    ----------
    accuracies : (n,) array
        Of the n subnets in `dtype`.

    Raises
    ------
    UserError
        If an accuracy is not finite.
    """
    space = model.space
    genes, accuracies = space.encode(archs), np.asarray(accuracies, dtype=np.float64)
    known = dict(zip(map(tuple, space.canonical(model.genes_).tolist()), model.accuracy_, strict=True))
    rows = map(tuple, space.canonical(genes).tolist())
    before = [known.get(row, guess) for row, guess in zip(rows, model(genes), strict=True)]
    costs = accuracies - np.array(before)
    if len(costs) < CORRECTING or np.ptp(costs) == 0:
        moved = model.accuracy_ + costs.mean()
    else:
        moved = model.accuracy_ + AccuracyPredictor(space).fit(genes, costs)(model.genes_)
    both, values = np.concatenate([genes, model.genes_]), np.concatenate([accuracies, moved])
    _, first = np.unique(space.canonical(both), axis=0, return_index=True)
    return model.clone(dtype=dtype).fit(both[first], values[first])
