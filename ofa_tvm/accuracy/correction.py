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
