"""What verbs print with: tables and text for people, one JSON object for scripts, bars on a terminal."""

from __future__ import annotations

import functools
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import click
from rich.console import Console as RichConsole
from rich.text import Text

from ofa_tvm.bars import RichProgress
from ofa_tvm.cli.tables import TextTable, fold
from ofa_tvm.cli.volume import volume_options
from ofa_tvm.errors import UsageError
from ofa_tvm.progress import SILENT, Deadline, Progress

R = TypeVar("R")


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
    verbose
        Whether `detail` is said.
    start_s
        When the verb began, before it imported anything that takes long; on the monotonic clock.
    """

    json: bool
    seed: int
    progress: Progress = field(default_factory=RichProgress)
    verbose: bool = False
    start_s: float = field(default_factory=time.monotonic)

    def deadline(self, seconds: float | None) -> Deadline:
        """So many seconds from the verb's beginning; None for never."""
        return Deadline.after(seconds, self.start_s)

    def say(self, message: str) -> None:
        """A line about the work (settings, notes): standard error."""
        self.progress.say(message)

    def detail(self, message: str) -> None:
        """The same of what only --verbose shows."""
        if self.verbose:
            self.say(message)

    def print(self, *lines: str) -> None:
        """Lines of the result, for people (nothing in JSON mode)."""
        self._pause()
        for line in () if self.json else lines:
            self._people().print(line, markup=False, highlight=False, soft_wrap=True)

    def prose(self, *lines: str) -> None:
        """Sentences of the result, for people, folded between words to the terminal's width."""
        width = self._fold_at()
        for line in lines:
            self.print(*([line] if width is None else fold(line, width)))

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[object]], title: str = "") -> None:
        """A table of the result, for people (nothing in JSON mode); numbers to the right, None a dash.

        It fits the terminal (see `TextTable`). Into a file or a pipe each row is one line, unless COLUMNS
        says how much room there is.
        """
        if self.json:
            return
        right = [
            bool(rows) and all(isinstance(row[index], int | float | None) for row in rows)
            for index in range(len(columns))
        ]
        cells = [["-" if cell is None else _cell(cell) for cell in row] for row in rows]
        header, lines = TextTable(columns, cells, right).lines(self._fold_at())
        if title:
            self.prose(title)
        self._pause()
        people = self._people()
        for line in header:
            people.print(Text(line, style="bold"), soft_wrap=True)
        self.print(*lines)

    def result(self, content: Mapping[str, Any]) -> None:
        """The result for scripts: printed in JSON mode, nothing otherwise."""
        self._pause()
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

    def wait_for_others(self) -> None:
        """From here on there is nothing to say but what others ask for: a server."""
        if isinstance(self.progress, RichProgress):
            self.progress.wait_for_others()

    def _pause(self) -> None:
        if isinstance(self.progress, RichProgress):
            self.progress.pause()

    def _fold_at(self) -> int | None:
        """Columns to keep to; None for a file or a pipe, where a line is a row, unless COLUMNS is set."""
        console = RichConsole()
        return console.width if console.is_terminal or os.environ.get("COLUMNS", "").isdigit() else None

    @staticmethod
    def _people() -> RichConsole:
        return RichConsole(highlight=False)


def _cell(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.4g}"


def common_options(function: Callable[..., R]) -> Callable[..., R]:
    """Add `--json`, `--seed`, `--quiet` and `--verbose` to a verb, whose first argument is a `Console`.

    What long work there is says that it goes on, as long as the verb runs.
    """

    @volume_options
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
    def wrapped(*args: Any, as_json: bool, seed: int, quiet: bool, verbose: bool, **kwargs: Any) -> R:
        context = click.get_current_context()
        before = context.find_root().params  # ofa-tvm --quiet VERB
        quiet, verbose = quiet or before.get("quiet", False), verbose or before.get("verbose", False)
        if quiet and verbose:
            raise UsageError("--quiet and --verbose exclude each other")
        if quiet:
            return function(Console(as_json, seed, SILENT), *args, **kwargs)
        progress = RichProgress(verbose=verbose)
        with progress.running(context.info_name or "work"):
            return function(Console(as_json, seed, progress, verbose), *args, **kwargs)

    return wrapped
