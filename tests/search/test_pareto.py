from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ofa_tvm.errors import UsageError
from ofa_tvm.estimators.contract import FunctionCost
from ofa_tvm.search.constraints import Constraint
from ofa_tvm.search.evolution import Evolution, search
from ofa_tvm.search.objectives import NAMES, make_objectives, peak_memory_mb
from ofa_tvm.search.pareto import crowding_distance, non_dominated_rank, pareto_search
from ofa_tvm.spaces import get_space
from ofa_tvm.spaces.blocks import BlockTables
from ofa_tvm.spaces.space import Space

QUICK = Evolution(population=60, generations=60)


def dominates(a: np.ndarray, b: np.ndarray) -> bool:
    return bool((a <= b).all() and (a < b).any())


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 30), m=st.integers(2, 4), levels=st.integers(2, 50))
def test_ranks_are_what_domination_says(seed: int, n: int, m: int, levels: int) -> None:
    """Peeling fronts off one after the other, by the definition."""
    costs = np.random.default_rng(seed).integers(levels, size=(n, m)).astype(float)
    rank = non_dominated_rank(costs)
    left, front = list(range(n)), 0
    while left:
        best = [i for i in left if not any(dominates(costs[j], costs[i]) for j in left)]
        assert {i for i in left if rank[i] == front} == set(best)
        left = [i for i in left if i not in best]
        front += 1


def test_crowding_is_the_distance_between_neighbours() -> None:
    costs = np.array([[0.0, 10.0], [1.0, 6.0], [4.0, 5.0], [10.0, 0.0], [20.0, 20.0]])
    crowding = crowding_distance(costs, non_dominated_rank(costs))
    np.testing.assert_allclose(crowding, [np.inf, 0.4 + 0.5, 0.9 + 0.6, np.inf, np.inf])


def test_the_front_is_as_good_as_searches_at_each_budget(
    space: Space, latency: BlockTables, accuracy: BlockTables
) -> None:
    objectives = make_objectives(
        ["latency", "accuracy"], space, accuracy=accuracy, latency={"a": FunctionCost(space, latency)}
    )
    front = pareto_search(space, objectives, settings=Evolution(generations=300))
    assert len(front.archs) == len(set(front.archs)) > 60
    ms, acc = front.values.T
    # Sorted by latency, and nothing in it is beaten: more time must buy more accuracy.
    assert (np.diff(ms) > 0).all() and (np.diff(acc) > 0).all()
    np.testing.assert_allclose(front.values[:, 0], latency(front.genes))
    for budget in (10.0, 15.0, 25.0):
        best = search(space, accuracy, FunctionCost(space, latency), budget, k=1, settings=QUICK).accuracy[0]
        assert acc[ms <= budget].max() > best - 0.015 * abs(best)


def test_any_objectives_and_hard_limits(space: Space, latency: BlockTables, accuracy: BlockTables) -> None:
    objectives = make_objectives(NAMES, space, accuracy=accuracy, latency={"a": FunctionCost(space, latency)})
    assert [o.key for o in objectives] == ["latency_ms", "accuracy", "macs", "params", "memory_mb", "size_mb"]
    limit = Constraint("latency", latency, 12.0, "ms")
    front = pareto_search(space, objectives, constraints=[limit], settings=QUICK)
    assert (front.values[:, 0] <= 12.0).all()
    costs = front.values * [1, -1, 1, 1, 1, 1]
    assert (non_dominated_rank(costs) == 0).all()
    for arch, values in zip(front.archs[:5], front.values, strict=False):
        assert values[2] == space.macs(arch) and values[3] == space.params(arch)
        assert values[5] == pytest.approx(4e-6 * space.params(arch))
    with pytest.raises(UsageError, match="smallest it can reach"):
        pareto_search(space, objectives, constraints=[Constraint("latency", latency, 1.0, "ms")])


def test_peak_memory_is_that_of_the_worst_layer() -> None:
    """ofa_mbv3_w1.0's smallest subnet at 224: expanding 16 maps of 112 x 112 to 48 needs both at once."""
    space = get_space("ofa_mbv3_w1.0")
    small = space.encode([space.min_arch(224)])
    assert peak_memory_mb(space)(small)[0] == pytest.approx(4e-6 * 112 * 112 * (16 + 48))
    # Larger expansions need more; depth beyond does not.
    genes = space.sample_genes(np.random.default_rng(0), 50, [224])
    wide = genes.copy()
    wide[:, space.columns("e")] = 2
    deep = genes.copy()
    deep[:, space.columns("d")][:, -1] = 2
    memory = peak_memory_mb(space)
    assert (memory(wide) >= memory(genes)).all()
    np.testing.assert_array_equal(memory(deep), memory(genes))


def test_objectives_that_make_no_sense(space: Space, latency: BlockTables) -> None:
    for names, message in (
        (["macs"], "at least two"),
        (["macs", "macs"], "at least two different"),
        (["macs", "speed"], "unknown objective 'speed'; choose among latency"),
        (["macs", "accuracy"], "accuracy needs a predictor"),
        (["macs", "latency"], "latency needs a predictor"),
    ):
        with pytest.raises(UsageError, match=message):
            make_objectives(names, space)
    cost = FunctionCost(space, latency)
    several = make_objectives(["latency", "macs"], space, latency={"x86": cost, "arm": cost})
    assert [o.name for o in several] == ["latency_x86", "latency_arm", "macs"]


def test_the_same_seed_gives_the_same_front_in_another_process() -> None:
    code = (
        "import sys\n"
        "from ofa_tvm.search.evolution import Evolution\n"
        "from ofa_tvm.search.objectives import make_objectives\n"
        "from ofa_tvm.search.pareto import pareto_search\n"
        "from ofa_tvm.spaces import get_space\n"
        "s = get_space('ofa_digits')\n"
        "f = pareto_search(s, make_objectives(['macs', 'memory', 'params'], s), seed=4,\n"
        "    settings=Evolution(population=30, generations=20))\n"
        "print('\\n'.join(a.to_json() for a in f.archs))\n"
        "sys.exit('torch' in sys.modules or 'tvm' in sys.modules)"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    space = get_space("ofa_digits")
    small = Evolution(population=30, generations=20)
    objectives = make_objectives(["macs", "memory", "params"], space)
    here = pareto_search(space, objectives, seed=4, settings=small)
    assert other.stdout.split() == [a.to_json() for a in here.archs]
