"""A budget as a promise: measure the search's best candidates, correct the model, search again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ofa_tvm.errors import UsageError, UserError
from ofa_tvm.latency.regression import LatencyRegressor
from ofa_tvm.progress import SILENT, Progress
from ofa_tvm.search.budget import Budget
from ofa_tvm.search.constraints import Function
from ofa_tvm.search.evolution import RowKeys, SearchResult, search
from ofa_tvm.spaces import Arch
from ofa_tvm.spaces.space import Space

Measure = Callable[[Sequence[Arch]], tuple[np.ndarray, np.ndarray]]
"""Architectures -> their latencies and noise margins, both (n,) in the budget's unit."""

CheckAccuracy = Callable[[Sequence[Arch]], tuple[np.ndarray, Function]]
"""Architectures -> their measured accuracies (n,), and an accuracy function that knows all measured ones."""


@dataclass(frozen=True)
class Checked:
    """One candidate: what was predicted and what was measured.

    Attributes
    ----------
    arch : Arch
    accuracy : float
        As predicted; where accuracies are measured, by the function that knows them. A measured accuracy has
        noise of its own, so this is what subnets are ranked by.
    predicted, measured, noise : float
        Latencies and noise margin in the budget's unit; `predicted` before this measurement was known.
    round : int
        From 1; 0 for subnets that were measured before the search.
    within : bool
        Whether measured + noise is within the budget.
    measured_accuracy : float or None
        If it was measured.
    """

    arch: Arch
    accuracy: float
    predicted: float
    measured: float
    noise: float
    round: int
    within: bool
    measured_accuracy: float | None = None


@dataclass(frozen=True)
class VerifiedResult:
    """The subnet to ship, and how it was found.

    Attributes
    ----------
    ranked : tuple of Checked
        Everything measured within the budget, the most accurate first.
    record : tuple of Checked
        Every candidate that was measured for this search, in order.
    rounds : int
    searches : tuple of SearchResult
        One a round.
    latency : callable
        The latency model after the last correction.
    """

    ranked: tuple[Checked, ...]
    record: tuple[Checked, ...]
    rounds: int
    searches: tuple[SearchResult, ...]
    latency: Function

    @property
    def winner(self) -> Checked:
        """The most accurate one within the budget."""
        return self.ranked[0]


class _Corrected:
    """A latency model that knows what was measured: those subnets cost their measured latency plus noise."""

    def __init__(self, space: Space, model: Function, checked: Sequence[Checked], unit: str) -> None:
        self.unit = unit
        self._model = model
        self._keys_of = RowKeys(space)
        keys = self._keys_of(space.encode([c.arch for c in checked]))
        costs = np.array([c.measured + c.noise for c in checked])
        self._keys, first = np.unique(keys, return_index=True)
        self._costs = costs[first]

    def __call__(self, genes: np.ndarray) -> np.ndarray:
        values = self._model(genes)
        if len(self._keys):
            keys = self._keys_of(genes)
            at = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
            values = np.where(self._keys[at] == keys, self._costs[at], values)
        return values


def search_verified(
    space: Space,
    accuracy: Function,
    latency: Function,
    budget: Budget | float,
    measure: Measure,
    *,
    check_accuracy: CheckAccuracy | None = None,
    candidates: int = 5,
    rounds: int = 3,
    known: Sequence[Checked] = (),
    seed: int = 0,
    progress: Progress = SILENT,
    **search_options: Any,
) -> VerifiedResult:
    """Find the most accurate subnet whose measured latency, noise margin included, is within the budget.

    Each round searches, measures the best candidates that are not measured yet, and fits the latency model's
    error on everything measured in this call. With `check_accuracy` it also measures the accuracy of those
    within the budget and goes on with the accuracy function that knows them; nothing wins whose accuracy was
    not measured. It ends when no unmeasured subnet promises more than the best one that was measured within
    the budget, or after `rounds`.

    Parameters
    ----------
    space, accuracy, latency, budget, seed : as for `search`
    measure : callable
        Architectures -> (latencies, noise margins), both (n,) in the budget's unit.
    check_accuracy : callable, optional
        Architectures -> their measured accuracies (n,), and an accuracy function that knows all measured
        ones. Without it, predictions decide.
    candidates : int
        Measured in each round.
    rounds : int
    known : sequence of Checked
        Subnets measured earlier (see `known_subnets`); they can win as well.
    search_options
        `resolutions`, `settings`, `constraints` of `search`.

    Raises
    ------
    UsageError
        If the model says that the budget cannot be reached.
    UserError
        If nothing that was measured is within the budget; says what came closest.
    """
    unit = getattr(latency, "unit", "ms")
    limit = budget if isinstance(budget, Budget) else Budget(float(budget), unit)
    pool = _Pool(space, accuracy, check_accuracy, list(known))
    pool.check_leader()
    searches: list[SearchResult] = []
    model: Function = latency
    done = 0
    for round_number in range(1, rounds + 1):
        target = limit
        if record := pool.record:
            # What is proposed has to leave room for the noise margin that its measurement will carry.
            margin = float(np.median([c.noise for c in record]))
            target = Budget(max(limit.value - margin, 0.5 * limit.value), limit.unit)
        measured = {c.arch for c in pool.entries}
        # Subnets measured at random are rarely among the best; those of earlier rounds are.
        k = candidates + len(record) + min(len(known), 20)
        costs = _Corrected(space, model, pool.entries, unit)
        try:
            found = search(
                space,
                pool.accuracy,
                costs,
                target,
                k=k,
                seed=seed + round_number - 1,
                progress=progress,
                **search_options,
            )
        except UsageError:
            if round_number == 1:
                raise
            break  # corrected by measurements, the model sees no way left
        searches.append(found)
        best = pool.leader
        new = [
            (arch, float(acc))
            for arch, acc in zip(found.archs, found.accuracy, strict=True)
            if arch not in measured and (best is None or acc > best.accuracy)
        ][:candidates]
        if not new:
            break
        done = round_number
        archs = [arch for arch, _ in new]
        genes = space.encode(archs)
        predicted = model(genes)
        values, noise = (np.asarray(v, dtype=np.float64) for v in measure(archs))
        if values.shape != (len(archs),) or noise.shape != values.shape:
            raise ValueError(
                f"measure returned arrays of shape {values.shape} and {noise.shape} "
                f"for {len(archs)} architectures"
            )
        added = [
            Checked(arch, acc, float(p), float(v), float(s), round_number, bool(v + s <= limit.value))
            for (arch, acc), p, v, s in zip(new, predicted, values, noise, strict=True)
        ]
        pool.entries += added
        pool.check([c.arch for c in added if c.within])
        pool.check_leader()
        model = _correct(space, latency, pool.record, unit)
    ranked = pool.ranked
    if not ranked:
        closest = min(pool.entries, key=lambda c: c.measured + c.noise)
        raise UserError(
            f"no subnet with a measured latency within {limit} was found in {done} rounds "
            f"({len(pool.record)} measured); the closest took {closest.measured:.4g} {unit} (noise "
            f"{closest.noise:.2g}); raise the budget or measure more subnets"
        )
    return VerifiedResult(tuple(ranked), tuple(pool.record), done, tuple(searches), model)


class _Pool:
    """All measured subnets, with accuracies by the latest accuracy function."""

    def __init__(
        self, space: Space, accuracy: Function, check: CheckAccuracy | None, entries: list[Checked]
    ) -> None:
        self.accuracy = accuracy
        self.entries = entries
        self._space, self._check = space, check

    @property
    def record(self) -> list[Checked]:
        """Those measured in this call, in order."""
        return [c for c in self.entries if c.round > 0]

    @property
    def ranked(self) -> list[Checked]:
        """Those within the budget, the most accurate first; of equals, what this call measured."""
        return sorted((c for c in self.entries if c.within), key=lambda c: (-c.accuracy, -c.round))

    @property
    def leader(self) -> Checked | None:
        return next(iter(self.ranked), None)

    def check(self, archs: Sequence[Arch]) -> None:
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

    def check_leader(self) -> None:
        """Measure the accuracy of whatever leads, until a measured one does."""
        while self._check and (leader := self.leader) and leader.measured_accuracy is None:
            self.check([leader.arch])


def known_subnets(
    archs: Sequence[Arch],
    accuracy: np.ndarray,
    predicted: np.ndarray,
    measured: np.ndarray,
    noise: np.ndarray,
    budget: Budget | float,
) -> list[Checked]:
    """Subnets that were measured before the search, for `search_verified`'s `known`."""
    limit = budget.value if isinstance(budget, Budget) else float(budget)
    return [
        Checked(arch, float(acc), float(p), float(v), float(s), 0, bool(v + s <= limit))
        for arch, acc, p, v, s in zip(archs, accuracy, predicted, measured, noise, strict=True)
    ]


def _correct(space: Space, latency: Function, record: Sequence[Checked], unit: str) -> LatencyRegressor:
    """The model's error is fitted on this call's measurements alone: they are what the promise is about."""
    prior = latency
    if isinstance(latency, LatencyRegressor):
        prior = latency.collapsed
    model = LatencyRegressor(space, prior, unit=unit, n_classes=getattr(latency, "n_classes", 1000))
    return model.fit([c.arch for c in record], np.array([c.measured for c in record]))
