"""Which schedules of a kernel are tried: the template's best, then what an evolutionary search finds."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass

import tvm
from tvm.s_tir import Schedule
from tvm.s_tir import meta_schedule as ms

from ofa_tvm.compiler.templates import templates_of
from ofa_tvm.compiler.tilings import Tiling
from ofa_tvm.tuning.trials import Trials

_SEED_SHARE = 0.6  # of the trials go to the template's own ranking, the others to the search
_BATCH = 4
_TRIALS_TO_LEARN_FROM = 16


@dataclass(frozen=True)
class Job:
    """One kernel to tune.

    Parameters
    ----------
    mod, target
        The kernel and TVM's target.
    known
        Its schedules so far with their seconds.
    failed
        Those that failed.
    hints
        Tilings of similar kernels, nearest first.
    trials
        How many to make.
    deadline_s
        Of the monotonic clock, after which no trial is begun.
    seed
        Of the search.
    """

    mod: tvm.IRModule
    target: tvm.target.Target
    known: list[tuple[Schedule, float]]
    failed: list[Schedule]
    hints: list[Tiling]
    trials: int
    deadline_s: float
    seed: int

    @property
    def best_s(self) -> float:
        """Of the best schedule so far; infinite without one."""
        return min((seconds for _, seconds in self.known), default=float("inf"))

    @property
    def tried(self) -> list[Schedule]:
        """All schedules so far."""
        return [*(sch for sch, _ in self.known), *self.failed]

    @property
    def learns(self) -> bool:
        """Whether there are trials enough for a cost model, whose training takes as long as two of them."""
        return len(self.known) + self.trials >= _TRIALS_TO_LEARN_FROM

    @property
    def time_is_up(self) -> bool:
        """Whether no further trial should be begun."""
        return time.monotonic() > self.deadline_s


def tune(job: Job, attempt: Trials) -> None:
    """Spend the job's trials."""
    left = job.trials
    measured: list[tuple[Schedule, list[float]]] = []
    templates = templates_of(job.target)
    plain = templates.untemplated(job.mod)
    ranked = templates.ranked(job.mod, job.hints) if plain is None else iter([plain])
    search = templates.learns_from_few or job.learns
    share = _SEED_SHARE if search else 1.0
    seeds = max(1, round(share * (left + attempt.tried))) if left else 0
    for sch in itertools.islice(ranked, seeds):
        if job.time_is_up:
            break
        if left and attempt.is_new(sch):
            left -= 1
            if seconds := attempt(sch):
                measured.append((sch, seconds))
    # An elementwise kernel has one sensible schedule.
    if left and search and not job.time_is_up and templates.count(job.mod) != 1:
        _evolve(job, measured, attempt, left)
    attempt.finals()


def _evolve(job: Job, measured: list[tuple[Schedule, list[float]]], attempt: Trials, left: int) -> None:
    """MetaSchedule's evolutionary search over the template's designs, or over its generic space."""
    context = _context(job)
    database = ms.database.MemoryDatabase()
    workload = database.commit_workload(job.mod)
    model = ms.cost_model.XGBModel(num_tuning_cores=1) if job.learns else ms.cost_model.RandomModel()
    arguments = ms.arg_info.ArgInfo.from_entry_func(job.mod, remove_preproc=True)

    def remember(sch: Schedule, seconds: list[float]) -> None:
        database.commit_tuning_record(
            ms.database.TuningRecord(sch.trace, workload, seconds, job.target, arguments)
        )

    past = [*((sch, [seconds]) for sch, seconds in job.known), *measured]
    for sch, seconds in past:
        remember(sch, seconds)
    if past:
        candidates = [ms.MeasureCandidate(sch, arguments) for sch, _ in past]
        model.update(context, candidates, [ms.runner.RunnerResult(seconds, None) for _, seconds in past])
    context.pre_tuning(job.trials * 4, _BATCH, context.generate_design_space(), database, model)
    while left > 0 and not job.time_is_up and (batch := context.generate_measure_candidates()):
        outcomes = []
        for candidate in batch:
            made = None
            if left > 0 and not job.time_is_up and attempt.is_new(candidate.sch):
                left -= 1
                made = attempt(candidate.sch)
            outcomes.append(ms.runner.RunnerResult(made, None if made else "failed"))
            if made:
                remember(candidate.sch, made)
        if left > 0:
            context.notify_runner_results(batch, outcomes)
            model.update(context, batch, outcomes)


def _context(job: Job) -> ms.TuneContext:
    designs = templates_of(job.target).design_space(job.mod)
    generator = (
        ms.space_generator.ScheduleFn(lambda _sch: designs, sch_rules=[], postprocs=[], mutator_probs={})
        if designs
        else ms.space_generator.PostOrderApply()
    )
    return ms.TuneContext(
        job.mod,
        target=job.target,
        space_generator=generator,
        search_strategy=ms.search_strategy.EvolutionarySearch(
            population_size=32, init_min_unmeasured=8, genetic_num_iters=1, max_fail_count=2
        ),
        rand_state=job.seed % (2**31 - 2) + 1,
        num_threads=1,
    )
