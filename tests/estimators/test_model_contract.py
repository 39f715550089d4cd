"""What a search may ask of every cost model and every accuracy model; one joins by a line in the tables."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest

from ofa_tvm.accuracy.mlp import MLPAccuracyPredictor
from ofa_tvm.accuracy.official import OfficialPredictor
from ofa_tvm.accuracy.predictor import AccuracyPredictor
from ofa_tvm.errors import UserError
from ofa_tvm.estimators.contract import AccuracyModel, CostModel, FunctionCost, Predictor
from ofa_tvm.latency.correction import learn_error
from ofa_tvm.latency.estimate import Estimate
from ofa_tvm.latency.kernel_sum import KernelSum
from ofa_tvm.latency.lookup_table import LookupTable, key_style, table_keys
from ofa_tvm.latency.regression import LatencyRegressor
from ofa_tvm.search.budget import Budget
from ofa_tvm.search.evolution import Evolution, search
from ofa_tvm.spaces import Layer, get_space
from ofa_tvm.spaces.blocks import block_structure

SPACE = get_space("ofa_mbv3_w1.0")


def block_ms(layers: tuple[Layer, ...]) -> float:
    return sum(layer.macs / 3e7 + 0.01 for layer in layers)


MS = block_structure(SPACE, 10).tables(block_ms)


def measured(n: int, seed: int = 0, resolutions: tuple[int, ...] | None = None) -> tuple[np.ndarray, ...]:
    genes = SPACE.sample_genes(np.random.default_rng(seed), n, resolutions)
    return genes, MS(genes) * 1.2


def _lookup_table() -> LookupTable:
    contexts = [context for block in block_structure(SPACE).blocks for context in block.contexts]
    keys = {key for context in contexts for key in table_keys(context, key_style(SPACE))}
    return LookupTable(SPACE, {192: dict.fromkeys(keys, 1.5), 160: dict.fromkeys(keys, 1.0)})


def _corrected(genes: np.ndarray, costs: np.ndarray) -> CostModel:
    return learn_error(FunctionCost(SPACE, MS, "Minstr", 10), SPACE.decode(genes), costs)


COST_MODELS: dict[str, tuple[Callable[[], CostModel], str, int, tuple[int, ...]]] = {
    # what makes it; its unit, classes and resolutions
    "function": (lambda: FunctionCost(SPACE, MS, "Minstr", 10, (192,)), "Minstr", 10, (192,)),
    "estimate": (lambda: Estimate(SPACE, MS, n_classes=10, spread=0.1), "ms", 10, SPACE.resolutions),
    "lookup table": (_lookup_table, "ms", 1000, (160, 192)),
    "kernel sum": (
        lambda: KernelSum(SPACE, block_ms, n_classes=10, unit="Minstr", resolutions=(224, 128)),
        "Minstr",
        10,
        (128, 224),
    ),
    "kernel sum, fitted": (
        lambda: KernelSum(SPACE, block_ms, n_classes=10).fit(*measured(5)),
        "ms",
        10,
        SPACE.resolutions,
    ),
    "regression": (
        lambda: LatencyRegressor(SPACE, MS, unit="Minstr", n_classes=10).fit(*measured(30, 0, (128, 192))),
        "Minstr",
        10,
        (128, 192),
    ),
    "corrected": (lambda: _corrected(*measured(9, 1, (160,))), "Minstr", 10, (160,)),
}


def _network() -> OfficialPredictor:
    rng = np.random.default_rng(0)
    sizes = (128, 16, 1)
    weights = tuple(rng.standard_normal(pair).astype(np.float32) / 40 for pair in pairwise(sizes))
    return OfficialPredictor(SPACE, weights, tuple(np.zeros(n, np.float32) for n in sizes[1:]), 0.7)


def accuracies(genes: np.ndarray) -> np.ndarray:
    return 0.5 + 0.1 * np.log(MS(genes))


def _fitted(model: AccuracyPredictor | MLPAccuracyPredictor) -> AccuracyModel:
    genes = SPACE.sample_genes(np.random.default_rng(3), 60, (128, 192))
    return model.fit(genes, accuracies(genes))


ACCURACY_MODELS: dict[str, Callable[[], AccuracyModel]] = {
    "Gaussian process": lambda: _fitted(AccuracyPredictor(SPACE)),
    "network": lambda: _fitted(MLPAccuracyPredictor(SPACE)),
    "published": _network,
}


def keeps_the_contract_of_predictors(model: Predictor) -> None:
    assert model.space is SPACE and isinstance(model.unit, str)
    sides = model.resolutions
    assert sides and list(sides) == sorted(set(sides)) and set(sides) <= set(SPACE.resolutions)
    genes = SPACE.sample_genes(np.random.default_rng(5), 60, sides)
    values = model(genes)
    assert values.shape == (60,) and np.isfinite(values).all() and np.ptp(values) > 0
    np.testing.assert_allclose(model.predict(SPACE.decode(genes)), values, rtol=1e-5)
    np.testing.assert_allclose(model.predict(genes), values, rtol=1e-12)
    np.testing.assert_allclose(model.collapsed(genes), values, rtol=1e-5)
    np.testing.assert_allclose(model(SPACE.canonical(genes)), values, rtol=1e-5)
    assert model(genes[:0]).shape == (0,)


@pytest.mark.parametrize("name", COST_MODELS)
def test_a_cost_model_says_what_it_is_of_and_can_be_searched_with(name: str) -> None:
    make, unit, n_classes, resolutions = COST_MODELS[name]
    model = make()
    assert (model.unit, model.n_classes, model.resolutions) == (unit, n_classes, resolutions)
    keeps_the_contract_of_predictors(model)
    (cheapest,) = model(SPACE.encode([SPACE.min_arch(model.resolutions[0])]))
    assert cheapest > 0
    found = search(
        SPACE,
        MS,
        model,
        Budget(1.5 * cheapest, unit),
        k=1,
        resolutions=model.resolutions,
        settings=Evolution(population=20, generations=5),
    )
    assert model(found.genes)[0] <= 1.5 * cheapest
    corrected = learn_error(model, found.archs, np.array([1.3 * cheapest]))
    assert (corrected.unit, corrected.n_classes) == (unit, n_classes)
    np.testing.assert_allclose(corrected.predict(found.archs), 1.3 * cheapest, rtol=0.1)


@pytest.mark.parametrize("name", ACCURACY_MODELS)
def test_an_accuracy_model_learns_from_what_a_search_measures(name: str) -> None:
    model = ACCURACY_MODELS[name]()
    assert model.unit == ""
    keeps_the_contract_of_predictors(model)
    genes = SPACE.sample_genes(np.random.default_rng(8), 30, (128, 192))
    truth = accuracies(genes) - 0.05
    for n in (1, 20):
        corrected = model.corrected(SPACE.decode(genes[:n]), truth[:n])
        before, after = (np.abs(f(genes[:n]) - truth[:n]).mean() for f in (model, corrected))
        assert after < before, n
    unseen, wanted = genes[20:], truth[20:]
    assert np.abs(corrected(unseen) - wanted).mean() < np.abs(model(unseen) - wanted).mean()
    with pytest.raises(UserError, match="is nan"):
        model.corrected(SPACE.decode(genes[:5]), np.full(5, np.nan))


@pytest.mark.parametrize("name", ACCURACY_MODELS)
def test_an_accuracy_model_knows_how_good_it_is_on_what_it_was_not_fitted_to(name: str) -> None:
    left_out = ACCURACY_MODELS[name]().left_out
    if name == "published":
        assert left_out is None
        return
    assert left_out is not None and left_out.measured.shape == left_out.predicted.shape
    assert len(left_out.measured) == left_out.errors["n"]
    assert not np.array_equal(left_out.measured, left_out.predicted)
    rmse = np.sqrt(np.mean((left_out.predicted - left_out.measured) ** 2))
    assert left_out.errors["rmse"] == pytest.approx(rmse, rel=1e-3)
