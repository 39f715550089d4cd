"""What a verb has to do, before it starts; and instead of starting, with --dry-run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ofa_tvm.cli.console import Console
from ofa_tvm.progress import duration

if TYPE_CHECKING:
    from ofa_tvm.workflow.steps import Plan


def say_plan(console: Console, plan: Plan, time_limit_s: float | None) -> None:
    """One line; how long it takes shows as it goes."""
    limit = "" if time_limit_s is None else f"; ends after about {duration(time_limit_s)}"
    console.say(f"to do: {plan}{limit}")


def show_plan(console: Console, plan: Plan) -> None:
    """Every step with its estimate."""
    console.table(
        ["to do", "times", "s each", "s"],
        [
            [step.name, step.units, step.unit_s, None if step.seconds is None else round(step.seconds)]
            for step in plan.steps
        ],
    )
    untimed = [step.name for step in plan.steps if step.seconds is None]
    if not plan.steps:
        console.print("there is nothing left to do")
    elif plan.seconds is not None:
        beside = f", and the time to {' and '.join(untimed)}" if untimed else ""
        console.print(f"about {duration(plan.seconds)} by one of each, timed just now{beside}")
    console.result(
        {
            "steps": [
                {"name": step.name, "units": step.units, "unit_seconds": step.unit_s} for step in plan.steps
            ],
            "estimated_seconds": plan.seconds,
        }
    )
