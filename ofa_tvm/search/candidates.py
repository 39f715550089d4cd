"""Subnets that a verified search measured: what was predicted, what was found, and which one leads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ofa_tvm.estimators.contract import CostModel, Function
from ofa_tvm.spaces import Arch
from ofa_tvm.spaces.space import Space

CheckAccuracy = Callable[[Sequence[Arch]], tuple[np.ndarray, Function]]
"""Architectures -> their measured accuracies (n,), and an accuracy function that knows all measured ones."""


@dataclass(frozen=True)
class Cost:
    """A subnet's predicted and measured cost and noise margin on one target, in its budget's unit.

    `predicted` is from before this measurement was known.
    """

    predicted: float
    measured: float
    noise: float

    @property
    def upper(self) -> float:
        """What counts against a budget: the measured cost and its noise margin."""
        return self.measured + self.noise


@dataclass(frozen=True)
class Candidate:
    """One subnet: what was predicted and what was measured.

    Attributes
    ----------
    arch : Arch
    accuracy : float
        As predicted; where accuracies are measured, by the function that knows them. A measured accuracy has
        noise of its own, so this is what subnets are ranked by.
    costs : tuple of Cost
        One for each target.
    round : int
        From 1; 0 for subnets that were measured before the search.
    within : bool
        Whether the budget is kept on every target, noise margins included.
    measured_accuracy : float or None
        If it was measured.
    share : float
        Of the budget that it takes, noise margin included; on the target where that is most.
    """

    arch: Arch
    accuracy: float
    costs: tuple[Cost, ...]
    round: int
    within: bool
    measured_accuracy: float | None = None
    share: float = 0.0

    @classmethod
    def of(
        cls, arch: Arch, accuracy: float, costs: Sequence[Cost], limits: Sequence[float], round_number: int
    ) -> Candidate:
        """A candidate from its costs and the limits, one of each for every target."""
        return cls(arch, accuracy, (), round_number, False).costing(costs, limits)

    def costing(self, costs: Sequence[Cost], limits: Sequence[float]) -> Candidate:
        """The same with these costs, for these limits."""
        within = all(cost.upper <= limit for cost, limit in zip(costs, limits, strict=True))
        share = max(cost.upper / limit for cost, limit in zip(costs, limits, strict=True))
        return replace(self, costs=tuple(costs), within=within, share=share)


def best_first(candidates: Sequence[Candidate], one_image: float = 0.0) -> list[Candidate]:
    """The most accurate first; but of those that cannot be told from it the fastest before it.

    These got at least as many validation images right, and the accuracies that rank them differ by less than
    one image. Where nothing was measured, accuracies have to be equal.

    Parameters
    ----------
    candidates : sequence of Candidate
    one_image : float
        What one validation image is worth, 0..1; 0 if accuracies are not measured.
    """
    order = sorted(candidates, key=lambda c: (-c.accuracy, c.share, -c.round))
    if not order or order[0].measured_accuracy is None:
        return order
    best, least = order[0], order[0].measured_accuracy

    def cannot_be_told(c: Candidate) -> bool:
        right = c.measured_accuracy is not None and c.measured_accuracy >= least
        return c is best or (right and best.accuracy - c.accuracy < one_image)

    alike = sorted((c for c in order if cannot_be_told(c)), key=lambda c: c.share)
    return alike + [c for c in order if not cannot_be_told(c)]


@dataclass(frozen=True)
class VerifiedResult:
    """The subnet to ship, and how it was found.

    Attributes
    ----------
    pool : Pool
        All that was measured.
    rounds : int
    models : tuple of CostModel
        Each target's, after the last correction.
    """

    pool: Pool
    rounds: int
    models: tuple[CostModel, ...]

    @property
    def ranked(self) -> list[Candidate]:
        """Everything measured within the budgets, in the order of `best_first`."""
        return self.pool.ranked

    @property
    def record(self) -> list[Candidate]:
        """Every candidate that was measured for this search, in order."""
        return self.pool.record

    @property
    def earlier(self) -> list[Candidate]:
        """Those measured before this search whose accuracy it wanted to know, the most accurate first."""
        known = (c for c in self.pool.entries if c.round == 0 and c.measured_accuracy is not None)
        return sorted(known, key=lambda c: -c.accuracy)

    @property
    def winner(self) -> Candidate:
        """The most accurate one within the budgets; of those that are alike, the fastest."""
        return self.ranked[0]

    def measured_again(self, costs: Sequence[Cost], limits: Sequence[float]) -> VerifiedResult:
        """The same with other costs of the winner, which may win no longer.

        Parameters
        ----------
        costs, limits
            One of each for every target.

        Returns
        -------
        VerifiedResult; without `ranked` if nothing else was within the budgets.
        """
        return replace(self, pool=self.pool.measured_again(self.winner, costs, limits))


class Pool:
    """All measured subnets, with accuracies by the latest accuracy function.

    Parameters
    ----------
    space : Space
    accuracy : callable
        Genes (n, n_genes) -> (n,) predictions.
    check : callable or None
        Measures accuracies; None trusts the predictions.
    entries : sequence of Candidate
        Those measured before.
    one_image : float
        As of `best_first`.
    """

    def __init__(
        self,
        space: Space,
        accuracy: Function,
        check: CheckAccuracy | None,
        entries: Sequence[Candidate],
        one_image: float = 0.0,
    ) -> None:
        self.accuracy = accuracy
        self.entries = list(entries)
        self._space, self._check, self.one_image = space, check, one_image
        self._check_leader()

    @property
    def record(self) -> list[Candidate]:
        """Those measured in this search, in order."""
        return [c for c in self.entries if c.round > 0]

    @property
    def ranked(self) -> list[Candidate]:
        """Those within the budgets, in the order of `best_first`."""
        return best_first([c for c in self.entries if c.within], self.one_image)

    @property
    def leader(self) -> Candidate | None:
        """The most accurate of them."""
        return max(self.ranked, key=lambda c: c.accuracy, default=None)

    def promising(self, archs: Sequence[Arch], accuracies: np.ndarray) -> list[tuple[Arch, float]]:
        """Those that were not measured yet and promise more than the leader, with their accuracy."""
        measured, leader = {c.arch for c in self.entries}, self.leader
        return [
            (arch, float(accuracy))
            for arch, accuracy in zip(archs, accuracies, strict=True)
            if arch not in measured and (leader is None or accuracy > leader.accuracy)
        ]

    def add(self, candidates: Sequence[Candidate]) -> None:
        """Take in what was measured; accuracies are measured of those within the budgets only."""
        self.entries += candidates
        self._measure([c.arch for c in candidates if c.within])
        self._check_leader()

    def measured_again(self, candidate: Candidate, costs: Sequence[Cost], limits: Sequence[float]) -> Pool:
        """A pool that knows other costs of one of its subnets; the accuracy of its leader is measured."""
        entries = [
            entry.costing(costs, limits) if entry.arch == candidate.arch else entry for entry in self.entries
        ]
        return Pool(self._space, self.accuracy, self._check, entries, self.one_image)

    def _measure(self, archs: Sequence[Arch]) -> None:
        """Measure accuracies and let the accuracy function know."""
        if self._check is None or not archs:
            return
        values, self.accuracy = self._check(archs)
        measured = dict(zip(archs, map(float, values), strict=True))
        predicted = self.accuracy(self._space.encode([c.arch for c in self.entries]))
        self.entries = [
            replace(
                entry, accuracy=float(p), measured_accuracy=measured.get(entry.arch, entry.measured_accuracy)
            )
            for entry, p in zip(self.entries, predicted, strict=True)
        ]

    def _check_leader(self) -> None:
        """Measure the accuracy of whatever leads, until a measured one does."""
        while self._check and (leader := self.leader) and leader.measured_accuracy is None:
            self._measure([leader.arch])
