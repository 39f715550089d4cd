"""A budget that is kept: measure the search's best candidates, correct the cost models, search again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import compress

import numpy as np

from ofa_tvm.errors import UsageError, UserError, counted
from ofa_tvm.estimators.contract import Correct, CostModel, Function
from ofa_tvm.progress import NEVER, SILENT, Deadline, Progress
from ofa_tvm.search.budget import Budget, budget_above
from ofa_tvm.search.candidates import Candidate, CheckAccuracy, Cost, Pool, VerifiedResult
from ofa_tvm.search.constraints import Constraint, Limits, latency_limit
from ofa_tvm.search.distinct import RowKeys
from ofa_tvm.search.evolution import Evolution, search_within
from ofa_tvm.spaces import Arch
from ofa_tvm.spaces.space import Space

Measure = Callable[[Sequence[Arch]], tuple[np.ndarray, np.ndarray]]
"""Architectures -> their costs and noise margins, both (n,) in the budget's unit."""


@dataclass(frozen=True)
class MeasuredLimit:
    """A budget on one target, and what tells costs there.

    Attributes
    ----------
    name : str
        The target's, for messages.
    model : CostModel
        Proposes; in the budget's unit.
    budget : Budget
    measure : callable
        Decides.
    """

    name: str
    model: CostModel
    budget: Budget
    measure: Measure


class _KnownCosts:
    """A cost model that knows what was measured: those subnets cost that, noise margin included."""

    def __init__(self, space: Space, model: Function, archs: Sequence[Arch], costs: Sequence[Cost]) -> None:
        self._model = model
        self._keys_of = RowKeys(space)
        self._keys, first = np.unique(self._keys_of(space.encode(archs)), return_index=True)
        self._costs = np.array([cost.upper for cost in costs])[first]

    def __call__(self, genes: np.ndarray) -> np.ndarray:
        values = self._model(genes)
        if len(self._keys):
            keys = self._keys_of(genes)
            at = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
            values = np.where(self._keys[at] == keys, self._costs[at], values)
        return values


class _Target:
    """One limit and what measuring has taught of its cost model."""

    def __init__(self, space: Space, limit: MeasuredLimit, number: int, label: str) -> None:
        self.limit, self.model = limit, limit.model
        self._space, self._number, self._label = space, number, label
        latency_limit(limit.model, limit.budget, label)  # refuses a budget in another unit

    @classmethod
    def each(cls, space: Space, limits: Sequence[MeasuredLimit]) -> list[_Target]:
        several = len(limits) > 1
        return [
            cls(space, limit, i, f"latency on {limit.name}" if several else "latency")
            for i, limit in enumerate(limits)
        ]

    def constraint(self, pool: Pool) -> Constraint:
        """What may be proposed: the model, with what it costs to run the measured subnets."""
        archs, costs = [c.arch for c in pool.entries], [c.costs[self._number] for c in pool.entries]
        known = _KnownCosts(self._space, self.model, archs, costs)
        return Constraint(self._label, known, self._proposed_within(pool.record), self.limit.budget.unit)

    def _proposed_within(self, record: Sequence[Candidate]) -> float:
        """What is proposed has to leave room for the noise margin that its measurement will carry."""
        budget = self.limit.budget.value
        if not record:
            return budget
        margin = float(np.median([c.costs[self._number].noise for c in record]))
        return max(budget - margin, 0.5 * budget)

    def measure(self, archs: Sequence[Arch]) -> list[Cost]:
        predicted = self.model(self._space.encode(archs))
        values, noise = (np.asarray(v, dtype=np.float64) for v in self.limit.measure(archs))
        if values.shape != (len(archs),) or noise.shape != values.shape:
            raise ValueError(
                f"measure returned arrays of shape {values.shape} and {noise.shape} "
                f"for {len(archs)} architectures"
            )
        return [Cost(*map(float, row)) for row in zip(predicted, values, noise, strict=True)]

    def learn(self, record: Sequence[Candidate], correct: Correct) -> None:
        """From this call's measurements alone: the promise is about them."""
        costs = np.array([c.costs[self._number].measured for c in record])
        self.model = correct(self.limit.model, [c.arch for c in record], costs)


def _measured(new: Sequence[tuple[Arch, float]], targets: Sequence[_Target], number: int) -> list[Candidate]:
    """Subnets with their predicted accuracies, measured on every target in a round."""
    budgets = [target.limit.budget.value for target in targets]
    costs = zip(*(target.measure([arch for arch, _ in new]) for target in targets), strict=True)
    return [Candidate.of(*one, each, budgets, number) for one, each in zip(new, costs, strict=True)]


def search_verified(
    space: Space,
    accuracy: Function,
    limits: Sequence[MeasuredLimit],
    *,
    correct: Correct,
    check_accuracy: CheckAccuracy | None = None,
    one_image: float = 0.0,
    candidates: int = 5,
    rounds: int = 3,
    known: Sequence[Candidate] = (),
    constraints: Sequence[Constraint] = (),
    resolutions: Sequence[int] | None = None,
    settings: Evolution | None = None,
    seed: int = 0,
    deadline: Deadline = NEVER,
    progress: Progress = SILENT,
) -> VerifiedResult:
    """Find the most accurate subnet whose measured cost, noise margin included, is within every budget.

    Each round searches, measures the best candidates that are not measured yet, and corrects the cost models
    by everything measured in this call. With `check_accuracy` it also measures the accuracy of those within
    the budgets and goes on with the accuracy function that knows them; nothing wins whose accuracy was not
    measured. It ends when no unmeasured subnet promises more than the best one that was measured within the
    budgets, or after `rounds`.

    Parameters
    ----------
    space, accuracy, constraints, resolutions, settings, seed : as for `search_within`
    limits : sequence of MeasuredLimit
        One for each target, at least one; the subnet keeps all of them.
    correct : callable
        A cost model and measurements -> one that learned from them.
    check_accuracy : callable, optional
        Architectures -> their measured accuracies (n,), and an accuracy function that knows all measured
        ones. Without it, predictions decide.
    one_image : float
        What one image of `check_accuracy` is worth, 0..1; the fastest of subnets that differ by less wins.
    candidates : int
        Measured in each round.
    rounds : int
    known : sequence of Candidate
        Subnets measured earlier; they can win as well.
    deadline : Deadline
        Once it is over no round is begun if there is a subnet that may win.

    Raises
    ------
    UsageError
        If a model says that its budget cannot be reached, or a budget is in another unit.
    UserError
        If nothing that was measured is within the budgets; says what came closest.
    """
    targets = _Target.each(space, limits)
    if constraints and known:
        kept = Limits(tuple(constraints))(space.encode([c.arch for c in known])) <= 1.0
        known = list(compress(known, kept))
    pool = Pool(space, accuracy, check_accuracy, known, one_image)
    done = 0
    for number in range(1, rounds + 1):
        if deadline.is_over and pool.ranked:
            break
        try:
            found = search_within(
                space,
                pool.accuracy,
                [*(target.constraint(pool) for target in targets), *constraints],
                # Subnets measured at random are rarely among the best; those of earlier rounds are.
                k=candidates + len(pool.record) + min(len(known), 20),
                seed=seed + number - 1,
                resolutions=resolutions,
                settings=settings,
                progress=progress,
            )
        except UsageError:
            if number == 1:
                raise
            break  # corrected by measurements, the models see no way left
        new = pool.promising(found.archs, found.accuracy)[:candidates]
        if not new:
            break
        done = number
        pool.add(_measured(new, targets, number))
        for target in targets:
            target.learn(pool.record, correct)
    if not pool.ranked:
        raise _nothing_within(limits, pool, done)
    models = tuple(target.model for target in targets)
    return VerifiedResult(pool, done, models)


def _nothing_within(limits: Sequence[MeasuredLimit], pool: Pool, rounds: int) -> UserError:
    def excess(c: Candidate) -> float:
        return max(cost.upper / limit.budget.value for cost, limit in zip(c.costs, limits, strict=True))

    closest = min(pool.entries, key=excess)
    several = len(limits) > 1
    wanted = " and ".join(f"{limit.budget}" + f" on {limit.name}" * several for limit in limits)
    took = " and ".join(
        f"{cost.measured:.4g} + margin {cost.noise:.2g} {'>' if cost.upper > limit.budget.value else '<='} "
        f"{limit.budget}" + f" on {limit.name}" * several
        for cost, limit in zip(closest.costs, limits, strict=True)
    )
    nearest = " and ".join(
        budget_above(max(cost.upper, limit.budget.value), limit.budget.unit) + f" on {limit.name}" * several
        for cost, limit in zip(closest.costs, limits, strict=True)
    )
    return UserError(
        f"no subnet with a measured latency within {wanted} was found in {counted(rounds, 'round')} "
        f"({len(pool.record)} measured); the closest took {took}; try {nearest}, or measure more subnets"
    )
