"""How long-running work tells a person how far it is, without knowing about terminals.

Functions that take long accept `progress: Progress = SILENT`; the CLI passes one that draws bars. Those that
people call from Python take True for it as well.
"""

from __future__ import annotations

import math
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol


class Task(Protocol):
    """One bar: `advance` moves it, `note` is a short text beside it (a loss, a count)."""

    def advance(self, amount: float = 1.0, note: str = "") -> None: ...


class Progress(Protocol):
    """Opens bars. `task` is a context manager, the bar is closed when it ends."""

    def task(self, name: str, total: float | None = None) -> AbstractContextManager[Task]: ...

    def say(self, message: str) -> None:
        """Print one line above the bars."""


@dataclass(frozen=True)
class Deadline:
    """When work that can be gone on with later shall end.

    Parameters
    ----------
    start_s, end_s
        On the monotonic clock.
    """

    start_s: float
    end_s: float

    @classmethod
    def after(cls, seconds: float | None, start_s: float | None = None) -> Deadline:
        """So many seconds from a time on the monotonic clock, by default from now; None for never."""
        if seconds is None:
            return NEVER
        start_s = time.monotonic() if start_s is None else start_s
        return cls(start_s, start_s + seconds)

    @property
    def is_over(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() >= self.end_s

    @property
    def left_s(self) -> float:
        """Seconds until then, 0 at least."""
        return max(0.0, self.end_s - time.monotonic())

    def within(self, first: float, last: float) -> Deadline:
        """The part of the time between two shares (0..1) of it."""
        length = self.end_s - self.start_s
        return (
            self if self == NEVER else Deadline(self.start_s + first * length, self.start_s + last * length)
        )


NEVER = Deadline(0.0, math.inf)


class _SilentTask:
    def advance(self, amount: float = 1.0, note: str = "") -> None:
        pass


class _Silent:
    def task(self, name: str, total: float | None = None) -> AbstractContextManager[Task]:
        return nullcontext(_SilentTask())

    def say(self, message: str) -> None:
        pass


SILENT: Progress = _Silent()


def as_progress(progress: Progress | bool) -> Progress:
    """What functions for people take: True for bars in a terminal or a notebook, False for nothing."""
    if progress is False:
        return SILENT
    if progress is True:
        from ofa_tvm.bars import RichProgress

        return RichProgress()
    return progress


def duration(seconds: float) -> str:
    """A time as people say it."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
