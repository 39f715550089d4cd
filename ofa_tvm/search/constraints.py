"""Hard limits on what a search may propose, kept by repair instead of by throwing samples away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ofa_tvm.errors import UsageError
from ofa_tvm.estimators.contract import CostModel, Function
from ofa_tvm.search.budget import Budget, budget_above
from ofa_tvm.spaces.space import Space


@dataclass(frozen=True)
class Constraint:
    """`cost(genes) <= limit` for everything that is proposed.

    Attributes
    ----------
    name : str
        For messages, e.g. "latency".
    cost : callable
        Genes (n, n_genes) -> (n,) costs above 0.
    limit : float
    unit : str
    """

    name: str
    cost: Function
    limit: float
    unit: str = ""


def latency_limit(model: CostModel, budget: Budget | float, name: str = "latency") -> Constraint:
    """A budget as a hard limit; a bare number is in the model's own unit.

    Raises
    ------
    UsageError
        If the budget has another unit than the model, or is not above 0.
    """
    if not isinstance(budget, Budget):
        budget = Budget(float(budget), model.unit)
    if budget.unit != model.unit:
        raise UsageError(
            f"the budget is in {budget.unit} but this target's latencies are in {model.unit}; "
            f"type the budget in {model.unit}"
        )
    if not budget.value > 0:
        raise UsageError(f"the budget {budget} must be above 0")
    return Constraint(name, model, budget.value, budget.unit)


@dataclass(frozen=True)
class Limits:
    """Several constraints as one: the largest ratio of cost to limit, feasible up to 1."""

    constraints: tuple[Constraint, ...]

    def __call__(self, genes: np.ndarray) -> np.ndarray:
        """(n, n_genes) -> (n,) ratios."""
        ratios = np.zeros(len(genes))
        for constraint in self.constraints:
            np.maximum(ratios, constraint.cost(genes) / constraint.limit, out=ratios)
        return ratios


def cheapest(space: Space, cost: Function, resolutions: Sequence[int]) -> tuple[np.ndarray, float]:
    """The subnet of least cost, by coordinate descent from the smallest one at each resolution.

    Exact where a gene that makes the subnet cheaper does so whatever the other genes are, as latencies
    nearly do.

    Returns
    -------
    genes : (n_genes,) array
    cost : float
    """
    starts = space.encode([space.min_arch(r) for r in resolutions])
    # The best few resolutions only: the smallest nearly always wins, a badly tuned one may not.
    starts = starts[np.argsort(cost(starts), kind="stable")[:3]]
    allowed = [np.arange(n) for n in space.cardinalities]
    allowed[-1] = np.unique(space.encode([space.min_arch(r) for r in resolutions])[:, -1])
    moves = [(gene, choice) for gene, choices in enumerate(allowed) for choice in choices]
    columns = np.array([gene for gene, _ in moves])
    choices = np.array([choice for _, choice in moves])
    best_genes, best_cost = starts[0], float(cost(starts[:1])[0])
    for current in starts:
        value = float(cost(current[None])[0])
        while True:
            neighbours = np.repeat(current[None], len(moves), axis=0)
            neighbours[np.arange(len(moves)), columns] = choices
            costs = cost(neighbours)
            i = int(costs.argmin())
            if not costs[i] < value - 1e-12 * abs(value):
                break
            current, value = neighbours[i], float(costs[i])
        if value < best_cost:
            best_genes, best_cost = current, value
    return best_genes, best_cost


def require_reachable(space: Space, limits: Limits, resolutions: Sequence[int]) -> np.ndarray:
    """Genes (n_genes,) of a subnet within all limits.

    Raises
    ------
    UsageError
        If there is none; says the smallest cost that the space can reach.
    """
    genes, ratio = cheapest(space, limits, resolutions)
    if ratio <= 1.0:
        return genes
    for constraint in limits.constraints:
        _, least = cheapest(space, constraint.cost, resolutions)
        if not least <= constraint.limit:
            raise UsageError(
                f"no subnet of {space.name} has a {constraint.name} within {constraint.limit:.4g} "
                f"{constraint.unit}".rstrip()
                + f": the smallest it can reach is {least:.4g} {constraint.unit}".rstrip()
                + f" (resolutions {', '.join(map(str, resolutions))}){_advice(constraint.unit, least)}"
            )
    names = " and ".join(f"{c.name} {c.limit:.4g} {c.unit}".rstrip() for c in limits.constraints)
    raise UsageError(
        f"no subnet of {space.name} keeps all limits at once ({names}), although each can be kept alone"
    )


def _advice(unit: str, least: float) -> str:
    return f"; try {budget_above(least, unit)}" if unit in ("ms", "Minstr") else ""


def repair(
    genes: np.ndarray, feasible: np.ndarray, limits: Limits, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Move subnets that break a limit towards feasible ones, no further than needed.

    A subnet's genes are replaced by those of its feasible counterpart in random order; bisection finds a
    point on that path within the limits, which its end always is.

    Parameters
    ----------
    genes : (n, n_genes) array
    feasible : (n, n_genes) array
        One counterpart within the limits for each row.

    Returns
    -------
    genes : (n, n_genes) array
        All within the limits.
    ratios : (n,) array
        Their cost over limit.
    """
    ratios = limits(genes)
    broken = np.flatnonzero(~(ratios <= 1.0))
    if not len(broken):
        return genes, ratios
    genes = genes.copy()
    child, parent = genes[broken], feasible[broken]
    differs = child != parent
    order = np.where(differs, rng.random(child.shape), 2.0)
    rank = order.argsort(axis=1).argsort(axis=1)
    low = np.zeros(len(broken), dtype=np.int64)  # this many genes replaced is not enough
    high = differs.sum(axis=1)  # this many is
    found, ratio = parent.copy(), np.full(len(broken), np.nan)
    while True:
        active = np.flatnonzero(high - low > 1)
        if not len(active):
            break
        middle = (low[active] + high[active]) // 2
        trial = np.where(rank[active] < middle[:, None], parent[active], child[active])
        value = limits(trial)
        good = value <= 1.0
        high[active[good]] = middle[good]
        low[active[~good]] = middle[~good]
        found[active[good]] = trial[good]
        ratio[active[good]] = value[good]
    unknown = np.isnan(ratio)
    if unknown.any():
        ratio[unknown] = limits(found[unknown])
    genes[broken], ratios[broken] = found, ratio
    return genes, ratios
