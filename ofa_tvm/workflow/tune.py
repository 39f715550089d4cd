"""Tuning campaigns of a project: what is left to do, how long it will take, and doing it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ofa_tvm.compiler.build import kernels_of, lower_onnx
from ofa_tvm.compiler.graph import Shapes, read_onnx
from ofa_tvm.compiler.kernels import Kernel
from ofa_tvm.devices import TrackerUnreachable, fleet_size
from ofa_tvm.errors import UserError
from ofa_tvm.files import write_atomic
from ofa_tvm.jsonfile import parse_json
from ofa_tvm.logs import find_records, log_name, read_folder
from ofa_tvm.measurement.pinning import allowed_cpus
from ofa_tvm.progress import SILENT, Progress
from ofa_tvm.targets import Target
from ofa_tvm.tuning import TuningResult, allot, trials_left, tune_kernels

DEFAULT_TRIAL_S = 0.25
"""Of one trial in one worker, where no campaign has been timed: kernels of `ofa_mbv3_w1.0` on a desktop."""

START_S = 4.0
"""Until the workers are ready."""

_PACE = "pace.json"
_ENOUGH = 50  # trials, fewer of which say how long workers take to start


@dataclass(frozen=True)
class KindPlan:
    """Kernels of one kind (the same operators, other shapes).

    Parameters
    ----------
    kind
        Operators, as in "conv2d+add+relu".
    kernels
        Distinct ones.
    calls
        How often they occur in the networks that were enumerated.
    logged
        Those with a record in the target's own log.
    trials
        Trials left.
    """

    kind: str
    kernels: int
    calls: int
    logged: int
    trials: int


@dataclass(frozen=True)
class TuningPlan:
    """What a campaign would do.

    Parameters
    ----------
    kinds
        The kernels by kind, the most frequent first.
    elsewhere
        Those without a record there of which a log that ships, or of a compatible target, has a schedule.
    workers
        Processes that would tune at once: one for the threads of a module here, or one a device that the
        tracker has now, be it none.
    trial_s
        Seconds of one trial in one worker.
    timed
        Whether `trial_s` was measured by earlier campaigns of this log, else it is the stated default.
    """

    kinds: tuple[KindPlan, ...]
    elsewhere: int
    workers: int
    trial_s: float
    timed: bool

    @property
    def kernels(self) -> int:
        """Distinct kernels."""
        return sum(kind.kernels for kind in self.kinds)

    @property
    def logged(self) -> int:
        """Kernels with a record."""
        return sum(kind.logged for kind in self.kinds)

    @property
    def trials(self) -> int:
        """Trials left."""
        return sum(kind.trials for kind in self.kinds)

    @property
    def seconds(self) -> float:
        """Estimated wall-clock time of the trials left, with one device where there is none now."""
        return START_S + self.trials * self.trial_s / max(1, self.workers) if self.trials else 0.0


def model_kernels(path: Path, target: Target, shapes: Shapes | None = None) -> tuple[Kernel, ...]:
    """Distinct kernels of one ONNX model.

    Parameters
    ----------
    path
        ONNX file.
    target
        Decides layout and fusion.
    shapes
        Sizes of dynamic input shapes, by input name.

    Raises
    ------
    UsageError, UserError
        If the file cannot be read or imported, or a dynamic shape is not given.
    """
    found: dict[str, Kernel] = {}
    for kernel in kernels_of(lower_onnx(read_onnx(path), target, shapes, str(path))).values():
        known = found.get(kernel.key)
        found[kernel.key] = kernel if known is None else replace(known, calls=known.calls + kernel.calls)
    return tuple(found.values())


def plan_tuning(
    kernels: Sequence[Kernel],
    target: Target,
    root: Path,
    trials: int,
    weights: Mapping[str, float] | None = None,
) -> TuningPlan:
    """Count what `tune` with the same arguments would do.

    Parameters
    ----------
    kernels
        What to tune.
    target
        The target.
    root
        Folder of logs.
    trials
        Trials that a kernel of mean weight shall have.
    weights
        Mean calls of each kernel in the networks that matter, by its key; by default its `calls`.
    """
    wanted = allot(kernels, trials, weights)
    folder = root / log_name(target)
    table = read_folder(folder, folder.name)
    by_kind: dict[str, list[Kernel]] = {}
    for kernel in kernels:
        by_kind.setdefault(kernel.signature.kind, []).append(kernel)
    kinds = [
        KindPlan(
            kind,
            len(members),
            sum(kernel.calls for kernel in members),
            sum(table.best(kernel.key) is not None for kernel in members),
            sum(trials_left(kernel, table, target, wanted[kernel.key]) for kernel in members),
        )
        for kind, members in by_kind.items()
    ]
    trials_made, worker_s = _read_pace(folder) or (0, 0.0)
    timed = trials_made >= _ENOUGH
    served = find_records(target, [root])
    return TuningPlan(
        tuple(sorted(kinds, key=lambda kind: -kind.calls)),
        sum(table.best(k.key) is None and served.best(k.key) is not None for k in kernels),
        campaign_workers(target),
        worker_s / trials_made if timed else DEFAULT_TRIAL_S,
        timed,
    )


def tune(
    kernels: Sequence[Kernel],
    target: Target,
    root: Path,
    *,
    trials: int = 16,
    seconds: float | None = None,
    seed: int = 0,
    weights: Mapping[str, float] | None = None,
    progress: Progress = SILENT,
) -> TuningResult:
    """`tune_kernels`, started from what other logs know, and noting how long trials take, for estimates.

    Raises
    ------
    UserError
        As `tune_kernels`, and if every trial there ever was of these kernels failed.
    """
    result = tune_kernels(
        kernels,
        target,
        root,
        trials=trials,
        seconds=seconds,
        seed=seed,
        weights=weights,
        start=find_records(target, [root]),
        progress=progress,
    )
    if result.trials:
        folder = root / log_name(target)
        before = _read_pace(folder) or (0, 0.0)
        pace = {
            "trials": before[0] + result.trials,
            "worker_seconds": before[1] + max(0.0, result.seconds - START_S) * result.workers,
        }
        write_atomic(folder / _PACE, json.dumps(pace))
    failures = [record for kernel in kernels for record in result.records.failures.get(kernel.key, ())]
    if failures and not result.tuned:
        raise UserError(
            f"no trial on target {target.name} worked, of {len(failures)}; {failures[-1].name} ended with: "
            f"{failures[-1].error}; see {root / log_name(target)}"
        )
    return result


def campaign_workers(target: Target) -> int:
    """Processes that a campaign would run at once; 0 if the tracker has no device or cannot be asked."""
    if target.run.where == "local":
        return max(1, len(allowed_cpus()) // target.threads)
    try:
        return fleet_size(target)
    except TrackerUnreachable:  # a plan does without; a campaign says what is wrong
        return 0


def _read_pace(folder: Path) -> tuple[int, float] | None:
    """Trials so far and the worker seconds that they took; None if unknown (a note, so never an error)."""
    try:
        content = parse_json((folder / _PACE).read_bytes())
        trials, seconds = int(content["trials"]), float(content["worker_seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return (trials, seconds) if trials > 0 and seconds > 0 else None
