"""True latencies of subnets: extract, export, compile with the tuning log, measure, write down."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from itertools import takewhile
from pathlib import Path

import numpy as np

from ofa_tvm import __version__
from ofa_tvm.errors import UserError
from ofa_tvm.estimators.contract import Function
from ofa_tvm.job import Part, in_job
from ofa_tvm.latency.bench import Measured, SubnetBench
from ofa_tvm.latency.dataset import Column
from ofa_tvm.latency.writer import LatencyWriter
from ofa_tvm.measurement import Measurement
from ofa_tvm.measurement.protocol import best_pass
from ofa_tvm.progress import NEVER, SILENT, Deadline, Progress
from ofa_tvm.spaces import Arch, Space
from ofa_tvm.targets import Target

_GROUP = 16
# Rows that a table gets whatever the deadline, and that are measured in turns where there is one.
_LEAST = 4
# The reference subnet's time may differ so much from its first one before a group counts as drifted.
_DRIFT = 0.05
# Measured again at most so often.
_AGAIN = 2
_PHASE, _GUESSED_S = "measure subnets", 1.0


def draw_subnets(
    space: Space, n: int, resolutions: Sequence[int], seed: int, cost: Function | None = None
) -> list[Arch]:
    """Distinct random subnets, fewer than `n` only if the space has no more; of each resolution one at least.

    Parameters
    ----------
    cost
        Without it each dimension is uniform. With it, e.g. a predicted latency, the subnets are spread evenly
        over its range, so that small and large ones are as frequent as those between.
    """
    rng = np.random.default_rng(seed)
    wanted = n if cost is None else 20 * n
    sample: list[Arch] = []
    for _ in range(100):
        if len(sample) >= wanted:
            break
        drawn = space.decode(space.sample_genes(rng, wanted, resolutions))
        sample = list(dict.fromkeys([*sample, *drawn]))
    if cost is None or len(sample) <= n:
        return _of_each(resolutions, sample[:n])
    costs = cost(space.encode(sample))
    chosen: dict[int, None] = {}
    for aim in rng.permutation(np.linspace(costs.min(), costs.max(), n)):
        nearest = next(int(i) for i in np.argsort(np.abs(costs - aim)) if int(i) not in chosen)
        chosen[nearest] = None
    return _of_each(resolutions, [sample[i] for i in chosen])


def _of_each(resolutions: Sequence[int], sample: list[Arch]) -> list[Arch]:
    """The sample with the last of the most frequent resolution changed to one that is missing, for each such.

    A model of few measurements would otherwise know nothing of a resolution that is asked for.
    """
    for missing in sorted(set(resolutions) - {arch.r for arch in sample}):
        (common, count), *_ = Counter(arch.r for arch in sample).most_common(1) or [(0, 0)]
        if count < 2:
            break  # there are more resolutions than subnets
        last = max(i for i, arch in enumerate(sample) if arch.r == common)
        sample = [*sample[:last], sample[last].replace(r=missing), *sample[last + 1 :]]
    return sample


def _each_resolution_first(archs: Sequence[Arch]) -> list[Arch]:
    """A model of few of them knows every resolution."""
    return list(dict.fromkeys([*{arch.r: arch for arch in archs}.values(), *archs]))


def first_guess(space: Space, target: Target) -> Function:
    """Latencies in no particular unit: by the target's hardware where it is known, else by MACs."""
    from ofa_tvm.latency.generalized import shipped_model
    from ofa_tvm.targets.devices import Platform

    try:
        return shipped_model().zero_shot(space, Platform.of(target))
    except UserError:
        return lambda genes: space.macs_batch(genes).astype(np.float64)


def collect(
    bench: SubnetBench,
    path: Path,
    n: int,
    resolutions: Sequence[int],
    *,
    seed: int = 0,
    archs: Sequence[Arch] | None = None,
    spread: bool = False,
    deadline: Deadline = NEVER,
    progress: Progress = SILENT,
) -> LatencyWriter:
    """Measure `n` random subnets into a latency table, row by row.

    A table that is already there is extended: subnets in it are not measured again. Every group of subnets is
    measured in turns with one that stays the same: where that one's time has drifted, the machine was in
    another state, and the group is measured again. So are single subnets whose samples scatter. The boards of
    a tracker share the groups: what one was at when it vanished is measured by another.

    Parameters
    ----------
    bench
        What compiles and measures.
    path
        The CSV file, with one column for the bench's target.
    n
        Rows that the table shall have.
    resolutions
        Drawn uniformly, as every other dimension.
    seed
        Of the sample.
    archs
        Measure these instead of random ones.
    spread
        Draw subnets evenly over their predicted latency instead.
    deadline
        Once it is over no group of subnets but the first is begun if the table has four rows, and one of each
        resolution.
    progress
        Told of every subnet.

    Raises
    ------
    UserError
        If the table holds something else or another process measures into it, or a subnet cannot be compiled
        or measured.
    """
    space, target = bench.net.space, bench.target
    guess = first_guess(space, target) if spread else None
    with LatencyWriter(path, space, Column.of(target)) as writer:
        sample = list(archs) if archs is not None else draw_subnets(space, n, resolutions, seed, guess)
        waiting = [arch for arch in dict.fromkeys(sample) if arch not in writer.measured]
        reference = space.min_arch(min(resolutions)) if target.unit == "ms" else None
        usual: dict[str, float] = {}  # by board
        writing = threading.Lock()  # boards finish at any time
        parts = [Part(_PHASE, "measuring subnets", len(waiting), _GUESSED_S)]
        with (
            in_job(progress, "collect", parts, deadline) as job,
            job.phase(_PHASE),
            job.task("measuring subnets", len(waiting)) as task,
        ):

            def work(group: Sequence[Arch], measure: Measured) -> None:
                results, pace = measure(group)
                for _ in range(_AGAIN):
                    if not _drifted(pace, usual):
                        break
                    results, pace = measure(group)
                results = _quieter(measure, group, results)
                with writing:
                    for arch, result in zip(group, results, strict=True):
                        _write(writer, arch, result, pace, _drifted(pace, usual), bench.net.n_classes)
                    task.advance(len(group), f"{results[-1].cost:.4g} {results[-1].unit}")

            # Small enough that each board has two at least, and that none is long without work at the end.
            size = min(_GROUP, -(-len(waiting) // (2 * bench.boards))) if bench.boards else _GROUP
            least = max(_LEAST, len({arch.r for arch in sample}))
            if deadline != NEVER:
                size, waiting = min(size, _LEAST), _each_resolution_first(waiting)
            starts = takewhile(
                lambda start: not start or not deadline.is_over or len(writer.measured) < least,
                range(0, len(waiting), size or 1),
            )
            groups = (waiting[start : start + size] for start in starts)
            bench.each(groups, work, reference)
    return writer


def _write(
    writer: LatencyWriter,
    arch: Arch,
    result: Measurement,
    pace: Measurement | None,
    drifted: bool,
    n_classes: int,
) -> None:
    if not result.cost > 0:
        raise UserError(f"subnet {arch.to_json()} gave the latency {result.cost}")
    writer.append(
        arch,
        result.cost,
        mad_ms=result.mad_ms,
        repeats=result.repeats,
        threads=result.threads,
        noisy=result.noisy,
        reference_ms=None if pace is None else pace.cost,
        drifted=drifted,
        machine=result.machine,
        **({"board": result.device} if result.device else {}),
        **({} if result.conditions is None else {"conditions": result.conditions.to_json()}),
        date=result.date,
        n_classes=n_classes,
        versions=_versions(),
    )


def _drifted(pace: Measurement | None, usual: dict[str, float]) -> bool:
    """Whether the reference takes another time than at first, on the same board."""
    return pace is not None and abs(pace.cost / usual.setdefault(pace.device, pace.cost) - 1) > _DRIFT


def _quieter(measure: Measured, group: Sequence[Arch], results: Sequence[Measurement]) -> list[Measurement]:
    """Noisy subnets measured again, the most believable measurement of each."""
    best = list(results)
    for _ in range(_AGAIN):
        noisy = [i for i, result in enumerate(best) if result.noisy]
        if not noisy:
            break
        again, _ = measure([group[i] for i in noisy])
        for i, result in zip(noisy, again, strict=True):
            passes = [best[i], result]
            best[i] = passes[best_pass([(one.cost, one.mad_ms or 0.0) for one in passes])]
    return best


def _versions() -> dict[str, str]:
    return {"ofa-tvm": __version__, "apache-tvm": version("apache-tvm")}
