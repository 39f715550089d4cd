"""The one search pipeline: learn accuracy and latency, search under budgets, verify by measuring, ship."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace

from ofa_tvm.deploy import bare_runtime
from ofa_tvm.errors import UsageError, UserError
from ofa_tvm.estimators.contract import AccuracyModel
from ofa_tvm.job import in_job
from ofa_tvm.latency.bench import SubnetBench
from ofa_tvm.logs import find_records
from ofa_tvm.progress import NEVER, SILENT, Deadline, Progress
from ofa_tvm.search.budget import Budget
from ofa_tvm.search.candidates import VerifiedResult, best_first
from ofa_tvm.targets import Variant
from ofa_tvm.tuning import kernel_union
from ofa_tvm.workflow.learn import AccuracyCheck, learn_accuracy, learn_latency
from ofa_tvm.workflow.models import KnownLatency
from ofa_tvm.workflow.plan import search_parts
from ofa_tvm.workflow.predictors import covered_resolutions, search_resolutions
from ofa_tvm.workflow.request import (
    SearchOutcome,
    SearchRequest,
    TargetOutcome,
    TargetRequest,
    known_latency,
)
from ofa_tvm.workflow.search import TargetBudget, find_subnet, ship_best
from ofa_tvm.workflow.ship import Shipped

# Shares of the time that there is, by which a stage ends; shipping takes the rest.
_ACCURACY_BY, _LATENCY_BY, _SEARCHED_BY = 0.4, 0.7, 0.85

Stage = Callable[[str], AbstractContextManager[None]]
"""Encloses a stage, by its name; for those who count its seconds."""


@dataclass(frozen=True)
class _Run:
    """One request's search."""

    request: SearchRequest
    targets: Sequence[TargetBudget]
    accuracy: AccuracyModel
    found: VerifiedResult

    def outcome(
        self, shipped: Sequence[Shipped | None], seconds: float, others: Sequence[_Run]
    ) -> SearchOutcome:
        targets = (
            TargetOutcome(t.bench.target, t.budget, t.latency, done)
            for t, done in zip(self.targets, shipped, strict=True)
        )
        beaten = (run.outcome([None] * len(run.targets), seconds, ()) for run in others)
        return SearchOutcome(self.request, self.found, tuple(targets), self.accuracy, seconds, tuple(beaten))


def run_search(
    *requests: SearchRequest,
    deadline: Deadline = NEVER,
    progress: Progress = SILENT,
    stage: Stage = lambda name: nullcontext(),
) -> SearchOutcome:
    """The most accurate subnet whose measured cost is within the budget on every target, and its artefacts.

    Accuracy and latency are learned from measured subnets where the request or the store has no model; the
    search's best candidates are compiled and measured, the models corrected and the search repeated; what
    ships was measured once more within its budget.

    Parameters
    ----------
    requests
        What to search for. Several compete: the same budgets in other number formats, of which one that
        cannot be kept, or for which nothing is tuned, is only said.
    deadline
        By when to have found something: learning and searching end with what they have by then, the best
        found ships. Models of less than was asked for are used, not kept.
    progress
        Told of all that takes long, and of what is wrong with a tuning log.
    stage
        Entered for "learn accuracy", "measure and learn latency", "search under the budget" and "ship and
        check".

    Raises
    ------
    UsageError
        If a target has neither a tuning log nor a model, the models know no common resolution, or the space
        cannot reach a budget.
    UserError
        If something cannot be read, compiled, measured or written, or nothing that was measured is within
        the budgets.
    """
    start = time.monotonic()
    with in_job(progress, "search", search_parts(requests), deadline) as job, ExitStack() as stack:

        @contextmanager
        def phase(name: str) -> Iterator[None]:
            with stage(name), job.phase(name):
                yield

        runs = _searches(requests, stack, deadline, job, phase)
        shipped: Sequence[Shipped | None] = [None] * len(runs[0].targets)
        for run in runs:
            chosen = run
            if not any(one.artefact for one in run.request.targets):
                break
            try:
                with phase("ship and check"):
                    chosen, shipped = _ship(run, job)
                break
            except UserError as error:
                if run is runs[-1]:
                    raise
                _left_out(run.request, error, job)
        others = [other for other in runs if other is not run]
        return chosen.outcome(shipped, time.monotonic() - start, others)


def _searches(
    requests: Sequence[SearchRequest],
    stack: ExitStack,
    deadline: Deadline,
    progress: Progress,
    stage: Stage,
) -> list[_Run]:
    """What each request finds, the best first."""
    runs: list[_Run] = []
    errors: list[UserError] = []
    for number, request in enumerate(requests):
        part = deadline.within(number / len(requests), (number + 1) / len(requests))
        try:
            runs.append(_search(_with_budgets(request, runs), stack, part, progress, stage))
        except UserError as error:
            if len(requests) > 1:
                _left_out(request, error, progress)
            errors.append(error)
    if not runs:
        raise errors[0]
    return _best_first(runs)


def _best_first(runs: Sequence[_Run]) -> list[_Run]:
    """Of number formats, too, the fastest of those that are as accurate as the most accurate one."""
    winners = [run.found.winner for run in runs]
    order = best_first(winners, max(run.found.pool.one_image for run in runs))
    return [runs[next(i for i, w in enumerate(winners) if w is one)] for one in order]


def _left_out(request: SearchRequest, error: UserError, progress: Progress) -> None:
    progress.say(f"{request.targets[0].target.dtype} is left out: {error}")


def _with_budgets(request: SearchRequest, runs: Sequence[_Run]) -> SearchRequest:
    """The request with the budgets that an earlier run had, where it states none of its own."""
    if not runs:
        return request
    chosen = (
        replace(one, budget=one.budget or known.budget)
        for one, known in zip(request.targets, runs[0].targets, strict=True)
    )
    return replace(request, targets=tuple(chosen))


def _search(
    request: SearchRequest, stack: ExitStack, deadline: Deadline, progress: Progress, stage: Stage
) -> _Run:
    known = [known_latency(request, one) for one in request.targets]
    benches = [_bench(request, *pair, stack, progress) for pair in zip(request.targets, known, strict=True)]
    for one in request.targets:
        if request.with_runtime and one.artefact is not None:
            bare_runtime(one.target, progress=progress)  # what cannot be made is said before the search
    with stage("learn accuracy"):
        accuracy = request.accuracy
        if accuracy is None:
            accuracy = _learn_accuracy(request, deadline.within(0, _ACCURACY_BY), progress)
    with stage("measure and learn latency"):
        targets = [
            _budgeted(request, one, bench, latency, accuracy, deadline.within(0, _LATENCY_BY), progress)
            for one, bench, latency in zip(request.targets, benches, known, strict=True)
        ]
    with stage("search under the budget"):
        searched = deadline.within(0, _SEARCHED_BY)
        return _Run(request, targets, accuracy, _find(request, targets, accuracy, searched, progress))


def _bench(
    request: SearchRequest,
    one: TargetRequest,
    known: KnownLatency | None,
    stack: ExitStack,
    progress: Progress,
) -> SubnetBench:
    """What measures on a target; without a model of it there has to be a tuning log to learn one from."""
    records = find_records(one.target, [request.store.logs])
    for note in records.notes:
        progress.say(note)
    if known is None and not records.records:
        raise UsageError(
            f"target {one.target.name} has neither a tuning log nor a latency model; run ofa-tvm tune "
            f"{Variant.of(one.target).options()}, or give --latency-predictor or --latency-table"
        )
    return stack.enter_context(SubnetBench(request.net, one.target, records, progress=progress))


def _learn_accuracy(request: SearchRequest, deadline: Deadline, progress: Progress) -> AccuracyModel:
    if request.data is None:
        raise RuntimeError("a search without images has an accuracy predictor")
    return learn_accuracy(
        request.net,
        request.data,
        request.store,
        request.learned_resolutions,
        samples=request.accuracy_samples,
        start=request.accuracy_start,
        calibration_images=request.calibration_images,
        seed=request.seed,
        deadline=deadline,
        progress=progress,
    )


def _learn(
    request: SearchRequest,
    bench: SubnetBench,
    accuracy: AccuracyModel,
    deadline: Deadline,
    progress: Progress,
) -> KnownLatency:
    """A target's latency model, from the tuning log and some measurements."""
    space, target = request.net.space, bench.target
    wanted, known = request.learned_resolutions, covered_resolutions(space, [accuracy])
    sides = [side for side in wanted if side in known]
    if not sides:
        raise UsageError(
            f"the accuracy predictor knows none of the resolutions {', '.join(map(str, wanted))}; choose "
            f"among {', '.join(map(str, known))} with --resolutions"
        )
    progress.say(
        f"learning the latency of {target.name} from the tuning log and {request.latency_samples} measured "
        f"subnets, into {request.store.latency_model(Variant.of(target))}"
    )
    union = kernel_union(space, sides, target, n_classes=request.net.n_classes, progress=progress)
    return learn_latency(
        bench,
        union,
        request.store,
        sides,
        samples=request.latency_samples,
        seed=request.seed,
        deadline=deadline,
        progress=progress,
    )


def _budgeted(
    request: SearchRequest,
    one: TargetRequest,
    bench: SubnetBench,
    known: KnownLatency | None,
    accuracy: AccuracyModel,
    deadline: Deadline,
    progress: Progress,
) -> TargetBudget:
    latency = _learn(request, bench, accuracy, deadline, progress) if known is None else known
    budget = _median_budget(request, bench) if one.budget is None else one.budget
    return TargetBudget(bench, latency, budget)


def _median_budget(request: SearchRequest, bench: SubnetBench) -> Budget:
    """Measured cost of the median subnet, kept so that another run has the same budget."""
    variant = Variant.of(bench.target)
    if (kept := request.store.budget(variant)) is not None:
        return kept
    sides = request.learned_resolutions
    (result,) = bench.measure([request.net.space.median_arch(sides[len(sides) // 2])])
    budget = Budget(float(f"{result.cost:.3g}"), result.unit)
    request.store.keep_budget(variant, budget)
    return budget


def _find(
    request: SearchRequest,
    targets: Sequence[TargetBudget],
    accuracy: AccuracyModel,
    deadline: Deadline,
    progress: Progress,
) -> VerifiedResult:
    models = [accuracy, *(target.model for target in targets)]
    check = None
    if request.data is not None:
        check = AccuracyCheck(
            request.net,
            request.data,
            accuracy,
            request.store.accuracy_cache,
            calibration_images=request.calibration_images,
            seed=request.seed,
            progress=progress,
        )
    return find_subnet(
        targets,
        accuracy,
        search_resolutions(request.net.space, models, request.resolutions),
        check=check,
        constraints=request.limits,
        candidates=request.candidates,
        rounds=request.rounds,
        seed=request.seed,
        deadline=deadline,
        progress=progress,
    )


def _ship(run: _Run, progress: Progress) -> tuple[_Run, Sequence[Shipped | None]]:
    """The search with what was measured for shipping, and what shipped."""
    request = run.request
    if request.data is None:
        raise RuntimeError("a search without images ships nothing")
    found, shipped = ship_best(
        run.targets,
        request.data,
        [one.artefact for one in request.targets if one.artefact is not None],
        run.found,
        calibration_images=request.calibration_images,
        with_runtime=request.with_runtime,
        seed=request.seed,
        progress=progress,
    )
    return replace(run, found=found), shipped
