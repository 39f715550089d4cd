"""Accuracies that are measured decide, where predictions saturate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ofa_tvm.accuracy.predictor import AccuracyPredictor
from ofa_tvm.estimators.contract import Function, FunctionCost
from ofa_tvm.latency.correction import learn_error
from ofa_tvm.search.budget import Budget
from ofa_tvm.search.candidates import Candidate, Cost
from ofa_tvm.search.evolution import Evolution
from ofa_tvm.search.verify import Measure, MeasuredLimit, search_verified
from ofa_tvm.spaces import Arch
from ofa_tvm.spaces.blocks import BlockTables
from ofa_tvm.spaces.space import Space

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
    scores = [c.accuracy for c in result.ranked]
    assert scores == sorted(scores, reverse=True)
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
