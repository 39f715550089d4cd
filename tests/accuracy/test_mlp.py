"""The paper's 3x400 network as an accuracy predictor."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from ofa_tvm.accuracy.mlp import MLPAccuracyPredictor
from ofa_tvm.accuracy.predictor import AccuracyPredictor
from ofa_tvm.errors import UsageError, UserError
from ofa_tvm.spaces import get_space
from ofa_tvm.spaces.space import Space
from ofa_tvm.workflow.models import fit_accuracy

SPACE = get_space("ofa_digits")


def truth(space: Space, genes: np.ndarray) -> np.ndarray:
    macs = space.macs_batch(genes) / space.macs(space.max_arch())
    return 0.7 + 0.2 * (1 - np.exp(-3 * macs)) + 0.02 * space.active_blocks(genes).mean(axis=1)


@pytest.fixture(scope="module")
def fitted() -> MLPAccuracyPredictor:
    genes = SPACE.sample_genes(np.random.default_rng(0), 300)
    return MLPAccuracyPredictor(SPACE, seed=1).fit(genes, truth(SPACE, genes))


def test_it_learns_and_says_how_well(fitted: MLPAccuracyPredictor) -> None:
    genes = SPACE.sample_genes(np.random.default_rng(1), 500)
    predicted, expected = fitted.predict(SPACE.decode(genes)), truth(SPACE, genes)
    rmse = np.sqrt(np.mean((predicted - expected) ** 2))
    assert rmse < 0.3 * expected.std() and spearmanr(predicted, expected).statistic > 0.95
    assert 0.5 < fitted.validation_["rmse"] / rmse < 2
    assert fitted.validation_["n"] == 30
    assert [w.shape[1] for w in fitted.weights_] == [400, 400, 400, 1]


def test_the_kind_follows_the_number_of_subnets() -> None:
    genes = SPACE.sample_genes(np.random.default_rng(4), 40)
    archs, values = SPACE.decode(genes), truth(SPACE, genes)
    assert isinstance(fit_accuracy(SPACE, archs, values), AccuracyPredictor)
    assert isinstance(fit_accuracy(SPACE, archs, values, kind="mlp"), MLPAccuracyPredictor)
    with pytest.raises(UsageError, match="unknown kind"):
        fit_accuracy(SPACE, archs, values, kind="forest")
    with pytest.raises(UserError, match="at least 20"):
        fit_accuracy(SPACE, archs[:19], values[:19], kind="mlp")
