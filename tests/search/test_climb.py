"""Climbs: the local search after evolution, and the hard limits that it keeps as well."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from ofa_tvm.errors import UsageError
from ofa_tvm.search.budget import budget_above, parse_budget
from ofa_tvm.search.climb import Climber
from ofa_tvm.search.constraints import Constraint, Limits
from ofa_tvm.search.evolution import Evolution, search_within
from ofa_tvm.search.limits import hard_limits, parse_limit
from ofa_tvm.search.objectives import peak_memory_mb
from ofa_tvm.spaces import get_space

SPACE = get_space("ofa_digits")
SIDES = SPACE.default_resolutions


def rugged(genes: np.ndarray) -> np.ndarray:
    """A score with effects of single genes and of random triples of them, so with many local optima."""
    rng = np.random.default_rng(7)
    genes = SPACE.canonical(genes)
    alone = rng.standard_normal((genes.shape[1], int(SPACE.cardinalities.max())))
    score = alone[np.arange(genes.shape[1]), genes].sum(axis=1)
    for _ in range(40):
        columns = rng.choice(genes.shape[1], 3, replace=False)
        table = rng.standard_normal((5, 5, 5))
        score += table[tuple(genes[:, column] for column in columns)]
    return np.asarray(score)


def macs_within(share: float) -> Constraint:
    most = float(SPACE.macs_batch(SPACE.encode([SPACE.max_arch()]))[0])
    return Constraint("macs", lambda genes: SPACE.macs_batch(genes).astype(float), share * most)


def test_an_exhaustive_climb_leaves_no_better_change_of_two_genes() -> None:
    limits = Limits((macs_within(0.5),))
    climber = Climber(SPACE, rugged, limits, SIDES)
    start = SPACE.encode([SPACE.min_arch()])
    genes, score = climber.exhaust(start[0], float(rugged(start)[0]))
    assert score == pytest.approx(float(rugged(genes[None])[0])) and score > rugged(start)[0]
    changed = []
    for i, j in itertools.combinations_with_replacement(range(len(genes)), 2):
        for a, b in itertools.product(range(SPACE.cardinalities[i]), range(SPACE.cardinalities[j])):
            other = genes.copy()
            other[i], other[j] = a, b
            changed.append(other)
    every = np.array(changed)
    every = every[limits(every) <= 1.0]
    assert rugged(every).max() <= score + 1e-6
    # What is promising is looked at first: far fewer subnets than all pairs at every step.
    quick = Climber(SPACE, rugged, limits, SIDES)
    quick.climb(start[0], float(rugged(start)[0]))
    assert quick.evaluations < len(every)


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.3, 0.6])
def test_restarts_find_what_evolution_alone_does_not(share: float) -> None:
    limits = [macs_within(share)]

    def best(seed: int, **settings: int) -> tuple[float, int]:
        found = search_within(SPACE, rugged, limits, k=5, seed=seed, settings=Evolution(**settings))
        assert (found.costs <= limits[0].limit).all()
        assert len(set(found.archs)) == 5 and (np.diff(found.accuracy) <= 0).all()
        np.testing.assert_allclose(found.accuracy, rugged(found.genes))
        return float(found.accuracy[0]), found.evaluations

    climbing = [best(seed, generations=20, climbs=15_000) for seed in range(3)]
    evolving = [best(seed, generations=200, climbs=0) for seed in range(3)]
    assert max(n for _, n in climbing) < 1.1 * min(n for _, n in evolving)
    assert np.mean([score for score, _ in climbing]) >= np.mean([score for score, _ in evolving])
    assert max(climbing)[0] >= max(evolving)[0] - 1e-6
    assert best(0, generations=20, climbs=15_000) == climbing[0], "the same seed, the same subnet"


def test_hard_limits_are_kept_together() -> None:
    some = SPACE.sample_genes(np.random.default_rng(0), 500)
    of = {
        "size": lambda genes: 4e-6 * SPACE.params_batch(genes, 10),
        "memory": peak_memory_mb(SPACE),
        "macs": lambda genes: SPACE.macs_batch(genes, 10),
        "params": lambda genes: SPACE.params_batch(genes, 10),
    }
    limits = {name: float(np.quantile(count(some), 0.4)) for name, count in of.items()}
    bounds = hard_limits(SPACE, limits, 10)
    found = search_within(SPACE, rugged, bounds, seed=0, k=1, settings=Evolution(generations=10, climbs=2000))
    genes = found.genes
    for name, count in of.items():
        assert count(genes)[0] <= limits[name] * (1 + 1e-9), name
    # In bytes, a byte a weight: four times as many fit.
    (wide,), (narrow,) = (hard_limits(SPACE, {"size": 0.3}, 10, dtype) for dtype in ("float32", "int8"))
    np.testing.assert_allclose(narrow.cost(genes), wide.cost(genes) / 4)
    with pytest.raises(UsageError, match=r"number of MACs within 0\.001 M: the smallest it can reach is \d"):
        search_within(SPACE, rugged, hard_limits(SPACE, {"macs": 1e3}, 10))


def test_limits_are_typed_with_units() -> None:
    assert parse_limit("size", "5MB") == 5 and parse_limit("memory", "800kB") == pytest.approx(0.8)
    assert parse_limit("macs", "300M") == 3e8
    assert parse_limit("params", "4000000") == 4e6 and parse_limit("macs", "0.3 G") == 3e8
    for name, text in (("size", "5"), ("size", "-5MB"), ("macs", "300MB"), ("params", "0"), ("memory", "x")):
        with pytest.raises(UsageError, match=f"--max-{name} .* type for example"):
            parse_limit(name, text)


@pytest.mark.parametrize(
    ("value", "unit", "typed"),
    [(0.0814, "ms", "81.4us"), (0.08141, "ms", "81.5us"), (25.01, "ms", "25.1ms"), (9.89, "ms", "9.89ms"),
     (1234.0, "Minstr", "1240Minstr"), (0.9999, "ms", "1000us")],
)  # fmt: skip
def test_a_budget_that_would_do_is_round_and_not_below(value: float, unit: str, typed: str) -> None:
    assert budget_above(value, unit) == typed
    assert parse_budget(typed).value >= value * (1 - 1e-9)
