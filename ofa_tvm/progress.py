"""How long-running work tells a person how far it is, without knowing about terminals.

Functions that take long accept `progress: Progress = SILENT`; the CLI passes one that draws bars.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


class Task(Protocol):
    """One bar: `advance` moves it, `note` is a short text beside it (a loss, a count)."""

    def advance(self, amount: float = 1.0, note: str = "") -> None: ...


class Progress(Protocol):
    """Opens bars. `task` is a context manager, the bar is closed when it ends."""

    def task(self, name: str, total: float | None = None) -> AbstractContextManager[Task]: ...

    def say(self, message: str) -> None:
        """Print one line above the bars."""


class _SilentTask:
    def advance(self, amount: float = 1.0, note: str = "") -> None:
        pass


class _Silent:
    def task(self, name: str, total: float | None = None) -> AbstractContextManager[Task]:
        return nullcontext(_SilentTask())

    def say(self, message: str) -> None:
        pass


SILENT: Progress = _Silent()
