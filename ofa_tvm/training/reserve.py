"""What a training keeps of its time for what follows its last step: so that it ends when it was told to."""

from __future__ import annotations

from dataclasses import dataclass

_ROOM = 1.2  # for what was not timed: other sizes of subnets and inputs, a file that is written
_RECENT = 0.8  # what is left of the longest step's weight after another one


@dataclass
class Reserve:
    """How long the step after the next decision takes, and validating two subnets; by the steps so far.

    Parameters
    ----------
    step_s, validation_s
        Guesses of one step, and of validating one subnet; of them only the ratio counts.
    subnets
        Validated when the time is up.
    """

    step_s: float
    validation_s: float
    subnets: int
    _steps: int = 0
    _spent_s: float = 0.0
    _longest_s: float = 0.0

    def took(self, seconds: float) -> None:
        """A step's seconds."""
        self._steps += 1
        self._spent_s += seconds
        self._longest_s = max(seconds, _RECENT * self._longest_s)

    @property
    def seconds(self) -> float:
        """That it keeps; 0 before the first step, which is always taken."""
        if not self._steps:
            return 0.0
        mean_s = self._spent_s / self._steps
        validating_s = self.subnets * self.validation_s * mean_s / max(1e-9, self.step_s)
        return self._longest_s + _ROOM * validating_s
