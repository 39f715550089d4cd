"""An accuracy model that learned from the measurements of a search, where it cannot be fitted anew."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ofa_tvm.accuracy.predictor import AccuracyPredictor
from ofa_tvm.estimators.contract import Function, Predictor
from ofa_tvm.spaces import Arch
from ofa_tvm.spaces.space import Space

_FEWEST = 3  # of which more than their level can be learned


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

    The rows that `model` was fitted to are moved by the error that it makes on those subnets.

    Parameters
    ----------
    accuracies : (n,) array
        Of the n subnets in `dtype`.

    Raises
    ------
    UserError
        If an accuracy is not finite.
    """
    moved = learn_error(model.space, model, archs, accuracies)
    rows = model.accuracy_ + (moved(model.genes_) - model(model.genes_))
    genes = np.concatenate([model.space.encode(archs), model.genes_])
    values = np.concatenate([accuracies, rows])
    _, first = np.unique(model.space.canonical(genes), axis=0, return_index=True)
    return model.clone(dtype=dtype).fit(genes[first], values[first])
