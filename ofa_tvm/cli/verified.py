"""What `ofa-tvm search` answers after measuring."""

from __future__ import annotations

from typing import Any

from ofa_tvm.cli.budgets import images_per_s, throughput
from ofa_tvm.cli.console import Console
from ofa_tvm.cli.retiming import show_retiming
from ofa_tvm.errors import counted
from ofa_tvm.search.candidates import Candidate
from ofa_tvm.targets import Variant
from ofa_tvm.workflow.request import SearchOutcome
from ofa_tvm.workflow.ship import Shipped

RANDOM = "random weights, because of --arch-only: the subnet's accuracy is a prediction, nothing is shipped"


def show(console: Console, outcome: SearchOutcome) -> None:
    """Print what was found, and the result for scripts."""
    chosen, request = outcome.chosen, outcome.request
    for other in reversed(outcome.others):
        for number in range(len(other.targets)):
            _on_target(console, other, number)
    parts = [_on_target(console, outcome, number) for number in range(len(outcome.targets))]
    if outcome.others:
        _show_formats(console, outcome)
    if outcome.targets[0].shipped is None:
        why = RANDOM if request.data is None else "nothing shipped: name a folder with -o"
        console.print(f"{why}; {outcome.seconds:.0f} s", chosen.arch.to_json())
    console.result(
        {
            "space": request.net.space.name,
            "dtype": outcome.dtype,
            "arch": chosen.arch.to_dict(),
            "predicted_accuracy": min(chosen.accuracy, 1.0),
            "validation_accuracy": chosen.measured_accuracy,
            "verified": True,
            "random_weights": request.data is None,
            "rounds": outcome.found.rounds,
            **({"targets": parts} if len(parts) > 1 else parts[0]),
            "other_dtypes": [_best(other) for other in outcome.others],
            "seconds": round(outcome.seconds, 2),
        }
    )


def _show_formats(console: Console, outcome: SearchOutcome) -> None:
    """The best of each number format that competed."""
    console.table(
        ["dtype", "predicted acc.", "val. acc.", *(f"measured on {t.target.name}" for t in outcome.targets),
         "architecture"],
        [
            [
                one.dtype,
                f"{min(one.chosen.accuracy, 1.0):.2%}",
                "-" if one.chosen.measured_accuracy is None else f"{one.chosen.measured_accuracy:.2%}",
                *(
                    f"{cost.measured:.4g} {t.budget.unit}"
                    for cost, t in zip(one.chosen.costs, one.targets, strict=True)
                ),
                one.chosen.arch.to_json(),
            ]
            for one in (outcome, *outcome.others)
        ],
        title="the best within the same budget in each number format",
    )  # fmt: skip


def _best(outcome: SearchOutcome) -> dict[str, Any]:
    chosen = outcome.chosen
    return {
        "dtype": outcome.dtype,
        "arch": chosen.arch.to_dict(),
        "predicted_accuracy": min(chosen.accuracy, 1.0),
        "validation_accuracy": chosen.measured_accuracy,
        "targets": [
            {"target": t.target.name, f"measured_latency_{t.budget.unit.lower()}": cost.measured}
            for cost, t in zip(chosen.costs, outcome.targets, strict=True)
        ],
    }


def _on_target(console: Console, outcome: SearchOutcome, number: int) -> dict[str, Any]:
    """Show one target's measurements, and return them as plain data."""
    one, chosen, found = outcome.targets[number], outcome.chosen, outcome.found
    budget, shipped, cost = one.budget, one.shipped, chosen.costs[number]
    unit, name = budget.unit, f" on {one.target.name}" if len(outcome.targets) > 1 else ""
    name += f" in {outcome.dtype}" if outcome.dtype != "float32" else ""
    console.table(
        [
            "round",
            "r",
            "d",
            "predicted acc.",
            "val. acc.",
            f"predicted {unit}",
            f"measured {unit}",
            "within",
            "",
        ],
        [
            [
                c.round or "earlier",
                c.arch.r,
                " ".join(map(str, c.arch.d)),
                f"{min(c.accuracy, 1.0):.2%}",
                "-" if c.measured_accuracy is None else f"{c.measured_accuracy:.2%}",
                c.costs[number].predicted,
                c.costs[number].measured,
                "yes" if c.within else "no",
                "chosen" if c is chosen else "",
            ]
            for c in (*found.earlier, *found.record)
        ],
        title=f"candidates for {budget}{name} in {counted(found.rounds, 'round')}",
    )
    measured = cost.measured if shipped is None else shipped.measurement.cost
    if shipped is not None:
        spread = shipped.measurement.mad_ms  # a count of instructions has none
        console.print(
            f"shipped {shipped.artefact.folder}: measured {measured:.4g} {unit}"
            + ("" if spread is None else f" (MAD {spread:.2g})")
            + throughput(measured, one.target)
            + f" within {budget}, test accuracy {shipped.accuracy:.2%} through the module"
            + accuracy_change(shipped)
        )
    else:
        rate = throughput(measured, one.target)
        console.print(f"measured {measured:.4g} {unit}{name}{rate} within {budget}")
    key = unit.lower()
    again = show_retiming(
        console, None if shipped is None else shipped.retiming, Variant.of(one.target).options()
    )
    return {
        "target": one.target.name,
        "batch": one.target.batch,
        f"predicted_latency_{key}": cost.predicted,
        f"measured_latency_{key}": measured,
        "images_per_s": images_per_s(measured, one.target),
        f"budget_{key}": budget.value,
        "candidates": [_candidate(c, number, key) for c in found.record],
        "artefact": None if shipped is None else str(shipped.artefact.folder),
        "test_accuracy": None if shipped is None else shipped.accuracy,
        "accuracy_change": None if shipped is None else shipped.accuracy_change,
        "retiming": again,
    }


def accuracy_change(shipped: Shipped) -> str:
    """For people: what half precision did to the accuracy; nothing of a float32 module."""
    if shipped.accuracy_change is None:
        return ""
    return f" ({100 * shipped.accuracy_change:+.2f} points against float32)"


def _candidate(candidate: Candidate, number: int, key: str) -> dict[str, Any]:
    cost = candidate.costs[number]
    return {
        "arch": candidate.arch.to_dict(),
        "round": candidate.round,
        "predicted_accuracy": min(candidate.accuracy, 1.0),
        "validation_accuracy": candidate.measured_accuracy,
        f"predicted_latency_{key}": cost.predicted,
        f"measured_latency_{key}": cost.measured,
        f"noise_{key}": cost.noise,
        "within": candidate.within,
    }
