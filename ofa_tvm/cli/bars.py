"""How verbs show long work: bars on a terminal, plain lines elsewhere (a log file, CI)."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console as RichConsole
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars

from ofa_tvm.cli.durations import duration
from ofa_tvm.progress import Task

_LINE_EVERY_S = 10.0
_AT_ONCE_S = 0.5  # what is done by then was known, and says nothing of the pace


class RichProgress:
    """Bars on a terminal, plain lines elsewhere; always on standard error."""

    def __init__(self) -> None:
        self._console = RichConsole(stderr=True, highlight=False)
        self._bars: Bars | None = None
        self._lines: list[_PlainTask] = []
        self._open = 0

    @contextmanager
    def task(self, name: str, total: float | None = None) -> Iterator[Task]:
        """Open a bar; it closes with the block and leaves one line that says how long it took."""
        start = time.monotonic()
        self._open += 1
        finished = False
        try:
            with self._bar(name, total) if self._console.is_terminal else self._line(name, total) as task:
                yield task
            finished = True
        finally:
            self._open -= 1
            if self._open == 0 and self._bars is not None:
                self._bars.stop()
                self._bars = None
            took = f"{time.monotonic() - start:.1f} s"
            self.say(f"{name}: {took}" if finished else f"{name}: stopped after {took}")

    def say(self, message: str) -> None:
        """Print one line above the bars."""
        console = self._bars.console if self._bars is not None else self._console
        console.print(message, markup=False, soft_wrap=True)

    @contextmanager
    def _bar(self, name: str, total: float | None) -> Iterator[Task]:
        bars = self._started()
        bar = bars.add_task(name, total=total, note="")
        try:
            yield _BarTask(bars, bar)
        finally:
            bars.remove_task(bar)

    @contextmanager
    def _line(self, name: str, total: float | None) -> Iterator[Task]:
        line, over = _PlainTask(name, total), threading.Event()
        self._lines.append(line)

        def talk() -> None:
            while not over.wait(_LINE_EVERY_S):
                if self._lines[-1:] == [line]:  # of tasks within tasks the innermost speaks
                    self.say(line.state())

        talker = threading.Thread(target=talk, daemon=True)
        talker.start()
        try:
            yield line
        finally:
            over.set()
            talker.join()
            self._lines.remove(line)

    def _started(self) -> Bars:
        if self._bars is None:
            self._bars = Bars(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(bar_width=30),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=self._console,
                transient=True,
            )
            self._bars.start()
        return self._bars


class _BarTask:
    def __init__(self, bars: Bars, bar: TaskID) -> None:
        self._bars, self._bar = bars, bar

    def advance(self, amount: float = 1.0, note: str = "") -> None:
        self._bars.advance(self._bar, amount)
        if note:
            self._bars.update(self._bar, note=note)


class _PlainTask:
    """How far a task is, in words, and how long it will take at the pace so far."""

    def __init__(self, name: str, total: float | None) -> None:
        self._name, self._total, self._note = name, total, ""
        self._done = self._known = 0.0
        self._start = time.monotonic()

    def advance(self, amount: float = 1.0, note: str = "") -> None:
        self._done += amount
        self._note = note or self._note
        if time.monotonic() - self._start < _AT_ONCE_S:
            self._known = self._done

    def state(self) -> str:
        """`measuring subnets: 3 of 40, 2.3 ms, about 80 s left`."""
        spent = time.monotonic() - self._start
        if self._total is None:
            return f"{self._name}: {f'{self._done:g}, ' * bool(self._done)}{duration(spent)} so far"
        parts = [f"{self._name}: {self._done:g} of {self._total:g}", self._note]
        if self._done > self._known:
            left = (self._total - self._done) * spent / (self._done - self._known)
            parts.append(f"about {duration(max(0.0, left))} left")
        return ", ".join(part for part in parts if part)
