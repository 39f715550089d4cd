"""What verbs print with: tables and text for people, one JSON object for scripts, bars on a terminal."""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import click
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
from rich.table import Table
from rich.text import Text

from ofa_tvm.progress import Progress, Task

R = TypeVar("R")
_PLAIN_LINE_EVERY_S = 15.0


class RichProgress:
    """Bars on a terminal, plain lines elsewhere (a log file, CI); always on standard error."""

    def __init__(self) -> None:
        self._console = RichConsole(stderr=True, highlight=False)
        self._bars: Bars | None = None
        self._open = 0

    @contextmanager
    def task(self, name: str, total: float | None = None) -> Iterator[Task]:
        """Open a bar; it closes with the block and leaves one line that says how long it took."""
        start = time.monotonic()
        line: Task
        if self._console.is_terminal:
            bars = self._started()
            bar = bars.add_task(name, total=total, note="")
            line = _BarTask(bars, bar)
        else:
            line = _PlainTask(self._console, name, total)
        self._open += 1
        finished = False
        try:
            yield line
            finished = True
        finally:
            self._open -= 1
            if isinstance(line, _BarTask):
                line.close()
            if self._open == 0 and self._bars is not None:
                self._bars.stop()
                self._bars = None
            took = f"{time.monotonic() - start:.1f} s"
            self.say(f"{name}: {took}" if finished else f"{name}: stopped after {took}")

    def say(self, message: str) -> None:
        """Print one line above the bars."""
        console = self._bars.console if self._bars is not None else self._console
        console.print(message, markup=False, soft_wrap=True)

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

    def close(self) -> None:
        self._bars.remove_task(self._bar)


class _PlainTask:
    """Says every fifteen seconds how far it is."""

    def __init__(self, console: RichConsole, name: str, total: float | None) -> None:
        self._console, self._name, self._total = console, name, total
        self._done, self._said = 0.0, time.monotonic()

    def advance(self, amount: float = 1.0, note: str = "") -> None:
        self._done += amount
        if time.monotonic() - self._said < _PLAIN_LINE_EVERY_S:
            return
        self._said = time.monotonic()
        of = f" of {self._total:g}" if self._total is not None else ""
        line = f"{self._name}: {self._done:g}{of}{', ' + note if note else ''}"
        self._console.print(line, markup=False, soft_wrap=True)


@dataclass(frozen=True)
class Console:
    """Given to every verb by `common_options`.

    Attributes
    ----------
    json
        Standard output carries exactly one JSON object, the result; notes and progress go to standard error.
    seed
        The verb's `--seed`.
    progress
        Where long work shows how far it is.
    """

    json: bool
    seed: int
    progress: Progress = field(default_factory=RichProgress)

    def say(self, message: str) -> None:
        """A line about the work (settings, notes): standard error."""
        self.progress.say(message)

    def print(self, *lines: str) -> None:
        """Lines of the result, for people (nothing in JSON mode)."""
        for line in () if self.json else lines:
            self._people().print(line, markup=False, highlight=False, soft_wrap=True)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[object]], title: str = "") -> None:
        """A table of the result, for people (nothing in JSON mode); numbers to the right, None a dash."""
        if self.json:
            return
        table = Table(
            title=title or None, box=None, pad_edge=False, title_justify="left", header_style="bold"
        )
        for index, column in enumerate(columns):
            numeric = bool(rows) and all(isinstance(row[index], int | float | None) for row in rows)
            table.add_column(column, justify="right" if numeric else "left", overflow="fold")
        for row in rows:
            table.add_row(*(Text("-" if cell is None else _cell(cell)) for cell in row))
        self._people().print(table)

    def result(self, content: Mapping[str, Any]) -> None:
        """The result for scripts: printed in JSON mode, nothing otherwise."""
        if self.json:
            sys.stdout.write(json.dumps(content, ensure_ascii=False) + "\n")

    @property
    def width(self) -> int:
        """Columns of the terminal: COLUMNS if that is set, 80 where there is no terminal."""
        return RichConsole().width

    @property
    def draws_blocks(self) -> bool:
        """Whether standard output can carry block characters."""
        try:
            "█▏".encode(sys.stdout.encoding or "ascii")
        except UnicodeEncodeError:
            return False
        return True

    def _people(self) -> RichConsole:
        console = RichConsole(highlight=False)
        if not console.is_terminal:
            console.width = 1000  # into a file or a pipe nothing is folded
        return console


def _cell(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.4g}"


def common_options(function: Callable[..., R]) -> Callable[..., R]:
    """Add `--json` and `--seed` to a verb; it takes them as its first argument, a `Console`."""

    @click.option(
        "--json", "as_json", is_flag=True, help="One JSON object on standard output, all else on stderr."
    )
    @click.option(
        "--seed",
        type=click.IntRange(0, 2**32 - 1),  # what scikit-learn takes
        default=0,
        show_default=True,
        help="Of everything random.",
    )
    @functools.wraps(function)
    def wrapped(*args: Any, as_json: bool, seed: int, **kwargs: Any) -> R:
        return function(Console(json=as_json, seed=seed), *args, **kwargs)

    return wrapped
