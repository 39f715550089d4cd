"""What there is to do before it starts, step by step, and how long that takes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """One kind of work.

    Parameters
    ----------
    name
        What is done, for people.
    units
        How often.
    unit_s
        Seconds of one, as timed; None where that was not timed.
    """

    name: str
    units: int
    unit_s: float | None = None

    @property
    def seconds(self) -> float | None:
        """Of all."""
        return None if self.unit_s is None else self.units * self.unit_s


@dataclass(frozen=True)
class Plan:
    """Work in the order in which it is done; what is done already is not in it."""

    steps: tuple[Step, ...]

    @property
    def seconds(self) -> float | None:
        """Of all steps that were timed; None if none was."""
        timed = [step.seconds for step in self.steps if step.seconds is not None]
        return sum(timed) if timed else None

    def __str__(self) -> str:
        return ", ".join(f"{step.units} x {step.name}" for step in self.steps) or "nothing"
