"""The process that tunes kernels: it searches, builds and times, and reports every trial as it ends.

All of a kernel's work happens in one warm process that loads only what a CPU target needs: no process is
started for a trial and, where this machine is the device, no module is sent and nothing is linked. A schedule
that crashes or hangs takes the process with it; the parent knows which one it was, records the failure, and
goes on in a new process.
"""

from __future__ import annotations

import gc
import itertools
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from ofa_tvm.compiler.toolchain import load_cpu_intrinsics
from ofa_tvm.process import forget_torch, leave_torch_out

leave_torch_out()

import numpy as np  # noqa: E402
import tvm  # noqa: E402
import tvm_ffi  # noqa: E402
from tvm.s_tir import Schedule  # noqa: E402
from tvm.s_tir import meta_schedule as ms  # noqa: E402

from ofa_tvm.compiler import schedules, templates  # noqa: E402
from ofa_tvm.compiler.final import final_form  # noqa: E402
from ofa_tvm.compiler.nvrtc import compiling_cuda, on_cuda  # noqa: E402
from ofa_tvm.compiler.traces import scheduled_by_trace, trace_json  # noqa: E402
from ofa_tvm.devices.place import Place  # noqa: E402
from ofa_tvm.devices.tracker import TrackerUnreachable  # noqa: E402
from ofa_tvm.measurement.pinning import pin  # noqa: E402
from ofa_tvm.process import Link, requests  # noqa: E402
from ofa_tvm.tuning.gpu_timing import GpuSubject, make_gpu_subject  # noqa: E402
from ofa_tvm.tuning.remote import RemoteTimer  # noqa: E402
from ofa_tvm.tuning.timing import Subject, interleaved, make_subject  # noqa: E402

forget_torch()

_SAMPLES = 3
_FINALISTS, _ROUNDS = 4, 5
_HOPELESS = 3.0  # a first call this many times slower than the best known ends a trial early
_SEED_SHARE = 0.6  # of the trials go to the template's own ranking, the others to the search
_BATCH = 4
_TRIALS_TO_LEARN_FROM = 16


@dataclass(frozen=True)
class _Job:
    """One kernel to tune; `known` are its schedules so far with their seconds, `failed` those that failed."""

    mod: tvm.IRModule
    target: tvm.target.Target
    l2_bytes: int
    known: list[tuple[Schedule, float]]
    failed: list[Schedule]
    hints: list[schedules.Tiling]
    trials: int
    deadline_s: float
    seed: int

    @property
    def time_is_up(self) -> bool:
        """Whether no further trial should be begun."""
        return time.monotonic() > self.deadline_s


class _Trials:
    """Builds, checks and times schedules of one kernel, and reports each to the parent as it ends."""

    def __init__(self, job: _Job, link: Link) -> None:
        self._target, self._link = job.target, link
        function, threads = job.mod["main"], int(job.target.attrs.get("num-cores", 1))
        self._subject: Subject | GpuSubject = (
            make_gpu_subject(function, job.target)
            if templates.on_gpu(job.target)
            else make_subject(function, threads, job.l2_bytes)
        )
        self._expected: np.ndarray | None = None
        self._best_s = min((seconds for _, seconds in job.known), default=float("inf"))
        self._built: list[tuple[float, Any, Any]] = []  # seconds, trace, what the subject calls
        self.tried = {_identity(sch) for sch in [*(sch for sch, _ in job.known), *job.failed]}

    def __call__(self, sch: Schedule) -> list[float] | None:
        """Seconds of one call, three samples, or one if it is hopeless; None if the schedule failed."""
        trace = trace_json(sch)
        self.tried.add(_identity(sch))
        self._link.send(event="trying", trace=trace)
        try:
            call, once = self._build(sch)
            hopeless = once > _HOPELESS * self._best_s and once > 50e-6
            seconds = [once] if hopeless else self._subject.samples(call, once, _SAMPLES)
        except Exception as error:  # whatever a build raises is a failed trial, not a failed campaign
            reason = (str(error).strip() or repr(error)).splitlines()[-1]
            self._link.send(event="trial", trace=trace, times_us=[], error=reason[:300])
            return None
        self._link.send(event="trial", trace=trace, times_us=_microseconds(seconds))
        if not hopeless:
            self._best_s = min(self._best_s, statistics.median(seconds))
            self._built = sorted(
                [*self._built, (statistics.median(seconds), trace, call)], key=lambda entry: entry[0]
            )[:_FINALISTS]
        return seconds

    def finals(self) -> None:
        """Time the best schedules again, in turns: what was disturbed the first time gets a second chance."""
        if len(self._built) < 2:
            return
        timed = interleaved(self._subject, [call for _, _, call in self._built], _ROUNDS)
        for (_, trace, _), seconds in zip(self._built, timed, strict=True):
            self._link.send(event="timed", trace=trace, times_us=_microseconds(seconds))

    def again(self, known: list[Schedule]) -> None:
        """Time schedules that were tried before, on another machine or another day."""
        calls, traces = [], []
        for sch in known:
            trace = trace_json(sch)
            self._link.send(event="trying", trace=trace)
            calls.append(self._build(sch)[0])
            traces.append(trace)
        for trace, seconds in zip(traces, interleaved(self._subject, calls, _ROUNDS), strict=True):
            self._link.send(event="timed", trace=trace, times_us=_microseconds(seconds))

    def _build(self, sch: Schedule) -> tuple[Any, float]:
        library = tvm.compile(final_form(sch.mod, self._target), target=self._target)
        call: Any = self._subject.prepared(library)
        if self._expected is None:
            self._subject = self._subject.calibrated(library)
        once = self._subject.first_call(call)
        if self._expected is None:
            self._expected = self._subject.result
        elif not np.allclose(self._subject.result, self._expected, rtol=1e-3, atol=1e-4):
            raise ValueError("its result differs from that of the kernel's first schedule")
        return call, once


class _RemoteTrials:
    """The same on a device of a tracker or an emulated one, see `RemoteTimer`."""

    def __init__(self, job: _Job, timer: RemoteTimer, link: Link) -> None:
        self._timer, self._link = timer, link
        self.tried = {_identity(sch) for sch in [*(sch for sch, _ in job.known), *job.failed]}

    def __call__(self, sch: Schedule) -> list[float] | None:
        """Seconds of one call (an instruction as 1 ns); None if the schedule failed."""
        self.tried.add(_identity(sch))
        return self._measure(sch, "trial")

    def finals(self) -> None:
        """Nothing is timed again: instruction counts are exact, and a board is nobody else's."""

    def again(self, known: list[Schedule]) -> None:
        """Time schedules that were tried before, on another machine or another day."""
        for sch in known:
            self._measure(sch, "timed")

    def _measure(self, sch: Schedule, event: str) -> list[float] | None:
        trace = trace_json(sch)
        self._link.send(event="trying", trace=trace)
        try:
            seconds = self._timer(sch)
        except TrackerUnreachable:
            raise  # no fault of the schedule
        except Exception as error:  # whatever a build raises is a failed trial, not a failed campaign
            reason = (str(error).strip() or repr(error)).splitlines()[-1]
            self._link.send(event=event, trace=trace, times_us=[], error=reason[:300])
            return None
        self._link.send(event=event, trace=trace, times_us=_microseconds(seconds))
        return seconds


@contextmanager
def _trials(job: _Job, request: dict[str, Any], link: Link) -> Iterator[_Trials | _RemoteTrials]:
    """On this process's CPU, or on a device of the place that the request names."""
    with compiling_cuda(str(job.target.attrs["arch"])) if on_cuda(job.target) else nullcontext():
        if "place" in request:
            with _remote_trials(job, request, link) as trials:
                yield trials
        else:
            yield _Trials(job, link)


@contextmanager
def _remote_trials(job: _Job, request: dict[str, Any], link: Link) -> Iterator[_RemoteTrials]:
    timer = RemoteTimer(
        job.mod,
        job.target,
        Place.parse(request["place"]),
        request["link"],
        min((seconds for _, seconds in job.known), default=float("inf")),
        request["emulated"],
        request["wait_s"],
        alive=link.beat,
        note=lambda message: link.send(event="note", message=message),
    )
    try:
        yield _RemoteTrials(job, timer, link)
    finally:
        timer.close()


def _microseconds(seconds: list[float]) -> list[float]:
    return [value * 1e6 for value in seconds]


def _tune(job: _Job, attempt: _Trials | _RemoteTrials) -> None:
    """Spend the job's trials."""
    tried = attempt.tried
    left = job.trials
    measured: list[tuple[Schedule, list[float]]] = []
    ranked = templates.ranked_schedules(job.mod, job.target, job.hints)
    count = templates.count(job.mod, job.target)
    if count is None and not templates.on_gpu(job.target):
        ranked = iter([Schedule(job.mod)])  # plain loops, so that a tuned kernel is never slower than these
    # A GPU's generic space takes many trials to come near the template, and much of its time between them.
    search = not templates.on_gpu(job.target) or len(job.known) + job.trials >= _TRIALS_TO_LEARN_FROM
    share = _SEED_SHARE if search else 1.0
    seeds = max(1, round(share * (left + len(tried)))) if left else 0
    for sch in itertools.islice(ranked, seeds):
        if job.time_is_up:
            break
        if left and _identity(sch) not in tried:
            left -= 1
            if seconds := attempt(sch):
                measured.append((sch, seconds))
    if (
        left and search and not job.time_is_up and count != 1
    ):  # an elementwise kernel has one sensible schedule
        _search(job, templates.design_space(job.mod, job.target), measured, tried, attempt, left)
    attempt.finals()


def _identity(sch: Schedule) -> int:
    """Equal for schedules that lead to the same code, by whatever trace."""
    return int(tvm_ffi.structural_hash(sch.mod))


def _search(
    job: _Job,
    templates: list[Schedule],
    measured: list[tuple[Schedule, list[float]]],
    tried: set[int],
    attempt: Callable[[Schedule], list[float] | None],
    left: int,
) -> None:
    """MetaSchedule's evolutionary search over the template's designs, or over its generic space."""
    generator = (
        ms.space_generator.ScheduleFn(lambda _sch: templates, sch_rules=[], postprocs=[], mutator_probs={})
        if templates
        else ms.space_generator.PostOrderApply()
    )
    context = ms.TuneContext(
        job.mod,
        target=job.target,
        space_generator=generator,
        search_strategy=ms.search_strategy.EvolutionarySearch(
            population_size=32, init_min_unmeasured=8, genetic_num_iters=1, max_fail_count=2
        ),
        rand_state=job.seed % (2**31 - 2) + 1,
        num_threads=1,
    )
    database = ms.database.MemoryDatabase()
    workload = database.commit_workload(job.mod)
    # A cost model learns nothing from a handful of trials, and its training takes as long as two of them.
    learning = len(job.known) + job.trials >= _TRIALS_TO_LEARN_FROM
    model = ms.cost_model.XGBModel(num_tuning_cores=1) if learning else ms.cost_model.RandomModel()
    past = [(sch, [seconds]) for sch, seconds in job.known]
    arguments = ms.arg_info.ArgInfo.from_entry_func(job.mod, remove_preproc=True)
    candidates = [ms.MeasureCandidate(sch, arguments) for sch, _ in [*past, *measured]]
    results = [ms.runner.RunnerResult(seconds, None) for _, seconds in [*past, *measured]]
    for candidate, result in zip(candidates, results, strict=True):
        database.commit_tuning_record(
            ms.database.TuningRecord(candidate.sch.trace, workload, result.run_secs, job.target, arguments)
        )
    if candidates:
        model.update(context, candidates, results)
    context.pre_tuning(job.trials * 4, _BATCH, context.generate_design_space(), database, model)
    while left > 0 and not job.time_is_up and (batch := context.generate_measure_candidates()):
        outcomes = []
        for candidate in batch:
            seconds = None
            if left > 0 and not job.time_is_up and _identity(candidate.sch) not in tried:
                left -= 1
                seconds = attempt(candidate.sch)
            outcomes.append(
                ms.runner.RunnerResult(seconds, None) if seconds else ms.runner.RunnerResult(None, "failed")
            )
            if seconds:
                database.commit_tuning_record(
                    ms.database.TuningRecord(candidate.sch.trace, workload, seconds, job.target, arguments)
                )
        if left > 0:
            context.notify_runner_results(batch, outcomes)
            model.update(context, batch, outcomes)


def main() -> None:
    """Serve until standard input closes."""
    link = Link()
    if sys.argv[1]:
        pin(tuple(int(cpu) for cpu in sys.argv[1].split(",")))
    load_cpu_intrinsics()
    gc.disable()  # a collection in the middle of a sample would count as the kernel's time
    for request in requests():
        gc.collect()
        mod = tvm.ir.load_json(request["mod"])
        known = [(_fitting(mod, trace), microseconds * 1e-6) for trace, microseconds in request["known"]]
        job = _Job(
            mod=mod,
            target=tvm.target.Target(request["target"]),
            l2_bytes=int(request["l2_bytes"]),
            known=[(sch, seconds) for sch, seconds in known if sch is not None],
            failed=[sch for trace in request["failed"] if (sch := _fitting(mod, trace)) is not None],
            hints=[schedules.Tiling(*hint) for hint in request["hints"]],
            trials=int(request["trials"]),
            deadline_s=time.monotonic() + request["seconds"] if request["seconds"] is not None else math.inf,
            seed=int(request["seed"]),
        )
        try:
            with _trials(job, request, link) as trials:
                if request["again"]:
                    trials.again([sch for sch, _ in job.known][:_FINALISTS])
                else:
                    _tune(job, trials)
        except TrackerUnreachable as error:
            link.send(event="failed", error=str(error), no_device=True)
        except (
            Exception
        ) as error:  # a search that TVM gives up on is the end of this kernel, not of the worker
            link.send(event="failed", error=(str(error).strip() or repr(error)).splitlines()[-1][:300])
        else:
            link.send(event="done")


def _fitting(mod: tvm.IRModule, trace: Any) -> Schedule | None:
    """Schedule of a trace, None if another version of the compiler made it."""
    try:
        return scheduled_by_trace(mod, trace)
    except ValueError:
        return None


if __name__ == "__main__":
    main()
