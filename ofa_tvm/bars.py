"""Long work as bars in a terminal or a notebook, as plain lines elsewhere (a log file, CI)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from ofa_tvm.job import AT_ONCE_S, Job, State
from ofa_tvm.progress import Task, duration

_LINE_EVERY_S = 10.0
_SILENT_S = 1.0  # in a terminal, until a verb without any bar shows that it is at work


class RichProgress:
    """Bars where they can be drawn, else plain lines.

    Parameters
    ----------
    verbose
        Whether tasks within a job leave a line, too, not its phases alone.
    """

    def __init__(self, *, verbose: bool = False) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._draws = self._console.is_terminal or (
            self._console.is_jupyter and find_spec("ipywidgets") is not None
        )
        self._verbose = verbose
        self._bars: _JobBars | None = None
        self._job: Job | None = None
        self._verb, self._started = "", time.monotonic()
        self._lines: list[_PlainTask] = []
        self._open = 0
        self._talks = False
        self._said_at = time.monotonic()
        self._lock = threading.RLock()

    @contextmanager
    def task(self, name: str, total: float | None = None) -> Iterator[Task]:
        """Open a bar; it closes with the block and leaves one line that says how long it took."""
        start, finished = time.monotonic(), False
        try:
            with self._shown(), self._bar(name, total) if self._draws else self._line(name, total) as task:
                yield task
            finished = True
        finally:
            took = f"{time.monotonic() - start:.1f} s"
            if not finished or self._job is None or self._verbose:
                self.say(f"{name}: {took}" if finished else f"{name}: stopped after {took}")

    @contextmanager
    def job(self, job: Job) -> Iterator[None]:
        """One bar for the whole job, its phases and what goes on now below."""
        outer, self._job = self._job, job
        try:
            with self._shown():
                yield
        finally:
            self._job = outer

    @contextmanager
    def running(self, verb: str) -> Iterator[None]:
        """While a verb runs: say that it does where nothing else is said."""
        self._verb, self._started = verb, time.monotonic()
        with _repeated(_SILENT_S / 4, self._fill_silence) if self._draws else self._talking():
            try:
                yield
            finally:
                self._verb = ""
                self.pause()

    def wait_for_others(self) -> None:
        """A verb that serves is silent until someone asks."""
        self._verb = ""
        self.pause()

    def pause(self) -> None:
        """Take away what only shows that work goes on: a result is printed next."""
        with self._lock:
            self._said_at = time.monotonic()
            if self._open == 0 and self._bars is not None:
                self._bars.stop()
                self._bars = None

    def say(self, message: str) -> None:
        """Print one line above the bars."""
        self.pause()
        console = self._bars.console if self._bars is not None else self._console
        console.print(message, markup=False, soft_wrap=True)

    @contextmanager
    def _shown(self) -> Iterator[None]:
        """Bars are drawn while this lasts, or lines said."""
        self.pause()
        with self._lock:
            self._open += 1
            if self._draws and self._bars is None:
                self._bars = _JobBars(self._console, lambda: self._job)
                self._bars.start()
        try:
            if self._draws:
                yield
            else:
                with self._talking():
                    yield
        finally:
            with self._lock:
                self._open -= 1
            self.pause()

    # -- a terminal --------------------------------------------------------------------------------------

    @contextmanager
    def _bar(self, name: str, total: float | None) -> Iterator[Task]:
        bars = self._bars
        assert bars is not None
        bar = bars.add_task(name, total=total, note="")
        try:
            yield _BarTask(bars, bar)
        finally:
            bars.remove_task(bar)

    def _fill_silence(self) -> None:
        with self._lock:
            if self._bars is None and self._verb and time.monotonic() - self._said_at > _SILENT_S:
                self._bars = _JobBars(self._console, lambda: None, f"{self._verb} ...")
                self._bars.start()

    # -- elsewhere ---------------------------------------------------------------------------------------

    @contextmanager
    def _line(self, name: str, total: float | None) -> Iterator[Task]:
        line = _PlainTask(name, total)
        self._lines.append(line)
        try:
            yield line
        finally:
            self._lines.remove(line)

    @contextmanager
    def _talking(self) -> Iterator[None]:
        """A line every ten seconds, by whoever began first."""
        if self._talks:
            yield
            return
        self._talks = True
        try:
            with _repeated(_LINE_EVERY_S / 10, self._talk):
                yield
        finally:
            self._talks = False

    def _talk(self) -> None:
        at_work = bool(self._verb or self._lines or self._job)
        if at_work and time.monotonic() - self._said_at >= _LINE_EVERY_S:
            self.say(self._state())

    def _state(self) -> str:
        """Of tasks within tasks the innermost speaks."""
        job, lines = self._job, self._lines[-1:]
        if job is None:
            spent = time.monotonic() - self._started
            return lines[0].state() if lines else f"{self._verb}: {duration(spent)} so far"
        below = [line.state(alone=False) for line in lines] or [
            phase.name for phase in job.phases if phase.state == "now"
        ]
        return "; ".join([f"{job.name}: {_whole(job)}", *below])


def _whole(job: Job) -> str:
    """`43 %, about 2 min left`."""
    left = job.left_s
    if left is None:
        return f"{duration(job.seconds)} so far"
    return f"{job.share:.0%}, about {duration(left)} left"


@contextmanager
def _repeated(seconds: float, do: Callable[[], None]) -> Iterator[None]:
    """Do something every so many seconds."""
    over = threading.Event()

    def repeat() -> None:
        while not over.wait(seconds):
            do()

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


class _JobBars(Bars):
    """Bars of tasks; above them that of the whole job with the only time left, and its phases."""

    def __init__(self, console: Console, job: Callable[[], Job | None], waiting: str = "") -> None:
        self._whole_job, self._waiting = job, waiting
        self._signs = _SIGNS if _draws_signs(console) else _PLAIN_SIGNS
        self._spinner = Spinner("dots")
        self._since = time.monotonic()
        left: list[ProgressColumn] = [TimeRemainingColumn()] if job() is None else []
        super().__init__(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            *left,
            TextColumn("{task.fields[note]}"),
            console=console,
            transient=True,
        )

    def get_renderables(self) -> Iterable[RenderableType]:
        """What is drawn, from the top."""
        job = self._whole_job()
        if job is not None:
            yield self._job_table(job)
        elif self._waiting:
            grid = Table.grid(padding=(0, 1))
            grid.add_row(self._spinner, self._waiting, Text(duration(time.monotonic() - self._since)))
            yield grid
        if self.tasks:
            yield self.make_tasks_table(self.tasks)

    def _job_table(self, job: Job) -> Table:
        whole, below = Table.grid(padding=(0, 1)), Table.grid(padding=(0, 1))
        bar = ProgressBar(total=None if job.left_s is None else 1.0, completed=job.share, width=30)
        whole.add_row(self._spinner, Text(job.name, style="bold"), bar, Text(_whole(job)))
        for phase in job.phases:
            took = "" if phase.state == "to come" else duration(phase.seconds)
            style = "" if phase.state == "now" else "dim"
            below.add_row(
                " ", self._signs[phase.state], Text(phase.name, style=style), Text(took, style=style)
            )
        table = Table.grid()
        table.add_row(whole)
        table.add_row(below)
        return table


_SIGNS: dict[State, str] = {"done": "✓", "now": "▸", "to come": "·"}
_PLAIN_SIGNS: dict[State, str] = {"done": "x", "now": ">", "to come": " "}


def _draws_signs(console: Console) -> bool:
    try:
        "".join(_SIGNS.values()).encode(console.encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True


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
        if time.monotonic() - self._start < AT_ONCE_S:
            self._known = self._done

    def state(self, *, alone: bool = True) -> str:
        """`measuring subnets: 3 of 40, 2.3 ms, about 80 s left`; the time left only where no job says it."""
        spent = time.monotonic() - self._start
        if self._total is None:
            return f"{self._name}: {f'{self._done:g}, ' * bool(self._done)}{duration(spent)} so far"
        parts = [f"{self._name}: {self._done:g} of {self._total:g}", self._note]
        if alone and self._done > self._known:
            left = (self._total - self._done) * spent / (self._done - self._known)
            parts.append(f"about {duration(max(0.0, left))} left")
        return ", ".join(part for part in parts if part)
