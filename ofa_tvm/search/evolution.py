"""The evolutionary search of Once-for-All (Cai et al., ICLR 2020, section 4.3), on whole populations."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from threadpoolctl import threadpool_limits

from ofa_tvm.errors import UsageError
from ofa_tvm.estimators.contract import CostModel, Function
from ofa_tvm.progress import SILENT, Progress
from ofa_tvm.search.budget import Budget
from ofa_tvm.search.climb import refine
from ofa_tvm.search.constraints import Constraint, Limits, latency_limit, repair, require_reachable
from ofa_tvm.search.distinct import Remembered, RowKeys, best_distinct
from ofa_tvm.spaces import Arch
from ofa_tvm.spaces.space import Space


@dataclass(frozen=True)
class Evolution:
    """Settings of an evolution; the defaults are the paper's.

    Attributes
    ----------
    population : int
        Children of each generation; the parents live on beside them.
    generations : int
    climbs : int
        Subnets that are scored by a local search after them, about; 0 for none.
    parent_ratio : float
        Share of the population, the best, that has children.
    mutation_ratio : float
        Share of the children that are mutants of one parent; the others are crossed from two.
    mutation_probability : float
        Of each gene of a mutant, the resolution included.
    """

    population: int = 100
    generations: int = 500
    climbs: int = 0
    parent_ratio: float = 0.25
    mutation_ratio: float = 0.5
    mutation_probability: float = 0.1

    def __post_init__(self) -> None:
        if self.population < 2 or self.generations < 1:
            raise UsageError("a search needs a population of at least 2 and at least 1 generation")
        for name in ("parent_ratio", "mutation_ratio", "mutation_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{name} of the search is {getattr(self, name)}; it must be between 0 and 1")


# Of a search that is not told otherwise: in the time of the paper's 500 generations, local search finds more.
SEARCH = Evolution(generations=100, climbs=55_000)


@dataclass(frozen=True)
class SearchResult:
    """Best subnets found, mutually distinct, the best first.

    Attributes
    ----------
    archs : tuple of Arch
    genes : (k, n_genes) array
    accuracy : (k,) array
        As predicted, in the accuracy function's unit.
    costs : (k, n_limits) array
        As predicted, each in its limit's unit.
    history : (generations + 1,) array
        Best accuracy after each generation; the local search after the last one may have found better.
    evaluations : int
        Subnets that were proposed; in evolution half of them and more have been before and are not predicted
        again.
    seconds : float
    """

    archs: tuple[Arch, ...]
    genes: np.ndarray
    accuracy: np.ndarray
    costs: np.ndarray
    history: np.ndarray = field(repr=False)
    evaluations: int
    seconds: float

    @property
    def latency(self) -> np.ndarray:
        """The first of the costs, (k,): what `search` has a budget for."""
        return self.costs[:, 0]


def choose_parents(resolution: np.ndarray, n_parents: int) -> np.ndarray:
    """Row numbers of the parents among subnets sorted by score, the best first.

    Half of the places go to the best of each resolution in equal shares, the others to the best of all: a
    change of resolution has to be followed by many others before it pays, so without places of its own a
    resolution dies out.
    """
    values, index = np.unique(resolution, return_inverse=True)
    quota = n_parents // (2 * len(values))
    rank_in_niche = np.zeros(len(resolution), dtype=np.int64)
    for niche in range(len(values)):
        members = np.flatnonzero(index == niche)
        rank_in_niche[members] = np.arange(len(members))
    reserved = np.flatnonzero(rank_in_niche < quota)
    others = np.flatnonzero(rank_in_niche >= quota)[: n_parents - len(reserved)]
    return np.sort(np.concatenate([reserved, others]))


def _children(
    space: Space,
    parents: np.ndarray,
    settings: Evolution,
    resolutions: Sequence[int],
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Mutants, then crossings, a population in all; and the (first) parent of each."""
    n = settings.population
    n_mutants = round(n * settings.mutation_ratio)
    first = parents[rng.integers(len(parents), size=n)]
    second = parents[rng.integers(len(parents), size=n - n_mutants)]
    mutants = space.mutate(first[:n_mutants], rng, settings.mutation_probability, resolutions)
    crossed = space.crossover(first[n_mutants:], second, rng)
    return np.concatenate([mutants, crossed]), first


def evolve(
    space: Space,
    score: Function,
    limits: Limits,
    *,
    k: int,
    seed: int,
    resolutions: Sequence[int],
    settings: Evolution,
    progress: Progress = SILENT,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Maximise `score` within the limits.

    Returns
    -------
    genes : (at most k, n_genes) array
        The best distinct subnets of the whole run, the best first.
    scores : (at most k,) array
    history : (generations + 1,) array
    evaluations : int

    Raises
    ------
    UsageError
        If no subnet is within the limits.
    """
    rng = np.random.default_rng(seed)
    floor = require_reachable(space, limits, resolutions)
    keys_of = RowKeys(space)
    n = settings.population
    n_parents = max(2, round(n * settings.parent_ratio))
    genes = space.sample_genes(rng, n, resolutions)
    genes, _ = repair(genes, np.broadcast_to(floor, genes.shape), limits, rng)
    genes = np.concatenate([genes, floor[None]])
    remembered, keys = Remembered(score), keys_of(genes)
    scores = remembered(genes, keys)
    history = []
    with progress.task("search", settings.generations) as task:
        for generation in range(settings.generations + 1):
            best = best_distinct(keys, scores, len(keys))
            parents = best[choose_parents(genes[best, -1], n_parents)]
            survivors = np.union1d(best[:k], parents)
            history.append(float(scores[best[0]]))
            if generation == settings.generations:
                break
            parents = genes[parents]
            genes, scores, keys = genes[survivors], scores[survivors], keys[survivors]
            children, first = _children(space, parents, settings, resolutions, rng)
            children, _ = repair(children, first, limits, rng)
            children_keys = keys_of(children)
            genes = np.concatenate([genes, children])
            scores = np.concatenate([scores, remembered(children, children_keys)])
            keys = np.concatenate([keys, children_keys])
            task.advance()
    evaluations = (settings.generations + 1) * n + 1
    if settings.climbs:
        near, values, climbed = refine(
            space,
            score,
            limits,
            (genes[best], scores[best]),
            evaluations=settings.climbs,
            seed=seed,
            resolutions=resolutions,
            progress=progress,
        )
        genes, scores = np.concatenate([genes, near]), np.concatenate([scores, values])
        best, evaluations = best_distinct(keys_of(genes), scores, k), evaluations + climbed
    return genes[best[:k]], scores[best[:k]], np.array(history), evaluations


def search(
    space: Space,
    accuracy: Function,
    latency: CostModel,
    budget: Budget | float,
    *,
    constraints: Sequence[Constraint] = (),
    k: int = 10,
    seed: int = 0,
    resolutions: Sequence[int] | None = None,
    settings: Evolution | None = None,
    progress: Progress = SILENT,
) -> SearchResult:
    """Find the subnets of highest predicted accuracy whose predicted latency is within a budget.

    Parameters
    ----------
    space, accuracy, k, seed, resolutions, settings : as for `search_within`
    latency : CostModel
    budget : Budget or float
        A bare number is in the model's own unit.
    constraints : sequence of Constraint, optional
        More hard limits, e.g. on MACs.

    Raises
    ------
    UsageError
        If the budget cannot be reached (says what can be), or its unit is not the model's.
    """
    return search_within(
        space,
        accuracy,
        (latency_limit(latency, budget), *constraints),
        k=k,
        seed=seed,
        resolutions=resolutions,
        settings=settings,
        progress=progress,
    )


def search_within(
    space: Space,
    accuracy: Function,
    limits: Sequence[Constraint],
    *,
    k: int = 10,
    seed: int = 0,
    resolutions: Sequence[int] | None = None,
    settings: Evolution | None = None,
    progress: Progress = SILENT,
) -> SearchResult:
    """Find the subnets of highest predicted accuracy within hard limits, such as a latency on each target.

    Parameters
    ----------
    space : Space
    accuracy : callable
        Genes (n, n_genes) -> (n,) predictions.
    limits : sequence of Constraint
        At least one.
    k : int
        Candidates to return.
    seed : int
        The same seed gives the same result in every process.
    resolutions : sequence of int, optional
        Input sides to choose from; default those of the space.
    settings : Evolution, optional
        By default `SEARCH`.

    Raises
    ------
    UsageError
        If the limits cannot be kept; says what can be.
    """
    start = time.perf_counter()
    resolutions, settings = require_resolutions(space, resolutions), settings or SEARCH
    # The matrices of one generation are too small to share: waiting for a busy core costs 40 times the work.
    with threadpool_limits(limits=1, user_api="blas"):
        genes, scores, history, evaluations = evolve(
            space,
            accuracy,
            Limits(tuple(limits)),
            k=k,
            seed=seed,
            resolutions=resolutions,
            settings=settings,
            progress=progress,
        )
    return SearchResult(
        tuple(space.decode(genes)),
        genes,
        scores,
        np.column_stack([limit.cost(genes) for limit in limits]),
        history,
        evaluations,
        time.perf_counter() - start,
    )


def require_resolutions(space: Space, resolutions: Sequence[int] | None) -> tuple[int, ...]:
    """Those to choose from, all of which the space has to have; by default its own.

    Raises
    ------
    UsageError
        If it lacks one.
    """
    chosen = tuple(space.default_resolutions if resolutions is None else resolutions)
    for resolution in chosen:
        if resolution not in space.resolutions:
            raise UsageError(f"resolution {resolution} is not in the space {space.name}")
    return chosen
