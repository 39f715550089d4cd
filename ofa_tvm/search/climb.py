"""Local search around what evolution found: climbs over changes of one and two genes, from many starts.

Iterated local search (Lourenço, Martin and Stützle, 2003). Evolution ends where no change of two genes helps,
at one of many such places that differ by some hundredths of a point; better ones are found by shaking the
best of each resolution, repairing what breaks a limit, and climbing again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ofa_tvm.estimators.contract import Function
from ofa_tvm.progress import SILENT, Progress
from ofa_tvm.search.constraints import Limits, cheapest, repair
from ofa_tvm.spaces.space import Space

_TRIED = 32  # pairs that are scored in one step, the most promising by what each change does alone
_SLACK = 0.002  # costs of pairs are estimated; those that may just keep the limits are looked at
_LEAST_PROMISE = -0.0005
_SHAKEN = 0.2  # genes redrawn, on average
_FIRST = 8  # random subnets of each resolution, the best of which is climbed from
_LEADER = 0.65  # share of the climbs that start from the best resolution; the next has as much of the rest
_EPSILON = 1e-7
_MOST_MOVES = 256


@dataclass
class _Place:
    """The best subnet of a resolution, and one within the limits that it is repaired with."""

    genes: np.ndarray
    score: float
    floor: np.ndarray


@dataclass(frozen=True)
class _Moves:
    """Every change of one gene of a subnet: columns and choices (m,), and what it does alone, estimated."""

    columns: np.ndarray
    choices: np.ndarray
    gains: np.ndarray
    costs: np.ndarray
    pairs: tuple[np.ndarray, np.ndarray]

    def applied(self, genes: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """Subnets (n, n_genes) that moves (single ones first, then pairs) make of one."""
        m, (i, j) = len(self.columns), self.pairs
        single = numbers < m
        first = np.where(single, numbers, i[np.maximum(numbers - m, 0)])
        second = np.where(single, numbers, j[np.maximum(numbers - m, 0)])
        rows, at = np.repeat(genes[None], len(numbers), axis=0), np.arange(len(numbers))
        for move in (first, second):
            rows[at, self.columns[move]] = self.choices[move]
        return rows


class Climber:
    """Climbs within limits.

    Attributes
    ----------
    evaluations : int
        Subnets that were scored.
    seen : list of (genes, scores)
        The last step of each climb: the best subnets and their neighbours.
    """

    def __init__(self, space: Space, score: Function, limits: Limits, resolutions: Sequence[int]) -> None:
        self._space, self._score, self._limits = space, score, limits
        allowed = [np.arange(n) for n in space.cardinalities]
        allowed[-1] = np.array([space.resolutions.index(r) for r in sorted(resolutions)])
        self._columns = np.repeat(np.arange(len(allowed)), [len(choices) for choices in allowed])
        self._choices = np.concatenate(allowed)
        depths = np.arange(len(allowed))[space.columns("d")]
        self._is_depth = np.isin(self._columns, depths)
        self.evaluations = 0
        self.seen: list[tuple[np.ndarray, np.ndarray]] = []

    def scores(self, genes: np.ndarray) -> np.ndarray:
        """Of (n, n_genes) -> (n,)."""
        self.evaluations += len(genes)
        return self._score(genes)

    def climb(self, genes: np.ndarray, score: float) -> tuple[np.ndarray, float]:
        """Move to the best of the promising changes of one or two genes until none is better.

        What a change does alone is measured once and taken to stay so for a few steps, and to add up.
        """
        effects, fresh = self._effects(genes, score), True
        while True:
            moves = self._moves(genes, *effects)
            i, j = moves.pairs
            gains = np.concatenate([moves.gains, moves.gains[i] + moves.gains[j]])
            costs = np.concatenate([moves.costs, moves.costs[i] + moves.costs[j]])
            slack = 1.0 - float(self._limits(genes[None])[0]) + _SLACK
            promising = np.flatnonzero((costs <= slack) & (gains > _LEAST_PROMISE))
            chosen = promising[np.argsort(-gains[promising], kind="stable")[:_TRIED]]
            better = self._best(moves.applied(genes, chosen), score)
            if better is not None:
                (genes, score), fresh = better, False
            elif fresh:
                return genes, score
            else:
                effects, fresh = self._effects(genes, score), True

    def exhaust(self, genes: np.ndarray, score: float) -> tuple[np.ndarray, float]:
        """Climb until none of all changes of one or two genes is better."""
        while True:
            genes, score = self.climb(genes, score)
            moves = self._moves(genes, *self._nothing())
            every = np.arange(len(moves.columns) + len(moves.pairs[0]))
            better = self._best(moves.applied(genes, every), score)
            if better is None:
                return genes, score
            genes, score = better

    def _best(self, rows: np.ndarray, score: float) -> tuple[np.ndarray, float] | None:
        """The best of some subnets within the limits, if it is better than a score."""
        rows = rows[self._limits(rows) <= 1.0]
        if not len(rows):
            return None
        found = self.scores(rows)
        best = int(found.argmax())
        if found[best] > score + _EPSILON:
            return rows[best], float(found[best])
        kept = np.argsort(-found)[:_TRIED]
        self.seen.append((rows[kept], found[kept]))
        return None

    def _nothing(self) -> tuple[np.ndarray, np.ndarray]:
        shape = len(self._space.cardinalities), int(self._space.cardinalities.max())
        return np.zeros(shape), np.zeros(shape)

    def _effects(self, genes: np.ndarray, score: float) -> tuple[np.ndarray, np.ndarray]:
        """Gain and cost of every choice of every gene, the others left as they are: two
        (n_genes, n_choices)."""
        gains, costs = self._nothing()
        counts = self._space.active(genes[None])[0][self._columns] & (self._choices != genes[self._columns])
        columns, choices = self._columns[counts], self._choices[counts]
        rows = np.repeat(genes[None], len(columns), axis=0)
        rows[np.arange(len(columns)), columns] = choices
        gains[columns, choices] = self.scores(rows) - score
        costs[columns, choices] = self._limits(rows) - self._limits(genes[None])[0]
        return gains, costs

    def _moves(self, genes: np.ndarray, gains: np.ndarray, costs: np.ndarray) -> _Moves:
        """Changes from a subnet; two genes of blocks that are off count only with a depth."""
        other = np.flatnonzero(self._choices != genes[self._columns])
        columns, choices = self._columns[other], self._choices[other]
        gain = gains[columns, choices] - gains[columns, genes[columns]]
        cost = costs[columns, choices] - costs[columns, genes[columns]]
        counts, depth = self._space.active(genes[None])[0][columns], self._is_depth[other]
        if len(columns) > _MOST_MOVES:
            kept = np.sort(np.argsort(-gain, kind="stable")[:_MOST_MOVES])
            columns, choices, gain, cost = columns[kept], choices[kept], gain[kept], cost[kept]
            counts, depth = counts[kept], depth[kept]
        i, j = np.triu_indices(len(columns), 1)
        useful = (columns[i] != columns[j]) & ((counts[i] & counts[j]) | depth[i] | depth[j])
        return _Moves(columns, choices, gain, cost, (i[useful], j[useful]))


def refine(
    space: Space,
    score: Function,
    limits: Limits,
    found: tuple[np.ndarray, np.ndarray],
    *,
    evaluations: int,
    seed: int,
    resolutions: Sequence[int],
    progress: Progress = SILENT,
) -> tuple[np.ndarray, np.ndarray, int]:
    """Search locally around the best of each resolution.

    Parameters
    ----------
    found : genes (n, n_genes) and scores (n,)
        What evolution found, the best first.
    evaluations : int
        Subnets to score, about.

    Returns
    -------
    genes : (m, n_genes) array
        What was found, in no order, without what was given.
    scores : (m,) array
    evaluations : int
    """
    rng, climber = np.random.default_rng((seed, 1)), Climber(space, score, limits, resolutions)
    places = _places(space, climber, limits, found, resolutions, rng)
    with progress.task("climb", evaluations) as task:
        while (before := climber.evaluations) < evaluations and places:
            places.sort(key=lambda place: -place.score)
            place = places[min(int(rng.geometric(_LEADER)) - 1, len(places) - 1)]
            shaken = min(0.6, _SHAKEN * float(np.exp(0.5 * rng.standard_normal())))
            child = space.mutate(place.genes[None], rng, shaken, [space.resolutions[place.genes[-1]]])
            child, _ = repair(child, place.floor[None], limits, rng)
            genes, value = climber.climb(child[0], float(climber.scores(child)[0]))
            if value > place.score:
                place.genes, place.score = genes, value
            task.advance(climber.evaluations - before)
    for place in sorted(places, key=lambda place: -place.score)[:1]:
        place.genes, place.score = climber.exhaust(place.genes, place.score)
    genes = np.concatenate([np.array([place.genes for place in places]), *(g for g, _ in climber.seen)])
    values = np.concatenate([np.array([place.score for place in places]), *(v for _, v in climber.seen)])
    return genes, values, climber.evaluations


def _places(
    space: Space,
    climber: Climber,
    limits: Limits,
    found: tuple[np.ndarray, np.ndarray],
    resolutions: Sequence[int],
    rng: np.random.Generator,
) -> list[_Place]:
    """A first place of each resolution that has subnets within the limits."""
    places = []
    for r in resolutions:
        floor, ratio = cheapest(space, limits, [r])
        if ratio > 1.0:
            continue
        sample, _ = repair(space.sample_genes(rng, _FIRST, [r]), np.tile(floor, (_FIRST, 1)), limits, rng)
        values = climber.scores(sample)
        best = int(values.argmax())
        place = _Place(*climber.climb(sample[best], float(values[best])), floor)
        own = np.flatnonzero(found[0][:, -1] == floor[-1])
        if len(own) and found[1][own[0]] > place.score:
            place.genes, place.score = climber.climb(found[0][own[0]], float(found[1][own[0]]))
        places.append(place)
    return places
