from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ofa_tvm.errors import UsageError
from ofa_tvm.estimators.contract import FunctionCost
from ofa_tvm.search.budget import Budget
from ofa_tvm.search.constraints import Constraint, Limits, cheapest, repair
from ofa_tvm.search.evolution import Evolution, choose_parents, search
from ofa_tvm.search.random import random_search
from ofa_tvm.spaces import get_space
from ofa_tvm.spaces.blocks import BlockTables, block_structure
from ofa_tvm.spaces.space import Space

QUICK = Evolution(population=60, generations=60)


@pytest.mark.parametrize("budget", [7.0, 12.0, 25.0, 1000.0])
def test_every_candidate_is_within_the_budget(
    space: Space, latency: BlockTables, accuracy: BlockTables, budget: float
) -> None:
    result = search(space, accuracy, FunctionCost(space, latency), Budget(budget), k=20, settings=QUICK)
    assert len(result.archs) == len(set(result.archs)) == 20
    assert (result.latency <= budget).all()
    np.testing.assert_allclose(latency(space.encode(result.archs)), result.latency)
    assert (np.diff(result.accuracy) <= 0).all()
    assert (np.diff(result.history) >= 0).all()
    assert all(arch.r in space.default_resolutions for arch in result.archs)


@pytest.mark.parametrize("seed", range(3))
def test_without_a_real_limit_it_finds_the_best_subnet(seed: int) -> None:
    """The best of a score that adds up over blocks is known, block by block, given depths and resolution."""
    space = get_space("ofa_digits")
    structure = block_structure(space)
    rng = np.random.default_rng(seed)
    score = structure.tables(lambda layers: rng.uniform(0.1, 1.0))
    best = -np.inf
    for shared in np.ndindex(2 + 1, 2 + 1, 3):  # d0, d1, r
        fixed = dict(zip((0, 1, len(space.gene_names) - 1), shared, strict=True))
        total = 0.0
        for block, table in zip(structure.blocks, score.tables, strict=True):
            at = tuple(fixed.get(gene, slice(None)) for gene in block.genes)
            total += table.reshape(block.choices)[at].max()
        best = max(best, total)
    result = search(space, score, FunctionCost(space, space.macs_batch), 1e12, k=1, seed=seed)
    assert result.accuracy[0] == pytest.approx(best, rel=1e-12)


def test_it_beats_random_search(space: Space, latency: BlockTables, accuracy: BlockTables) -> None:
    for seed in range(3):
        found = search(space, accuracy, FunctionCost(space, latency), 15.0, seed=seed, settings=QUICK)
        baseline = random_search(
            space, accuracy, FunctionCost(space, latency), 15.0, seed=seed, samples=found.evaluations
        )
        assert (baseline.latency <= 15.0).all()
        assert found.accuracy[0] > baseline.accuracy[0] + 0.05 * abs(baseline.accuracy[0])


def test_the_same_seed_gives_the_same_result_in_another_process(
    space: Space, latency: BlockTables, accuracy: BlockTables
) -> None:
    code = (
        "import sys; sys.path.insert(0, 'tests/search')\n"
        "import conftest as c\n"
        "from ofa_tvm.estimators.contract import FunctionCost\n"
        "from ofa_tvm.search.evolution import Evolution, search\n"
        "from ofa_tvm.spaces import get_space\n"
        "s = get_space('ofa_mbv3_w1.0')\n"
        "cost = FunctionCost(s, c.latency.__wrapped__(s))\n"
        "r = search(s, c.accuracy.__wrapped__(s), cost, 12.0, k=3, seed=5,"
        " settings=Evolution(population=60, generations=60))\n"
        "print('\\n'.join(a.to_json() for a in r.archs))\n"
        "sys.exit('torch' in sys.modules or 'tvm' in sys.modules)"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    here = search(space, accuracy, FunctionCost(space, latency), 12.0, k=3, seed=5, settings=QUICK)
    assert other.stdout.split() == [a.to_json() for a in here.archs]
    different = search(space, accuracy, FunctionCost(space, latency), 12.0, k=3, seed=6, settings=QUICK)
    assert different.archs != here.archs


def test_an_impossible_budget_says_what_is_possible(
    space: Space, latency: BlockTables, accuracy: BlockTables
) -> None:
    least = min(float(latency(space.encode([space.min_arch(r)]))[0]) for r in space.default_resolutions)
    with pytest.raises(UsageError, match=rf"within 2 ms.*smallest it can reach is {least:.4g} ms"):
        search(space, accuracy, FunctionCost(space, latency), Budget(2.0))
    with pytest.raises(UsageError, match="smallest it can reach"):
        search(space, accuracy, FunctionCost(space, latency), least * 1.01, resolutions=[224])
    assert (
        search(space, accuracy, FunctionCost(space, latency), least * 1.0001, settings=QUICK).latency[0]
        <= least * 1.0001
    )


def test_wrong_units_and_resolutions_are_refused(
    space: Space, latency: BlockTables, accuracy: BlockTables
) -> None:
    with pytest.raises(UsageError, match="type the budget in ms"):
        search(space, accuracy, FunctionCost(space, latency), Budget(100.0, "Minstr"))
    with pytest.raises(UsageError, match="above 0"):
        search(space, accuracy, FunctionCost(space, latency), -5.0)
    with pytest.raises(UsageError, match="resolution 99"):
        search(space, accuracy, FunctionCost(space, latency), 20.0, resolutions=[99])
    with pytest.raises(UsageError, match="mutation_ratio"):
        Evolution(mutation_ratio=1.5)


def test_several_limits_hold_at_once(space: Space, latency: BlockTables, accuracy: BlockTables) -> None:
    macs = Constraint("number of MACs", space.macs_batch, 2.5e8)
    params = Constraint("number of parameters", space.params_batch, 4.5e6)
    result = search(
        space, accuracy, FunctionCost(space, latency), 20.0, constraints=(macs, params), settings=QUICK
    )
    assert (space.macs_batch(result.genes) <= 2.5e8).all()
    assert (space.params_batch(result.genes) <= 4.5e6).all()
    with pytest.raises(UsageError, match="number of MACs within 1e\\+06"):
        search(
            space,
            accuracy,
            FunctionCost(space, latency),
            20.0,
            constraints=(Constraint("number of MACs", space.macs_batch, 1e6),),
        )


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), quantile=st.floats(0.001, 0.9))
def test_repair_keeps_what_is_feasible_and_mends_the_rest(seed: int, quantile: float) -> None:
    space = get_space("ofa_digits")
    cost = block_structure(space).tables(lambda layers: float(sum(la.macs for la in layers)))
    rng = np.random.default_rng(seed)
    genes = space.sample_genes(rng, 40)
    limits = Limits((Constraint("cost", cost, float(np.quantile(cost(genes), quantile))),))
    floor, ratio = cheapest(space, limits, space.resolutions)
    assert ratio <= 1
    counterparts = np.broadcast_to(floor, genes.shape)
    mended, ratios = repair(genes, counterparts, limits, rng)
    assert (limits(mended) <= 1).all()
    np.testing.assert_allclose(ratios, limits(mended))
    fine = limits(genes) <= 1
    np.testing.assert_array_equal(mended[fine], genes[fine])
    assert ((mended == genes) | (mended == floor)).all()


def test_every_resolution_keeps_parents() -> None:
    resolution = np.array([3] * 90 + [1] * 5 + [2] * 5)
    parents = choose_parents(resolution, 24)
    assert len(parents) == 24
    assert np.bincount(resolution[parents]).tolist() == [0, 4, 4, 16]
    assert parents[0] == 0
    assert (choose_parents(np.zeros(30), 10) == np.arange(10)).all()


@pytest.mark.slow
def test_the_published_search_is_matched(shared_data) -> None:  # type: ignore[no-untyped-def]
    """Mean best accuracy of the official finder with its own predictor and table (20 seeds): see
    `official`."""
    pytest.importorskip("torch")
    from ofa_tvm.accuracy.official import load_official
    from ofa_tvm.latency.lookup_table import LookupTable

    space = get_space("ofa_mbv3_w1.2")
    table = LookupTable.read(shared_data / "luts" / "note10", space)
    predictor = load_official(shared_data / "accuracy" / "acc_predictor.pth", space)
    official = {15: 0.78495, 25: 0.81788, 35: 0.83170}
    for budget, accuracy in official.items():
        found = [
            search(space, predictor, table, float(budget), k=1, seed=seed, resolutions=table.resolutions)
            for seed in range(3)
        ]
        assert np.mean([result.accuracy[0] for result in found]) > accuracy - 0.0005
        assert max(result.latency[0] for result in found) <= budget
