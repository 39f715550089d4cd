"""A whole job of several phases: how far it is, and about how long it still takes.

Guesses of how long its parts take are replaced by what was measured as soon as the first units are done.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from ofa_tvm.progress import NEVER, Deadline, Progress, Task, duration

AT_ONCE_S = 0.5  # units that a task has by then were known, and say nothing of the pace
_ENOUGH_UNITS, _SLOW_S, _ESTIMATED_AFTER_S, _WORTH_SAYING_S = 5, 20.0, 3.0, 10.0
_UNMEASURED = (0.5, 2.0)  # how far the pace of other parts changes a guess


@dataclass(frozen=True)
class Part:
    """Work of one kind within a phase.

    Parameters
    ----------
    phase
        Its name, for people.
    task
        Name of the tasks within the phase that do it.
    units
        What all these tasks advance by.
    unit_s
        Guessed seconds of one; of parts of one kind only their ratios count once one was measured.
    kind
        Parts of one kind are as much faster or slower than guessed as one another; "" for the task's name.
    most_s
        A time limit of its own.
    """

    phase: str
    task: str
    units: float
    unit_s: float
    kind: str = ""
    most_s: float = math.inf


State = Literal["done", "now", "to come"]


@dataclass(frozen=True)
class PhaseState:
    """Of a phase: where it stands, and its seconds so far."""

    name: str
    state: State
    seconds: float


class Job:
    """What is done of a job's parts, and what is left.

    Parameters
    ----------
    name
        For people.
    parts
        In the order in which they are done.
    deadline
        By when it ends in any case.
    clock
        Seconds.
    """

    def __init__(
        self,
        name: str,
        parts: Sequence[Part],
        deadline: Deadline = NEVER,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name, self._parts, self._deadline, self._clock = name, tuple(parts), deadline, clock
        self._start = clock()
        self._done: dict[Part, float] = defaultdict(float)
        self._guessed: dict[str, float] = defaultdict(float)  # of the units that were timed, by kind
        self._spent: dict[str, float] = defaultdict(float)
        self._began: dict[str, float] = {}
        self._took: dict[str, float] = {}
        self._moved = self._start
        self._shown = 0.0
        self._estimated = False

    # -- what happens ------------------------------------------------------------------------------------

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """While it lasts, tasks count for the parts of this phase; then all of them are done.

        A phase may be gone on with.
        """
        before = self._took.pop(name, 0.0)
        self._began[name] = self._moved = self._clock()
        try:
            yield
        finally:
            self._took[name] = before + self._clock() - self._began[name]

    def timed(self, task: str) -> _Timer | None:
        """What counts a task's units; None if it is no part of the phase that goes on."""
        now = [name for name in self._began if name not in self._took]
        found = [part for part in self._parts if part.task == task and part.phase in now]
        return _Timer(self, found[0]) if found else None

    def count(self, part: Part, units: float, timed: float, seconds: float) -> None:
        """Note that units of a part are done, of which `timed` ones took so many seconds."""
        self._done[part] += units
        kind = part.kind or part.task
        self._guessed[kind] += timed * part.unit_s
        self._spent[kind] += seconds
        self._moved = self._clock()

    def now(self) -> float:
        """The clock's time."""
        return self._clock()

    # -- what is asked -----------------------------------------------------------------------------------

    @property
    def seconds(self) -> float:
        """Since its start."""
        return self._clock() - self._start

    @property
    def left_s(self) -> float | None:
        """Seconds left, by what was timed so far; None as long as nothing was, and where time is up."""
        if self._deadline.is_over:
            return None
        paces = [self._pace(kind) for kind in tuple(self._guessed)]
        known = [pace for pace in paces if pace is not None]
        if not known:
            return None
        low, high = _UNMEASURED
        usual = min(high, max(low, sum(known) / len(known)))
        left = sum(self._left(part, usual) for part in self._parts)
        left = max(0.0, left - min(self._clock() - self._moved, self._unit_s(usual)))
        return min(left, self._deadline.left_s)

    @property
    def share(self) -> float:
        """Of its time, 0..1; never less than before."""
        left = self.left_s
        if left is not None:
            self._shown = max(self._shown, min(1.0, self.seconds / max(1e-9, self.seconds + left)))
        return self._shown

    @property
    def phases(self) -> tuple[PhaseState, ...]:
        """All, in their order."""
        names = dict.fromkeys([*(part.phase for part in self._parts), *self._began])
        return tuple(self._state(name) for name in names)

    def first_estimate(self) -> str | None:
        """A sentence on how long it takes and by what, the first time that there is enough to go by."""
        enough = _ENOUGH_UNITS if self.seconds < _SLOW_S else 1
        some = max(self._done.values(), default=0.0) >= enough and self.seconds >= _ESTIMATED_AFTER_S
        if self._estimated or not some or (left := self.left_s) is None:
            return None
        self._estimated = True
        if left < _WORTH_SAYING_S:
            return None
        timed = [f"{done:g} of {part.units:g} ({part.task})" for part, done in self._done.items() if done]
        return f"{self.name}: about {duration(self.seconds + left)} in all, as timed on {' and '.join(timed)}"

    def _state(self, name: str) -> PhaseState:
        if name in self._took:
            return PhaseState(name, "done", self._took[name])
        if name in self._began:
            return PhaseState(name, "now", self._clock() - self._began[name])
        return PhaseState(name, "to come", 0.0)

    def _pace(self, kind: str) -> float | None:
        """How many times as long as guessed units of a kind take."""
        guessed = self._guessed.get(kind, 0.0)
        return self._spent[kind] / guessed if guessed > 0 else None

    def _left(self, part: Part, usual: float) -> float:
        if part.phase in self._took:
            return 0.0
        pace = self._pace(part.kind or part.task)
        units = max(0.0, part.units - self._done.get(part, 0.0))
        seconds = units * part.unit_s * (usual if pace is None else pace)
        spent = self._clock() - self._began[part.phase] if part.phase in self._began else 0.0
        return min(seconds, max(0.0, part.most_s - spent))

    def _unit_s(self, usual: float) -> float:
        """The longest unit of the phase that goes on: it may be almost done."""
        now = [part for part in self._parts if part.phase in self._began and part.phase not in self._took]
        paces = {part: self._pace(part.kind or part.task) for part in now}
        return max((part.unit_s * (usual if p is None else p) for part, p in paces.items()), default=0.0)


class _Timer:
    """Counts one task's units for its part; the first ones, which warm up, only until others follow."""

    def __init__(self, job: Job, part: Part) -> None:
        self._job, self._part = job, part
        self._start = self._last = job.now()
        self._first: tuple[float, float] | None = None

    def advance(self, amount: float) -> None:
        now = self._job.now()
        known = now - self._start < AT_ONCE_S and amount > 1
        timed, seconds = (0.0, 0.0) if known else (amount, now - self._last)
        self._last = now
        if self._first is None:
            self._first = timed, seconds
        elif timed and self._first[0]:
            self._job.count(self._part, 0.0, -self._first[0], -self._first[1])
            self._first = 0.0, 0.0
        self._job.count(self._part, amount, timed, seconds)


@runtime_checkable
class ShowsJobs(Protocol):
    """Progress that has one bar for a whole job, and its phases below."""

    def job(self, job: Job) -> AbstractContextManager[None]: ...


class JobProgress:
    """A progress within a job: tasks are shown as before, and count for the job's parts."""

    def __init__(self, job: Job, shown: Progress, *, whole: bool = True) -> None:
        self._job, self._shown, self._whole = job, shown, whole

    @contextmanager
    def task(self, name: str, total: float | None = None) -> Iterator[Task]:
        """A task of the progress beneath."""
        with self._shown.task(name, total) as task:
            timer = self._job.timed(name)
            yield task if timer is None else _Counted(task, timer, self._tell)

    def _tell(self) -> None:
        """Once, as soon as there is something to go by: how long it takes, and by what."""
        if (estimate := self._job.first_estimate()) is not None:
            self.say(estimate)

    def say(self, message: str) -> None:
        """Print a line."""
        self._shown.say(message)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """A phase of the job, which leaves one line; within a larger job, which has its own, nothing."""
        if not self._whole:
            yield
            return
        start, ended = time.monotonic(), "stopped after "
        try:
            with self._job.phase(name):
                yield
            ended = ""
        finally:
            self.say(f"{name}: {ended}{time.monotonic() - start:.1f} s")

    def part(self) -> JobProgress:
        """For work that is a job of its own where it is done alone."""
        return JobProgress(self._job, self._shown, whole=False)


class _Counted:
    def __init__(self, task: Task, timer: _Timer, tell: Callable[[], None]) -> None:
        self._task, self._timer, self._tell = task, timer, tell

    def advance(self, amount: float = 1.0, note: str = "") -> None:
        self._task.advance(amount, note)
        self._timer.advance(amount)
        self._tell()


@contextmanager
def in_job(
    progress: Progress, name: str, parts: Sequence[Part], deadline: Deadline = NEVER
) -> Iterator[JobProgress]:
    """Show work as one job with named phases; within a larger job it is a part of that."""
    if isinstance(progress, JobProgress):
        yield progress.part()
        return
    job = Job(name, parts, deadline)
    with progress.job(job) if isinstance(progress, ShowsJobs) else nullcontext():
        yield JobProgress(job, progress)
