"""NSGA-II (Deb et al., IEEE TEC 6(2), 2002): the subnets that nothing beats in every objective at once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits

from ofa_tvm.errors import UsageError
from ofa_tvm.progress import SILENT, Progress
from ofa_tvm.search.constraints import Constraint, Limits, repair, require_reachable
from ofa_tvm.search.distinct import RowKeys
from ofa_tvm.search.evolution import Evolution, require_resolutions
from ofa_tvm.search.objectives import Objective
from ofa_tvm.spaces import Arch
from ofa_tvm.spaces.space import Space


@dataclass(frozen=True)
class ParetoFront:
    """Subnets of which none is beaten in all objectives, by the first objective ascending.

    Attributes
    ----------
    objectives : tuple of Objective
    archs : tuple of Arch
    genes : (n, n_genes) array
    values : (n, n_objectives) array
        In the objectives' units.
    evaluations : int
    seconds : float
    """

    objectives: tuple[Objective, ...]
    archs: tuple[Arch, ...]
    genes: np.ndarray
    values: np.ndarray
    evaluations: int
    seconds: float


def non_dominated_rank(costs: np.ndarray) -> np.ndarray:
    """Front of each row of (n, m) costs to be minimised, 0 for what nothing beats; (n,)."""
    import moocore

    return np.asarray(moocore.pareto_rank(np.ascontiguousarray(costs)))


def crowding_distance(costs: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """How far each row's neighbours in its front lie apart, summed over objectives; ends are infinite."""
    distance = np.zeros(len(costs))
    for front in range(int(rank.max(initial=-1)) + 1):
        members = np.flatnonzero(rank == front)
        for column in costs[members].T:
            order = np.argsort(column, kind="stable")
            ordered = column[order]
            span = float(ordered[-1] - ordered[0])
            distance[members[order[[0, -1]]]] = np.inf
            if span > 0:
                distance[members[order[1:-1]]] += (ordered[2:] - ordered[:-2]) / span
    return distance


def pareto_search(
    space: Space,
    objectives: Sequence[Objective],
    *,
    constraints: Sequence[Constraint] = (),
    seed: int = 0,
    resolutions: Sequence[int] | None = None,
    settings: Evolution | None = None,
    progress: Progress = SILENT,
) -> ParetoFront:
    """The trade-off between two or more objectives.

    Parameters
    ----------
    space : Space
    objectives : sequence of Objective
        See `make_objectives`.
    constraints : sequence of Constraint
        Hard limits, kept by repair.
    seed : int
        The same seed gives the same front in every process.
    resolutions : sequence of int, optional
        Input sides to choose from; default those of the space.
    settings : Evolution, optional
        Population, generations and mutation; parents are chosen by tournaments, so `parent_ratio` plays no
        part.

    Raises
    ------
    UsageError
        If there are fewer than two objectives, or the constraints cannot be met (says what can be).
    """
    start = time.perf_counter()
    if len(objectives) < 2:
        raise UsageError("a Pareto search needs at least two objectives")
    chosen = require_resolutions(space, resolutions)
    settings = settings or Evolution()
    limits = Limits(tuple(constraints))
    signs = np.array([-1.0 if o.maximise else 1.0 for o in objectives])

    def costs_of(genes: np.ndarray) -> np.ndarray:
        return signs * np.column_stack([o.values(genes) for o in objectives])

    with threadpool_limits(limits=1, user_api="blas"):
        rng = np.random.default_rng(seed)
        n = settings.population
        keys_of = RowKeys(space)
        genes = _first(space, n, chosen, rng)
        evaluations = len(genes) + n * settings.generations
        if constraints:
            floor = require_reachable(space, limits, chosen)
            genes, _ = repair(genes, np.broadcast_to(floor, genes.shape), limits, rng)
        genes, costs, keys, rank, crowding = _select(genes, costs_of(genes), keys_of(genes), n)
        with progress.task("Pareto search", settings.generations) as task:
            for _ in range(settings.generations):
                first, second = _parents(genes, np.lexsort((-crowding, rank)), n, rng)
                children = _children(space, first, second, settings, chosen, rng)
                if constraints:
                    children, _ = repair(children, first, limits, rng)
                genes, costs, keys, rank, crowding = _select(
                    np.concatenate([genes, children]),
                    np.concatenate([costs, costs_of(children)]),
                    np.concatenate([keys, keys_of(children)]),
                    n,
                )
                task.advance()
    best = np.flatnonzero(rank == 0)
    best = best[np.argsort(costs[best, 0] * signs[0], kind="stable")]
    return ParetoFront(
        tuple(objectives),
        tuple(space.decode(genes[best])),
        genes[best],
        signs * costs[best],
        evaluations,
        time.perf_counter() - start,
    )


def _first(space: Space, n: int, resolutions: Sequence[int], rng: np.random.Generator) -> np.ndarray:
    """`n` random subnets, and the ends of the space: those of most fronts, and far from random subnets."""
    ends = space.encode([end for r in resolutions for end in (space.min_arch(r), space.max_arch(r))])
    return np.concatenate([ends, space.sample_genes(rng, n, resolutions)])


def _parents(
    genes: np.ndarray, order: np.ndarray, n: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """`n` pairs; each parent is the better of two that are drawn, by their `order`."""
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    drawn = rng.integers(len(genes), size=(2 * n, 2))
    won = np.where(place[drawn[:, 0]] <= place[drawn[:, 1]], drawn[:, 0], drawn[:, 1])
    return genes[won[:n]], genes[won[n:]]


def _children(
    space: Space,
    first: np.ndarray,
    second: np.ndarray,
    settings: Evolution,
    resolutions: Sequence[int],
    rng: np.random.Generator,
) -> np.ndarray:
    """One a pair: mutants of the first parents, then crossings of both."""
    n_mutants = round(len(first) * settings.mutation_ratio)
    crossed = space.crossover(first[n_mutants:], second[n_mutants:], rng)
    mutants = space.mutate(first[:n_mutants], rng, settings.mutation_probability, resolutions)
    return np.concatenate([mutants, crossed])


def _select(
    genes: np.ndarray, costs: np.ndarray, keys: np.ndarray, n: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The `n` best distinct subnets by rank, then by crowding; with both."""
    _, distinct = np.unique(keys, return_index=True)
    distinct = distinct[np.isfinite(costs[distinct]).all(axis=1)]
    rank = non_dominated_rank(costs[distinct])
    crowding = crowding_distance(costs[distinct], rank)
    best = np.lexsort((-crowding, rank))[:n]
    at = distinct[best]
    return genes[at], costs[at], keys[at], rank[best], crowding[best]
