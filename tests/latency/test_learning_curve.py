"""Learning curves: errors on subnets that the model was not fitted to, falling with their number."""

from __future__ import annotations

import numpy as np
import pytest

from ofa_tvm.latency.learning_curve import ALONE, GUIDED, learning_curve
from ofa_tvm.latency.regression import LatencyRegressor
from ofa_tvm.spaces import get_space
from ofa_tvm.spaces.blocks import BlockTables, block_structure

SPACE = get_space("ofa_digits")


@pytest.fixture(scope="module")
def truth() -> BlockTables:
    return block_structure(SPACE).tables(
        lambda layers: sum(la.macs**0.8 * (1.5 if la.kind == "depthwise" else 1.0) for la in layers) / 1e5
    )


def test_errors_are_those_on_others_and_fall(truth: BlockTables) -> None:
    rng = np.random.default_rng(0)
    genes = SPACE.sample_genes(rng, 44)
    latency = truth(genes) * rng.normal(1, 0.01, len(genes))
    guess = truth.scaled(0.8)
    curve = learning_curve(LatencyRegressor(SPACE, guess), genes, latency)
    assert curve is not None and curve.samples == (2, 5, 10, 20, 33) and curve.held_out == 11
    assert list(curve.errors) == [GUIDED, ALONE]
    guided, alone = curve.errors[GUIDED], curve.errors[ALONE]
    assert alone[0] > 3 * alone[-1] and alone[-1] > 0.005
    assert guided[0] < alone[0] and max(guided[1:]) < 0.03, "1 % is noise"

    # The last point again, by hand: three orders of the 44, the first 33 known, the last 11 not.
    orders = [np.random.default_rng((0, i)).permutation(44) for i in range(3)]
    by_hand = []
    for order in orders:
        model = LatencyRegressor(SPACE).fit(genes[order[:33]], latency[order[:33]])
        by_hand.append(np.abs(model(genes[order[33:]]) / latency[order[33:]] - 1).mean())
    assert alone[-1] == pytest.approx(np.mean(by_hand))


def test_few_rows_have_none_and_models_without_a_guess_one_curve(truth: BlockTables) -> None:
    genes = SPACE.sample_genes(np.random.default_rng(1), 20)
    model = LatencyRegressor(SPACE)
    assert learning_curve(model, genes[:19], truth(genes[:19])) is None
    curve = learning_curve(model, genes, truth(genes))
    assert curve is not None and list(curve.errors) == [ALONE] and curve.samples == (2, 5, 10, 15)
