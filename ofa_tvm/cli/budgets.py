"""Budgets as `ofa-tvm search` takes them: a latency or a throughput for each target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ofa_tvm.errors import UsageError

if TYPE_CHECKING:
    from ofa_tvm.search.budget import Budget
    from ofa_tvm.targets import Target


def budgets_of(
    latencies: Sequence[str], rates: Sequence[str], batch: int | None, n_targets: int, *, optional: bool
) -> list[Budget]:
    """What a call may take on each target.

    Parameters
    ----------
    latencies, rates
        As typed: times of a call, or images to classify in a time.
    batch
        Images a call; None if it was not said.
    n_targets
        How many budgets there have to be.
    optional
        Whether there may be none: a Pareto front and a range do without.

    Raises
    ------
    UsageError
        If one cannot be read, or there are too few or too many.
    """
    from ofa_tvm.search.budget import parse_budget, parse_throughput

    if latencies and rates:
        raise UsageError("give --latency or --throughput, not both")
    if rates and batch is None:
        raise UsageError("--throughput needs --batch: how many images there are in a call, 1 for one by one")
    budgets = [*map(parse_budget, latencies), *(parse_throughput(text, batch or 1) for text in rates)]
    if not budgets and not optional:
        raise UsageError("Missing option '--latency': the budget, for example --latency 25ms")
    if n_targets != len(budgets) and not (optional and not budgets):
        raise UsageError(
            f"{n_targets} target{'s' if n_targets > 1 else ''} but {len(budgets)} budgets; type one "
            f"--{'throughput' if rates else 'latency'} for each --target"
        )
    return budgets


def images_per_s(cost: float, target: Target) -> float | None:
    """Images that calls of `cost` classify in a second; None where instructions are counted."""
    return 1e3 * target.batch / cost if target.unit == "ms" else None


def throughput(cost: float, target: Target) -> str:
    """The same for people; nothing where there is one image a call."""
    rate = images_per_s(cost, target)
    return "" if rate is None or target.batch == 1 else f", {rate:,.0f} images a second"
