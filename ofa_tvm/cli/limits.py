"""Hard limits of `ofa-tvm search` beside latency, and which budgets can be kept (--range)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click
import numpy as np

from ofa_tvm.cli.console import Console

if TYPE_CHECKING:
    from ofa_tvm.cli.predicted import PredictorQuery

R = TypeVar("R")

_OPTIONS = {
    "size": ("5MB", "Size of the weights in the dtype."),
    "memory": ("2MB", "Feature maps alive at once in the dtype, at the worst layer."),
    "macs": ("300M", "Multiply-adds of an image."),
    "params": ("4M", "Parameters."),
}
_SAMPLE = 2000


def limit_options(function: Callable[..., R]) -> Callable[..., R]:
    """Add --max-size, --max-memory, --max-macs and --max-params; the verb takes those given as `limits`."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> R:
        from ofa_tvm.search.limits import parse_limit

        given = {name: kwargs.pop(f"max_{name}") for name in _OPTIONS}
        limits = {name: parse_limit(name, text) for name, text in given.items() if text is not None}
        return function(*args, limits=limits, **kwargs)

    for name, (example, meaning) in reversed(_OPTIONS.items()):
        option = click.option(f"--max-{name}", metavar=example, help=f"Limit of every subnet: {meaning}")
        wrapped = option(wrapped)
    return wrapped


def show_range(console: Console, questions: Sequence[PredictorQuery]) -> None:
    """Print between which budgets there is something to choose, for each target and number format."""
    from ofa_tvm.search.constraints import Constraint, Limits, cheapest, require_reachable

    rows = []
    for question in questions:
        space, sides = question.settings.space, question.resolutions
        if question.limits:
            require_reachable(space, Limits(question.limits), sides)
        genes = space.sample_genes(np.random.default_rng(console.seed), _SAMPLE, sides)
        largest = space.encode([space.max_arch(max(sides))])
        for limit in question.limits:
            genes, largest = (some[limit.cost(some) <= limit.limit] for some in (genes, largest))
        for name, model in question.latency.items():
            cost = Limits((Constraint("latency", model, 1.0), *question.limits))
            smallest, least = cheapest(space, cost if question.limits else model, sides)
            if question.limits:
                least = float(model(smallest[None])[0])
            seen = model(np.concatenate([genes, largest, smallest[None]]))
            rows.append(
                {
                    "target": name,
                    "dtype": question.dtype,
                    "unit": model.unit,
                    "smallest": least,
                    "median": float(np.median(seen)),
                    "largest": float(seen.max()),
                    **({"estimated_within_factor": question.doubts[name]} if name in question.doubts else {}),
                }
            )
    console.table(
        ["target", "dtype", "smallest", "median of random subnets", "largest", "unit"],
        [[row[key] for key in ("target", "dtype", "smallest", "median", "largest", "unit")] for row in rows],
        title="predicted latencies; a budget below the smallest cannot be kept, one above the largest limits "
        "nothing",
    )
    console.result({"ranges": rows})
