"""What every search keeps; one joins by a line in `SEARCHES`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from ofa_tvm.errors import UsageError
from ofa_tvm.estimators.contract import CostModel, Function, FunctionCost
from ofa_tvm.search.budget import Budget
from ofa_tvm.search.constraints import latency_limit
from ofa_tvm.search.evolution import Evolution, search
from ofa_tvm.search.objectives import make_objectives
from ofa_tvm.search.pareto import pareto_search
from ofa_tvm.search.random import random_search
from ofa_tvm.spaces import Arch
from ofa_tvm.spaces.space import Space

QUICK = Evolution(generations=20)
Found = tuple[Sequence[Arch], np.ndarray]
Search = Callable[[Space, Function, CostModel, float, int, Sequence[int] | None], Found]
"""Space, accuracy, latency, budget, seed, resolutions -> architectures and their genes."""


def _evolution(
    space: Space, accuracy: Function, latency: CostModel, budget: float, seed: int, r: Sequence[int] | None
) -> Found:
    found = search(space, accuracy, latency, budget, k=5, seed=seed, resolutions=r, settings=QUICK)
    return found.archs, found.genes


def _random(
    space: Space, accuracy: Function, latency: CostModel, budget: float, seed: int, r: Sequence[int] | None
) -> Found:
    found = random_search(space, accuracy, latency, budget, samples=500, k=5, seed=seed, resolutions=r)
    return found.archs, found.genes


def _pareto(
    space: Space, accuracy: Function, latency: CostModel, budget: float, seed: int, r: Sequence[int] | None
) -> Found:
    objectives = make_objectives(["latency", "accuracy"], space, accuracy=accuracy, latency={"x": latency})
    limits = [latency_limit(latency, Budget(budget, latency.unit))]
    found = pareto_search(space, objectives, constraints=limits, seed=seed, resolutions=r, settings=QUICK)
    return found.archs, space.encode(found.archs)


SEARCHES: dict[str, Search] = {"evolution": _evolution, "random": _random, "pareto": _pareto}


@pytest.fixture(params=SEARCHES)
def run(request: pytest.FixtureRequest) -> Search:
    return SEARCHES[request.param]


@pytest.fixture
def cost(space: Space, latency: Function) -> FunctionCost:
    return FunctionCost(space, latency, "Minstr")


def test_what_it_finds_is_distinct_within_the_budget_and_of_the_resolutions_asked_for(
    run: Search, space: Space, accuracy: Function, cost: FunctionCost
) -> None:
    for budget, sides in ((15.0, None), (9.0, (160, 128))):
        archs, genes = run(space, accuracy, cost, budget, 0, sides)
        assert 1 <= len(set(archs)) == len(archs) and list(archs) == space.decode(genes)
        assert (cost(genes) <= budget).all()
        assert {arch.r for arch in archs} <= set(sides or space.default_resolutions)


def test_a_seed_says_what_is_found(run: Search, space: Space, accuracy: Function, cost: FunctionCost) -> None:
    once, again, other = (run(space, accuracy, cost, 15.0, seed, None)[0] for seed in (3, 3, 4))
    assert list(once) == list(again) != list(other)


def test_budgets_that_cannot_be_met_and_resolutions_that_do_not_exist_are_refused(
    run: Search, space: Space, accuracy: Function, cost: FunctionCost
) -> None:
    with pytest.raises(UsageError, match=r"latency within 1 Minstr: the smallest it can reach is 4\.133"):
        run(space, accuracy, cost, 1.0, 0, None)
    with pytest.raises(UsageError, match="resolution 99 is not in the space"):
        run(space, accuracy, cost, 15.0, 0, (99,))
    with pytest.raises(UsageError, match="above 0"):
        run(space, accuracy, cost, -1.0, 0, None)


def test_equal_accuracies_are_no_trouble(run: Search, space: Space, cost: FunctionCost) -> None:
    archs, genes = run(space, lambda genes: np.full(len(genes), 0.5), cost, 15.0, 0, None)
    assert len(archs) and (cost(genes) <= 15.0).all()


def test_what_costs_no_number_is_not_proposed(
    run: Search, space: Space, accuracy: Function, latency: Function
) -> None:
    """A table without a resolution says infinity, a damaged model NaN."""
    largest = space.resolutions.index(224)
    for hole in (np.inf, np.nan):
        holed = FunctionCost(space, lambda g, hole=hole: np.where(g[:, -1] == largest, hole, latency(g)))
        archs, _ = run(space, accuracy, holed, 40.0, 0, None)
        assert len(archs) and 224 not in {arch.r for arch in archs}


def test_a_search_says_how_many_subnets_it_looked_at(
    space: Space, accuracy: Function, cost: FunctionCost
) -> None:
    """A population to begin with and one a generation; and the cheapest, or both ends."""
    one = search(space, accuracy, cost, 1e9, settings=QUICK)
    assert one.evaluations == QUICK.population * (QUICK.generations + 1) + 1
    objectives = make_objectives(["latency", "accuracy"], space, accuracy=accuracy, latency={"x": cost})
    front = pareto_search(space, objectives, settings=QUICK)
    extremes = 2 * len(space.default_resolutions)
    assert front.evaluations == QUICK.population * (QUICK.generations + 1) + extremes
