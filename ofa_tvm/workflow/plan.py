"""What a search, a latency table or evaluations have to do, and how long it takes: one of each is timed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from ofa_tvm.accuracy.evaluate import evaluate_subnets, unevaluated
from ofa_tvm.job import Part
from ofa_tvm.latency.bench import CANDIDATES, SubnetBench
from ofa_tvm.latency.dataset import read_table
from ofa_tvm.logs import KernelTable, find_records
from ofa_tvm.search.evolution import Evolution
from ofa_tvm.spaces import Arch, Space
from ofa_tvm.supernet import Supernet
from ofa_tvm.targets import Target, Variant
from ofa_tvm.training.data import ImageData
from ofa_tvm.tuning import subnets_to_lower
from ofa_tvm.workflow.learn import accuracy_sample
from ofa_tvm.workflow.request import SearchRequest, TargetRequest, known_latency
from ofa_tvm.workflow.steps import Plan, Step

# Guesses until the first one is done, for one core.
_MACS_PER_S = 1e10  # of a network in PyTorch
_COMPILED_MACS_PER_S = 2e8  # of one that is compiled and measured
_SEARCH_S, _SHIP_S = 2.0, 8.0
ENUMERATE_S = 0.3


def search_plan(requests: Sequence[SearchRequest], *, timed: bool = False) -> Plan:
    """What `run_search` does at most for requests that compete.

    With `timed`, one subnet is evaluated and, on each target, one compiled and measured; nothing is kept.

    Raises
    ------
    UserError
        If something cannot be read, compiled or measured.
    """
    return Plan(tuple(step for request in requests for step in _steps(request, timed) if step.units))


def _steps(request: SearchRequest, timed: bool) -> list[Step]:
    net, targets = request.net, [one.target for one in request.targets]
    median = net.space.median_arch(request.learned_resolutions[-1])
    of = "" if targets[0].dtype == "float32" else f" in {targets[0].dtype}"
    evaluation_s: float | None = None
    measurements_s: list[float | None] = [None] * len(targets)
    if timed:
        measurements_s = [
            time_measurement(net, target, find_records(target, [request.store.logs]), median)
            for target in targets
        ]
        if request.data is not None:
            evaluation_s = time_evaluation(
                net, median, request.data, "val", request.calibration_images, request.seed
            )
    candidate_s = sum(seconds or 0.0 for seconds in (*measurements_s, evaluation_s)) if timed else None
    return [
        Step(f"evaluate a subnet{of}", _to_evaluate(request), evaluation_s),
        *(
            Step(f"enumerate a subnet's kernels for {one.target.name}{of}", _to_lower(request, one), None)
            for one in request.targets
        ),
        *(
            Step(f"measure a subnet on {one.target.name}{of}", _to_measure(request, one), seconds)
            for one, seconds in zip(request.targets, measurements_s, strict=True)
        ),
        Step(f"measure a candidate{of}", request.rounds * request.candidates, candidate_s),
        Step(f"build and check what ships{of}", sum(one.artefact is not None for one in request.targets)),
    ]


def search_parts(requests: Sequence[SearchRequest]) -> list[Part]:
    """The same work as parts of a job: what `run_search` does at most, with guesses of how long it takes."""
    return [part for request in requests for part in _parts(request)]


def _parts(request: SearchRequest) -> list[Part]:
    return SearchWork(
        request.net.space,
        request.learned_resolutions,
        learned=len(_accuracy_sample(request)) if _to_evaluate(request) else 0,  # tasks count known ones, too
        measured=sum(_to_measure(request, one) for one in request.targets),
        lowered=sum(_to_lower(request, one) for one in request.targets),
        searched=request.rounds * request.candidates,
        rounds=request.rounds,
        images=request.calibration_images + (0 if request.data is None else request.data.size("val")),
        evaluates=request.data is not None,
        targets=len(request.targets),
        ships=sum(one.artefact is not None for one in request.targets),
    ).parts()


@dataclass(frozen=True)
class SearchWork:
    """How many subnets a search lowers, learns from, measures, searches for and ships."""

    space: Space
    resolutions: Sequence[int]
    learned: int
    measured: int
    searched: int
    rounds: int
    images: int
    lowered: int = 0
    evaluates: bool = True
    targets: int = 1
    ships: int = 1

    def parts(self) -> list[Part]:
        """As parts of a job, with guesses of their time."""
        macs = self.space.macs(self.space.median_arch(self.resolutions[-1]))
        evaluate_s, measure_s = 0.05 + macs * self.images / _MACS_PER_S, 0.3 + macs / _COMPILED_MACS_PER_S
        generations, phase = Evolution().generations, "search under the budget"
        candidates = self.searched * self.targets
        checked = self.searched if self.evaluates else 0
        return [
            Part("learn accuracy", "evaluate subnets", self.learned, evaluate_s, "evaluate"),
            Part("measure and learn latency", "enumerating kernels", self.lowered, ENUMERATE_S),
            Part("measure and learn latency", "measuring subnets", self.measured, measure_s, "measure"),
            Part(phase, "search", self.rounds * generations, _SEARCH_S / generations),
            Part(phase, CANDIDATES, candidates, measure_s, "measure"),
            Part(phase, "evaluate subnets", checked, evaluate_s, "evaluate"),
            *([Part("ship and check", "build and check what ships", self.ships, _SHIP_S)] * bool(self.ships)),
        ]


def _accuracy_sample(request: SearchRequest) -> list[Arch]:
    return accuracy_sample(
        request.net.space,
        request.learned_resolutions,
        request.accuracy_samples,
        request.accuracy_start,
        request.seed,
    )


def _to_evaluate(request: SearchRequest) -> int:
    """Subnets that an accuracy predictor is missing."""
    if request.accuracy is not None or request.data is None:
        return 0
    left = unevaluated(
        request.net,
        _accuracy_sample(request),
        request.data,
        calibration_images=request.calibration_images,
        cache_path=request.store.accuracy_cache,
        seed=request.seed,
    )
    return len(left)


def _to_measure(request: SearchRequest, one: TargetRequest) -> int:
    """Subnets that a latency model is missing."""
    if known_latency(request, one) is not None:
        return 0
    table = request.store.latency_table(Variant.of(one.target))
    known = len(read_table(table, request.net.space)) if table.exists() else 0
    return max(0, request.latency_samples - known)


def _to_lower(request: SearchRequest, one: TargetRequest) -> int:
    """Subnets whose kernels a latency model is missing."""
    if known_latency(request, one) is not None:
        return 0
    space, sides = request.net.space, request.learned_resolutions
    return subnets_to_lower(space, sides, one.target, n_classes=request.net.n_classes)


def time_measurement(net: Supernet, target: Target, records: KernelTable, arch: Arch) -> float:
    """Seconds to compile and measure a subnet.

    Raises
    ------
    UserError
        If it cannot be.
    """
    with SubnetBench(net, target, records) as bench:
        start = time.monotonic()
        bench.measure([arch])
        return time.monotonic() - start


def time_evaluation(
    net: Supernet, arch: Arch, data: ImageData, split: str, calibration_images: int, seed: int
) -> float:
    """Seconds to calibrate a subnet and count its right answers; the second time, which is as usual."""
    times = []
    for _ in range(2):
        start = time.monotonic()
        evaluate_subnets(net, [arch], data, split, calibration_images=calibration_images, seed=seed)
        times.append(time.monotonic() - start)
    return min(times)
