"""Trials of one kernel's schedules, each reported to the campaign as it ends."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import tvm_ffi
from tvm.s_tir import Schedule

from ofa_tvm.compiler.traces import trace_json
from ofa_tvm.devices.tracker import TrackerUnreachable
from ofa_tvm.tuning.messages import Report, Tried, Trying
from ofa_tvm.tuning.runner import Runner, reason

_FINALISTS, _ROUNDS = 4, 5
_LONGEST_REASON = 300


def identity(sch: Schedule) -> int:
    """Equal for schedules that lead to the same code, by whatever trace."""
    return int(tvm_ffi.structural_hash(sch.mod))


class Trials:
    """Runs schedules and reports them.

    Parameters
    ----------
    runner
        Builds and times them.
    report
        Takes the reports.
    tried
        Schedules that were tried before.
    """

    def __init__(self, runner: Runner, report: Callable[[Report], None], tried: Iterable[Schedule]) -> None:
        self._runner, self._report = runner, report
        self._best: list[tuple[float, Any, Any]] = []  # seconds, trace, program
        self._tried = {identity(sch) for sch in tried}

    @property
    def tried(self) -> int:
        """Schedules that were tried, now or before."""
        return len(self._tried)

    def is_new(self, sch: Schedule) -> bool:
        """Whether no schedule that leads to the same code was tried."""
        return identity(sch) not in self._tried

    def __call__(self, sch: Schedule) -> list[float] | None:
        """Seconds of one call, some samples, or one if it is hopeless; None if the schedule failed."""
        self._tried.add(identity(sch))
        trace = trace_json(sch)
        self._report(Trying(trace))
        try:
            outcome = self._runner.run(sch)
        except TrackerUnreachable:
            raise  # no fault of the schedule
        except Exception as error:  # whatever a build raises is a failed trial, not a failed campaign
            self._failed(trace, error)
            return None
        self._timed(trace, outcome.seconds)
        if outcome.program is not None and self._runner.takes_turns:
            entry = (statistics.median(outcome.seconds), trace, outcome.program)
            self._best = sorted([*self._best, entry], key=lambda entry: entry[0])[:_FINALISTS]
        return list(outcome.seconds)

    def finals(self) -> None:
        """Time the best schedules again, in turns: what was disturbed the first time gets a second chance."""
        if len(self._best) > 1:
            self._in_turns([(trace, program) for _, trace, program in self._best], counts=False)

    def again(self, known: Sequence[Schedule]) -> None:
        """Time the best schedules that were tried before, on another machine or another day."""
        entries = []
        for sch in known[:_FINALISTS]:
            if not self._runner.takes_turns:
                self(sch)
                continue
            trace = trace_json(sch)
            self._report(Trying(trace))
            try:
                program = self._runner.load(self._runner.build(sch))
                self._runner.checked(program)
            except Exception as error:
                self._failed(trace, error)
            else:
                entries.append((trace, program))
        self._in_turns(entries, counts=True)

    def _in_turns(self, entries: Sequence[tuple[Any, Any]], *, counts: bool) -> None:
        timed = self._runner.in_turns([program for _, program in entries], _ROUNDS)
        for (trace, _), seconds in zip(entries, timed, strict=True):
            self._timed(trace, seconds, counts=counts)

    def _timed(self, trace: Any, seconds: Sequence[float], *, counts: bool = True) -> None:
        times_us = [value * 1e6 for value in seconds]
        self._report(Tried(trace, times_us, counts=counts, throttled=self._runner.throttled))

    def _failed(self, trace: Any, error: Exception) -> None:
        self._report(Tried(trace, [], reason(error)[:_LONGEST_REASON]))
