"""Random search: the baseline that a search has to beat."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from ofa_tvm.estimators.contract import CostModel, Function
from ofa_tvm.search.budget import Budget
from ofa_tvm.search.constraints import Constraint, Limits, latency_limit, repair, require_reachable
from ofa_tvm.search.distinct import RowKeys, best_distinct
from ofa_tvm.search.evolution import SearchResult, require_resolutions
from ofa_tvm.spaces.space import Space


def random_search(
    space: Space,
    accuracy: Function,
    latency: CostModel,
    budget: Budget | float,
    *,
    samples: int = 50_000,
    k: int = 10,
    seed: int = 0,
    resolutions: Sequence[int] | None = None,
    constraints: Sequence[Constraint] = (),
) -> SearchResult:
    """Best of `samples` random subnets, moved within the budget where they break it. Arguments as for
    `search`.

    Raises
    ------
    UsageError
        If the budget cannot be reached.
    """
    start = time.perf_counter()
    chosen = require_resolutions(space, resolutions)
    limits = Limits((latency_limit(latency, budget), *constraints))
    rng = np.random.default_rng(seed)
    floor = require_reachable(space, limits, chosen)
    genes = space.sample_genes(rng, samples, chosen)
    genes, _ = repair(genes, np.broadcast_to(floor, genes.shape), limits, rng)
    scores = accuracy(genes)
    best = best_distinct(RowKeys(space)(genes), scores, k)
    history = np.array([float(scores[best[0]])])
    return SearchResult(
        tuple(space.decode(genes[best])),
        genes[best],
        scores[best],
        np.column_stack([limit.cost(genes[best]) for limit in limits.constraints]),
        history,
        samples,
        time.perf_counter() - start,
    )
