"""Timing single calls of a module, by one runner or by several at once."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from ofa_tvm.errors import UsageError, UserError, counted
from ofa_tvm.measurement.calls import CallTimes, RunnerCalls
from ofa_tvm.measurement.other_work import other_work, working_s
from ofa_tvm.measurement.pinned_worker import pinned_worker
from ofa_tvm.measurement.pinning import choose_cpus
from ofa_tvm.process import WorkerDied, WorkerHung, WorkerProcess
from ofa_tvm.progress import SILENT, Progress, Task
from ofa_tvm.runtime.threads import usable_cpus
from ofa_tvm.targets import Target, detect_machine
from ofa_tvm.temporaries import scratch_folder

_SILENCE_S = 60.0  # after which a runner counts as hung
_LOOK_EVERY_S = 0.5
_TOGETHER_S = 0.1  # between telling all runners to start and their start


def measure_calls(
    path: str | os.PathLike[str],
    target: Target,
    *,
    runners: int = 1,
    seconds: float = 10.0,
    warm_up_s: float = 1.0,
    calls: int | None = None,
    seed: int = 0,
    progress: Progress = SILENT,
) -> CallTimes:
    """Time every call of a module as a user makes it, on this machine.

    Each runner is a process with the module loaded, pinned to as many CPUs as it has threads, none of which
    it shares with another. All warm up, start at the same moment, and call without a pause.

    Parameters
    ----------
    path
        The `.so`.
    target
        Says the threads of a runner.
    runners
        How many call at the same time.
    seconds
        How long; a runner makes at least five calls.
    warm_up_s
        How long each calls before that.
    calls
        Calls of a runner after which it stops before `seconds` are over.
    seed
        Of the random inputs.
    progress
        Told of the seconds that went by.

    Raises
    ------
    UsageError
        If there are not as many CPUs as the runners' threads, or the target is another device.
    UserError
        If the module cannot be loaded here, crashes, hangs, or returns values that are not finite.
    """
    if target.run.where != "local":
        raise UsageError(
            f"single calls are timed on this machine, but target {target.name} is another device"
        )
    machine = detect_machine()
    if reason := target.runs_on(machine):
        raise UserError(f"target {target.name} cannot be measured here: {reason}")
    groups = runners_cpus(runners, target.threads)
    request: dict[str, Any] = {"path": str(Path(path).resolve()), "seed": seed}
    with (
        scratch_folder("bench") as scratch,
        progress.task("warm-up and calls", warm_up_s + seconds) as task,
        _crew(groups, request["path"], task) as crew,
    ):
        loaded = crew.ask([request | {"do": "load", "seconds": warm_up_s}] * runners, warm_up_s)
        files = [Path(scratch) / f"{number}.npy" for number in range(runners)]
        before, started = working_s(), time.monotonic()
        window = request | {"do": "time", "seconds": seconds, "calls": calls, "start": started + _TOGETHER_S}
        timed = crew.ask([window | {"file": str(file)} for file in files], seconds)
        after, ended = working_s(), time.monotonic()
        times = [np.load(file) for file in files]
        cold_ms = crew.ask([request | {"do": "cold"}])[0]["cold_ms"]
    own_s = sum(answer["own_s"] for answer in timed)
    return CallTimes(
        runners=tuple(
            RunnerCalls(cpus, 1e3 * taken, answer["seconds"])
            for cpus, taken, answer in zip(groups, times, timed, strict=True)
        ),
        threads=target.threads,
        images=loaded[0]["images"],
        warm_up_s=warm_up_s,
        warm_up_calls=min(answer["calls"] for answer in loaded),
        others=other_work(before, after, own_s, [cpu for group in groups for cpu in group], ended - started),
        cold_ms=cold_ms,
        sample_ms=target.measure.sample_ms,
        target=target.name,
        machine=machine.model,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def runners_cpus(runners: int, threads: int) -> list[tuple[int, ...]]:
    """CPUs of each runner, none of them another's.

    Raises
    ------
    UsageError
        If this process may use fewer; says how many, and how many runners they are enough for.
    """
    needed, usable = runners * threads, usable_cpus()
    if runners > 1 and needed > usable:
        of = f" of {threads} threads each" if threads > 1 else ""
        fit = counted(usable // threads, "runner")
        raise UsageError(
            f"{runners} runners{of} need {needed} CPUs, but this process may use {counted(usable, 'CPU')}: "
            f"at most {fit} can be timed here"
        )
    cpus = choose_cpus(needed)
    return [cpus[start : start + threads] for start in range(0, needed, threads)]


@dataclass(frozen=True)
class _Crew:
    """Workers that are asked at the same time; `path` is what to blame, `task` moves with the clock."""

    workers: Sequence[WorkerProcess]
    pool: ThreadPoolExecutor
    path: str
    task: Task

    def ask(self, requests: Sequence[dict[str, Any]], seconds: float = 0.0) -> list[dict[str, Any]]:
        """The answers of the first workers, one a request; the task moves by `seconds` at most."""
        asked = zip(self.workers, requests, strict=False)
        answers = [self.pool.submit(self._answer, worker, request) for worker, request in asked]
        left, start, shown = set(answers), time.monotonic(), 0.0
        while left:
            done, left = wait(left, _LOOK_EVERY_S, FIRST_COMPLETED)
            now = min(time.monotonic() - start, seconds)
            self.task.advance(now - shown)
            shown = now
            for answer in done:
                answer.result()  # what went wrong with one is not waited for by the others
        return [answer.result() for answer in answers]

    def _answer(self, worker: WorkerProcess, request: dict[str, Any]) -> dict[str, Any]:
        try:
            answer = list(worker.ask(request, _SILENCE_S))[-1]
        except (WorkerDied, WorkerHung) as death:
            raise UserError(f"{self.path} {death}") from None
        if answer["event"] == "failed":
            raise UserError(answer["message"])
        return answer


@contextmanager
def _crew(groups: Sequence[Sequence[int]], path: str, task: Task) -> Iterator[_Crew]:
    workers = [pinned_worker("ofa_tvm.measurement.call_worker", cpus) for cpus in groups]
    pool = ThreadPoolExecutor(len(workers))
    try:
        yield _Crew(workers, pool, path, task)
    finally:
        for worker in workers:
            worker.kill()  # so that no thread of the pool still waits
        pool.shutdown()
        for worker in workers:
            worker.stop()
