"""Accuracies that are measured decide, where predictions saturate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ofa_tvm.accuracy.predictor import AccuracyPredictor
from ofa_tvm.estimators.contract import Function, FunctionCost
from ofa_tvm.latency.correction import learn_error
from ofa_tvm.search.budget import Budget
from ofa_tvm.search.candidates import Candidate, Cost, Pool, best_first
from ofa_tvm.search.evolution import Evolution
from ofa_tvm.search.verify import Measure, MeasuredLimit, search_verified
from ofa_tvm.spaces import Arch, get_space
from ofa_tvm.spaces.blocks import BlockTables
from ofa_tvm.spaces.space import Space

SOME = get_space("ofa_digits")
QUICK = Evolution(population=40, generations=20)
BUDGET = Budget(15.0)


def limit(space: Space, latency: BlockTables, measure: Measure) -> MeasuredLimit:
    return MeasuredLimit("x86", FunctionCost(space, latency), BUDGET, measure)


class Bench:
    """Latencies and accuracies as they truly are; the predictor learns from what is asked for."""

    def __init__(self, space: Space, latency: BlockTables, accuracy: Function, predictor: AccuracyPredictor):
        self.space, self.latency, self.accuracy, self.predictor = space, latency, accuracy, predictor
        self.known: dict[Arch, float] = {}

    def costs(self, archs: Sequence[Arch]) -> tuple[np.ndarray, np.ndarray]:
        values = self.latency(self.space.encode(archs))
        return values, 0.002 * values

    def check(self, archs: Sequence[Arch]) -> tuple[np.ndarray, Function]:
        values = self.accuracy(self.space.encode(archs))
        self.known |= dict(zip(archs, values.tolist(), strict=True))
        genes = np.concatenate([self.space.encode(list(self.known)), self.predictor.genes_])
        every = np.concatenate([list(self.known.values()), self.predictor.accuracy_])
        return values, AccuracyPredictor(self.space).fit(genes, every)


def test_measured_accuracies_decide(space: Space, latency: BlockTables, accuracy: BlockTables) -> None:
    rng = np.random.default_rng(3)
    genes = space.sample_genes(rng, 40, space.default_resolutions)
    wrong = AccuracyPredictor(space).fit(genes, -accuracy(genes))  # prefers the worst
    bench = Bench(space, latency, accuracy, wrong)
    known_archs = space.decode(genes[latency(genes) <= 14.0])
    encoded = space.encode(known_archs)
    known = [
        Candidate.of(arch, float(value), [Cost(ms, ms, 0.01 * ms)], [BUDGET.value], 0)
        for arch, value, ms in zip(known_archs, wrong(encoded), latency(encoded).tolist(), strict=True)
    ]
    result = search_verified(
        space,
        wrong,
        [limit(space, latency, bench.costs)],
        correct=learn_error,
        check_accuracy=bench.check,
        known=known,
        settings=QUICK,
    )
    # Nothing wins unmeasured, and what was measured is on record as it was measured.
    assert result.winner.measured_accuracy is not None
    measured = {c.arch: c.measured_accuracy for c in result.ranked if c.measured_accuracy is not None}
    assert measured == {arch: value for arch, value in bench.known.items() if arch in measured}
    assert {c.arch for c in result.record if c.within} <= set(bench.known)
    assert not {c.arch for c in result.record if not c.within} & set(bench.known), "a waste of time"
    # The predictor has learned: its opinion of the winner is no longer what it was.
    true = accuracy(space.encode([result.winner.arch]))[0]
    before = wrong(space.encode([result.winner.arch]))[0]
    assert abs(result.winner.accuracy - true) < abs(before - true)
    assert result.pool.leader == max(result.ranked, key=lambda c: c.accuracy)
    # Whoever takes the place of a winner that is too slow when it ships was measured as well.
    beaten = []
    for _ in range(4):
        winner = result.winner
        assert winner.measured_accuracy == bench.known[winner.arch] and winner.arch not in beaten
        beaten.append(winner.arch)
        (cost,) = winner.costs
        result = result.measured_again([replace(cost, measured=1.1 * BUDGET.value)], [BUDGET.value])
        assert all(c.within == (c.costs[0].upper <= BUDGET.value) for c in result.record)


def test_without_measured_accuracies_predictions_decide(
    space: Space, latency: BlockTables, accuracy: BlockTables
) -> None:
    def costs(archs: Sequence[Arch]) -> tuple[np.ndarray, np.ndarray]:
        values = latency(space.encode(archs))
        return values, 0.01 * values

    result = search_verified(
        space, accuracy, [limit(space, latency, costs)], correct=learn_error, settings=QUICK
    )
    assert all(c.measured_accuracy is None for c in result.record)
    best = max(c.accuracy for c in result.record if c.within)
    assert result.winner.accuracy == best


def found(accuracy: float, ms: float, right: float | None = None, number: int = 1) -> Candidate:
    one = Candidate.of(
        SOME.sample(np.random.default_rng(round(1e4 * ms))), accuracy, [Cost(ms, ms, 0.1)], [20.0], number
    )
    return replace(one, measured_accuracy=right)


def test_of_subnets_that_cannot_be_told_apart_the_fastest_wins() -> None:
    best = found(0.9912, 15.0, 0.99)
    faster, fastest = found(0.9890, 12.0, 0.99), found(0.9900, 11.0, 0.993)
    fewer_right, less_accurate = found(0.9905, 9.0, 0.986), found(0.98, 8.0, 0.995)
    unmeasured, slow = found(0.9911, 7.0), found(0.9990, 25.0, 1.0)
    every = [unmeasured, slow, less_accurate, best, fewer_right, faster, fastest]
    pool = Pool(SOME, None, None, every, one_image=1 / 300)
    assert pool.ranked == [fastest, faster, best, unmeasured, fewer_right, less_accurate]
    assert pool.leader is best, "the search goes on until nothing promises more than the most accurate"
    # Without images only equal predictions are alike.
    assert best_first(every)[0] == slow
    plain = [found(0.99, 15.0), found(0.9899, 5.0), found(0.99, 14.0)]
    assert best_first(plain, 1 / 300) == [plain[2], plain[0], plain[1]]


def test_the_share_of_a_budget_is_that_of_the_target_where_it_is_most() -> None:
    one = Candidate.of(
        SOME.sample(np.random.default_rng(0)), 0.9, [Cost(1, 1, 0.5), Cost(4, 4, 0)], [2.0, 5.0], 1
    )
    assert one.share == 0.8 and one.within
