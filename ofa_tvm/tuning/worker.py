"""The process that tunes kernels: it searches, builds and times, and reports every trial as it ends.

All of a kernel's work happens in one warm process that loads only what a CPU target needs: no module is
sent, no process is started and nothing is linked for a trial. A schedule that crashes or hangs takes the
process with it; the parent knows which one it was, records the failure, and goes on in a new process.
"""

from __future__ import annotations

import itertools
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ofa_tvm.compiler.toolchain import load_cpu_intrinsics
from ofa_tvm.measurement.module import leave_torch_out

leave_torch_out()

import numpy as np  # noqa: E402
import tvm  # noqa: E402
import tvm_ffi  # noqa: E402
from tvm.s_tir import Schedule  # noqa: E402
from tvm.s_tir import meta_schedule as ms  # noqa: E402

from ofa_tvm.compiler import schedules  # noqa: E402
from ofa_tvm.compiler.kernels import shapes  # noqa: E402
from ofa_tvm.compiler.traces import scheduled_by_trace, trace_json  # noqa: E402
from ofa_tvm.measurement.pinning import pin  # noqa: E402
from ofa_tvm.process import Link, requests  # noqa: E402

_REPEATS = 3
_SAMPLE_S = 2e-3
_HOPELESS = 3.0  # a first call this many times slower than the best known ends a trial early
_SEED_SHARE = 0.6  # of the trials go to the template's own ranking, the others to the search
_BATCH = 4
_TRIALS_TO_LEARN_FROM = 16

Attempt = Callable[[Schedule], list[float] | None]
"""Builds, times and reports a schedule; seconds, or None if it failed."""


@dataclass(frozen=True)
class _Job:
    """One kernel to tune; `known` are its schedules so far with their seconds, `failed` those that failed."""

    mod: tvm.IRModule
    target: tvm.target.Target
    known: list[tuple[Schedule, float]]
    failed: list[Schedule]
    trials: int
    seed: int


class _Timer:
    """Builds and times schedules of one kernel on random data."""

    def __init__(self, job: _Job) -> None:
        # Values from 0 to 1: integers are valid indices, and no root or logarithm is invalid.
        rng = np.random.default_rng(0)
        self._job = job
        function = job.mod["main"]
        self._arguments = [
            tvm.runtime.tensor(rng.random(shape).astype(str(buffer.dtype)))
            for shape, buffer in zip(shapes(function), function.params, strict=True)
        ]
        self.best_s = min((seconds for _, seconds in job.known), default=float("inf"))

    def __call__(self, sch: Schedule) -> list[float]:
        """Seconds of one call: three samples, or one if it is hopeless."""
        library = tvm.compile(sch.mod, target=self._job.target)
        call = library["main"]
        call(*self._arguments)
        start = time.perf_counter()
        call(*self._arguments)
        once = time.perf_counter() - start
        if once > _HOPELESS * self.best_s and once > 50e-6:
            return [once]
        samples = []
        evaluator = library.jit().time_evaluator(
            "main", tvm.cpu(), number=max(1, round(_SAMPLE_S / max(once, 1e-7))), repeat=1
        )
        for _ in range(_REPEATS):
            samples.append(float(evaluator(*self._arguments).mean))
        self.best_s = min(self.best_s, statistics.median(samples))
        return samples


def _tune(job: _Job, link: Link) -> None:
    """Spend the job's trials, telling the parent before and after each."""
    mach = schedules.machine(job.target)
    measure = _Timer(job)
    tried = {_identity(sch) for sch in [*(sch for sch, _ in job.known), *job.failed]}
    left = job.trials

    def attempt(sch: Schedule) -> list[float] | None:
        trace = trace_json(sch)
        tried.add(_identity(sch))
        link.send(event="trying", trace=trace)
        try:
            seconds = measure(sch)
        except Exception as error:  # whatever a build raises is a failed trial, not a failed campaign
            reason = (str(error).strip() or repr(error)).splitlines()[-1]
            link.send(event="trial", trace=trace, times_us=[], error=reason[:300])
            return None
        link.send(event="trial", trace=trace, times_us=[s * 1e6 for s in seconds])
        return seconds

    measured: list[tuple[Schedule, list[float]]] = []
    ranked = schedules.ranked_schedules(job.mod, mach)
    if schedules.count(job.mod, mach) is None:
        ranked = iter([Schedule(job.mod)])  # plain loops, so that a tuned kernel is never slower than these
    seeds = max(1, round(_SEED_SHARE * (left + len(tried)))) if left else 0
    for sch in itertools.islice(ranked, seeds):
        if left and _identity(sch) not in tried:
            left -= 1
            if seconds := attempt(sch):
                measured.append((sch, seconds))
    if left and schedules.count(job.mod, mach) != 1:  # an elementwise kernel has one sensible schedule
        _search(job, schedules.design_space(job.mod, mach), measured, tried, attempt, left)


def _identity(sch: Schedule) -> int:
    """Equal for schedules that lead to the same code, by whatever trace."""
    return int(tvm_ffi.structural_hash(sch.mod))


def _search(
    job: _Job,
    templates: list[Schedule],
    measured: list[tuple[Schedule, list[float]]],
    tried: set[int],
    attempt: Attempt,
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
    while left > 0 and (batch := context.generate_measure_candidates()):
        outcomes = []
        for candidate in batch:
            seconds = None
            if left > 0 and _identity(candidate.sch) not in tried:
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
    pin(tuple(int(cpu) for cpu in sys.argv[1].split(",")))
    load_cpu_intrinsics()
    for request in requests():
        mod = tvm.ir.load_json(request["mod"])
        known = [(_fitting(mod, trace), microseconds * 1e-6) for trace, microseconds in request["known"]]
        job = _Job(
            mod=mod,
            target=tvm.target.Target(request["target"]),
            known=[(sch, seconds) for sch, seconds in known if sch is not None],
            failed=[sch for trace in request["failed"] if (sch := _fitting(mod, trace)) is not None],
            trials=int(request["trials"]),
            seed=int(request["seed"]),
        )
        try:
            _tune(job, link)
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
