"""A budget as a promise: measure the search's best candidates, correct the model, search again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ofa_tvm.errors import UsageError, UserError
from ofa_tvm.estimators.contract import Function
from ofa_tvm.latency.regression import LatencyRegressor
from ofa_tvm.progress import SILENT, Progress
from ofa_tvm.search.budget import Budget
from ofa_tvm.search.evolution import RowKeys, latency_limit, search
from ofa_tvm.spaces import Arch
from ofa_tvm.spaces.space import Space

Measure = Callable[[Sequence[Arch]], tuple[np.ndarray, np.ndarray]]
"""Architectures -> their latencies and noise margins, both (n,) in the budget's unit."""

CheckAccuracy = Callable[[Sequence[Arch]], tuple[np.ndarray, Function]]
"""Architectures -> their measured accuracies (n,), and an accuracy function that knows all measured ones."""


@dataclass(frozen=True)
class Promise:
    """A budget to keep on one target.

    Attributes
    ----------
    name : str
        The target's, for messages.
    latency : callable
        Genes (n, n_genes) -> (n,) predictions in the budget's unit.
    budget : Budget
    measure : callable
    """

    name: str
    latency: Function
    budget: Budget
    measure: Measure


@dataclass(frozen=True)
class Cost:
    """A subnet's predicted and measured latency and noise margin on one target, in its budget's unit."""

    predicted: float
    measured: float
    noise: float


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
        Whether measured + noise is within the budget, on every target.
    measured_accuracy : float or None
        If it was measured.
    others : tuple of Cost
        On the further targets, if the search is for several.
    """

    arch: Arch
    accuracy: float
    predicted: float
    measured: float
    noise: float
    round: int
    within: bool
    measured_accuracy: float | None = None
    others: tuple[Cost, ...] = ()

    @property
    def costs(self) -> tuple[Cost, ...]:
        """On all targets."""
        return (Cost(self.predicted, self.measured, self.noise), *self.others)

    def on(self, target: int) -> Checked:
        """The same as a candidate of one of the targets alone; `within` still speaks of all."""
        cost = self.costs[target]
        return replace(self, predicted=cost.predicted, measured=cost.measured, noise=cost.noise, others=())


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
    latencies : tuple of callable
        Each target's latency model after the last correction.
    """

    ranked: tuple[Checked, ...]
    record: tuple[Checked, ...]
    rounds: int
    latencies: tuple[Function, ...]

    @property
    def winner(self) -> Checked:
        """The most accurate one within the budget."""
        return self.ranked[0]

    def on(self, target: int) -> VerifiedResult:
        """What was found, with the costs on one of the targets (by its number)."""
        return replace(
            self,
            ranked=tuple(c.on(target) for c in self.ranked),
            record=tuple(c.on(target) for c in self.record),
            latencies=(self.latencies[target],),
        )


class _Corrected:
    """A latency model that knows what was measured: those subnets cost their measured latency plus noise."""

    def __init__(
        self, space: Space, model: Function, archs: Sequence[Arch], costs: Sequence[Cost], unit: str
    ) -> None:
        self.unit = unit
        self._model = model
        self._keys_of = RowKeys(space)
        self._keys, first = np.unique(self._keys_of(space.encode(archs)), return_index=True)
        self._costs = np.array([c.measured + c.noise for c in costs])[first]

    def __call__(self, genes: np.ndarray) -> np.ndarray:
        values = self._model(genes)
        if len(self._keys):
            keys = self._keys_of(genes)
            at = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
            values = np.where(self._keys[at] == keys, self._costs[at], values)
        return values


class _Target:
    """One promise and what measuring has taught of its latency model."""

    def __init__(self, space: Space, promise: Promise, number: int) -> None:
        self.promise, self.model = promise, promise.latency
        self._space, self._number = space, number

    def proposed_within(self, record: Sequence[Checked]) -> Budget:
        """What is proposed has to leave room for the noise margin that its measurement will carry."""
        budget = self.promise.budget
        if not record:
            return budget
        margin = float(np.median([c.costs[self._number].noise for c in record]))
        return Budget(max(budget.value - margin, 0.5 * budget.value), budget.unit)

    def costs(self, entries: Sequence[Checked]) -> Function:
        """The model, with what it costs to run the measured subnets."""
        archs, costs = [c.arch for c in entries], [c.costs[self._number] for c in entries]
        return _Corrected(self._space, self.model, archs, costs, self.promise.budget.unit)

    def measure(self, archs: Sequence[Arch]) -> list[Cost]:
        predicted = self.model(self._space.encode(archs))
        values, noise = (np.asarray(v, dtype=np.float64) for v in self.promise.measure(archs))
        if values.shape != (len(archs),) or noise.shape != values.shape:
            raise ValueError(
                f"measure returned arrays of shape {values.shape} and {noise.shape} "
                f"for {len(archs)} architectures"
            )
        return [Cost(*map(float, row)) for row in zip(predicted, values, noise, strict=True)]

    def correct(self, record: Sequence[Checked]) -> None:
        """The model's error is fitted on this call's measurements alone: the promise is about them."""
        latency = prior = self.promise.latency
        if isinstance(latency, LatencyRegressor):
            prior = latency.collapsed
        classes, unit = getattr(latency, "n_classes", 1000), self.promise.budget.unit
        model = LatencyRegressor(self._space, prior, unit=unit, n_classes=classes)
        costs = np.array([c.costs[self._number].measured for c in record])
        self.model = model.fit([c.arch for c in record], costs)


def search_verified(
    space: Space,
    accuracy: Function,
    latency: Function,
    budget: Budget | float,
    measure: Measure,
    *,
    others: Sequence[Promise] = (),
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
    others : sequence of Promise
        Budgets on further targets, which the subnet keeps as well; each has its own measurements.
    check_accuracy : callable, optional
        Architectures -> their measured accuracies (n,), and an accuracy function that knows all measured
        ones. Without it, predictions decide.
    candidates : int
        Measured in each round.
    rounds : int
    known : sequence of Checked
        Subnets measured earlier (see `candidate`); they can win as well.
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
    promises = [Promise("the target", latency, limit, measure), *others]
    targets = [_Target(space, promise, i) for i, promise in enumerate(promises)]
    further_limits = tuple(search_options.pop("constraints", ()))
    pool = _Pool(space, accuracy, check_accuracy, list(known))
    pool.check_leader()
    done = 0
    for round_number in range(1, rounds + 1):
        record = pool.record
        measured = {c.arch for c in pool.entries}
        # Subnets measured at random are rarely among the best; those of earlier rounds are.
        k = candidates + len(record) + min(len(known), 20)
        first, *rest = ((target.costs(pool.entries), target.proposed_within(record)) for target in targets)
        limits = [
            latency_limit(*pair, f"latency on {promise.name}")
            for pair, promise in zip(rest, others, strict=True)
        ]
        try:
            found = search(
                space,
                pool.accuracy,
                *first,
                k=k,
                seed=seed + round_number - 1,
                constraints=(*limits, *further_limits),
                progress=progress,
                **search_options,
            )
        except UsageError:
            if round_number == 1:
                raise
            break  # corrected by measurements, the model sees no way left
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
        costs = zip(*(target.measure(archs) for target in targets), strict=True)
        added = [
            candidate(arch, acc, each, [p.budget.value for p in promises], round_number)
            for (arch, acc), each in zip(new, costs, strict=True)
        ]
        pool.entries += added
        pool.check([c.arch for c in added if c.within])
        pool.check_leader()
        for target in targets:
            target.correct(pool.record)
    ranked = pool.ranked
    if not ranked:
        raise _nothing_within(promises, pool, done)
    latencies = tuple(target.model for target in targets)
    return VerifiedResult(tuple(ranked), tuple(pool.record), done, latencies)


def candidate(
    arch: Arch, accuracy: float, costs: Sequence[Cost], limits: Sequence[float], round_number: int
) -> Checked:
    """A candidate from its costs and the limits on every target."""
    within = all(cost.measured + cost.noise <= limit for cost, limit in zip(costs, limits, strict=True))
    first, *others = costs
    return Checked(
        arch,
        accuracy,
        first.predicted,
        first.measured,
        first.noise,
        round_number,
        within,
        others=tuple(others),
    )


def _nothing_within(promises: Sequence[Promise], pool: _Pool, rounds: int) -> UserError:
    def excess(c: Checked) -> float:
        return max(
            (cost.measured + cost.noise) / promise.budget.value
            for cost, promise in zip(c.costs, promises, strict=True)
        )

    closest = min(pool.entries, key=excess)
    several = len(promises) > 1
    wanted = " and ".join(f"{p.budget}" + f" on {p.name}" * several for p in promises)
    took = " and ".join(
        f"{cost.measured:.4g} {p.budget.unit} (noise {cost.noise:.2g})" + f" on {p.name}" * several
        for cost, p in zip(closest.costs, promises, strict=True)
    )
    return UserError(
        f"no subnet with a measured latency within {wanted} was found in {rounds} rounds "
        f"({len(pool.record)} measured); the closest took {took}; raise the budget or measure more subnets"
    )


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
