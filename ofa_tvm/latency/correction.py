"""A cost model that learned from the measurements of a search."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ofa_tvm.estimators.contract import CostModel
from ofa_tvm.latency.regression import LatencyRegressor
from ofa_tvm.spaces import Arch


def learn_error(model: CostModel, archs: Sequence[Arch], costs: np.ndarray) -> LatencyRegressor:
    """The model with its error fitted to measurements: its scale, a constant, and what follows the network.

    Parameters
    ----------
    model : CostModel
    archs : sequence of Arch
        n subnets, one at least.
    costs : (n,) array
        What they were measured to cost, in the model's unit.

    Raises
    ------
    UserError
        If a cost is not above 0 and finite.
    """
    estimator = LatencyRegressor(model.space, model.collapsed, unit=model.unit, n_classes=model.n_classes)
    return estimator.fit(archs, costs)
