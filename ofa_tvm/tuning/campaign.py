"""A tuning campaign: kernels in the order of the time they stand for, trials logged as they are made."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import tvm

from ofa_tvm.compiler.kernels import Kernel
from ofa_tvm.compiler.transfer import Transfer
from ofa_tvm.errors import UserError
from ofa_tvm.job import Part, in_job
from ofa_tvm.logs import Header, KernelTable, LogWriter, log_name, read_folder, timed_on
from ofa_tvm.measurement.devices import device_name
from ofa_tvm.progress import SILENT, Deadline, Progress, Task
from ofa_tvm.targets import Machine, Target, detect_machine
from ofa_tvm.targets.kinds import KINDS
from ofa_tvm.tuning.allotment import Weights, allot, by_time, by_weight, trials_left
from ofa_tvm.tuning.crew import Crew, Order
from ofa_tvm.tuning.ledger import Ledger

_GUESSED_S = 1.0  # of a kernel, until the first one is tuned


@dataclass(frozen=True)
class TuningResult:
    """What a campaign did.

    Parameters
    ----------
    kernels
        Distinct kernels asked for.
    tuned
        How many of them have a record now.
    trials, failed
        Trials made in this campaign, and how many of them failed.
    seconds
        Wall-clock time of this campaign.
    workers
        Processes that tuned at once, each with CPUs or a device of its own; 0 if there was nothing to do.
    complete
        Whether every kernel got its trials (False: the time was up).
    records
        All records of the target, old and new.
    """

    kernels: int
    tuned: int
    trials: int
    failed: int
    seconds: float
    workers: int
    complete: bool
    records: KernelTable = field(repr=False)


def tune_kernels(
    kernels: Sequence[Kernel],
    target: Target,
    root: Path,
    *,
    trials: int = 16,
    seconds: float | None = None,
    seed: int = 0,
    weights: Weights | None = None,
    start: KernelTable | None = None,
    progress: Progress = SILENT,
) -> TuningResult:
    """Tune kernels on the target until each has its trials in the log, or the time is up.

    The target is this machine, or all devices that its tracker has, or emulated ones.

    Every trial is appended to the log under `root` as it ends, so that a killed campaign loses only the one
    in flight and the same call goes on where it stopped.

    Parameters
    ----------
    kernels
        What to tune. Those that take most of the time (calls times operations) come first and get more
        trials, see `allot`.
    target
        A target that runs on this machine, on a tracker's devices or in the emulator.
    root
        Folder of logs; the target's own is made in it.
    trials
        Trials for a kernel of mean weight, those already logged included.
    seconds
        Wall-clock limit of the trials.
    seed
        Of the search.
    weights
        Mean calls of each kernel in the networks that matter, by its key; by default its `calls`.
    start
        Records of other targets too, whose schedules for similar kernels are tried first.
    progress
        Told of every kernel.

    Raises
    ------
    UserError
        If the target cannot be tuned here, the log cannot be written, or no device is left to tune on (what
        was measured until then is in the log).
    """
    wanted = allot(kernels, trials, weights)
    start_s = time.monotonic()
    with _open_log(target, root) as log:
        table = read_folder(log.folder, log.folder.name)
        waiting = [k for k in kernels if trials_left(k, table, target, wanted[k.key])]
        with _shown(progress, "tune kernels", "tuning kernels", len(waiting), seconds) as (task, progress):
            ledger = Ledger(
                log, table, Transfer(table, *([start] if start else [])), emulated=target.emulated
            )
            # Its time starts here: reading logs and counting schedules is not tuning.
            crew = Crew(Order(target, wanted, seed), ledger, seconds, task, progress)
            crew.run(by_weight(waiting, weights))
    return _result(kernels, ledger, crew, start_s)


def time_again(
    kernels: Sequence[Kernel],
    target: Target,
    root: Path,
    records: KernelTable,
    *,
    seconds: float | None = None,
    weights: Weights | None = None,
    progress: Progress = SILENT,
) -> TuningResult:
    """Time the best known schedules of kernels on this machine, without searching.

    A log that ships carries another machine's times. Afterwards this machine's log under `root` has times of
    its own for the same schedules. Kernels that this machine has timed are left out, so a killed call goes
    on; those that take the most of the networks' time come first.

    Parameters
    ----------
    kernels
        Which kernels.
    target
        A target that runs on this machine, on a tracker's devices or in the emulator.
    root
        Folder of logs; the target's own is made in it.
    records
        The schedules, of this or another target.
    seconds
        Wall-clock limit of the timing.
    weights
        As in `tune_kernels`.
    progress
        Told of every kernel.

    Raises
    ------
    UserError
        If the target cannot be tuned here, the log cannot be written, or no device is left to tune on (what
        was measured until then is in the log).
    """
    start_s = time.monotonic()
    with _open_log(target, root) as log:
        table = read_folder(log.folder, log.folder.name)
        device = timing_device(target, detect_machine())
        waiting = [
            kernel
            for kernel in kernels
            if kernel.key in records.records and not timed_on(device, table.machines.get(kernel.key, ()))
        ]
        with _shown(progress, "time kernels", "timing kernels", len(waiting), seconds) as (task, progress):
            ledger = Ledger(log, table, Transfer(table), emulated=target.emulated)
            crew = Crew(Order(target, {}, again=records), ledger, seconds, task, progress)
            crew.run(by_time(waiting, records, weights))
    return _result(kernels, ledger, crew, start_s)


@contextmanager
def _shown(
    progress: Progress, phase: str, name: str, kernels: int, seconds: float | None
) -> Iterator[tuple[Task, Progress]]:
    """A job of one phase, or a part of a larger one."""
    parts, deadline = [Part(phase, name, kernels, _GUESSED_S)], Deadline.after(seconds)
    with in_job(progress, "tune", parts, deadline) as job, job.phase(phase), job.task(name, kernels) as task:
        yield task, job


def _result(kernels: Sequence[Kernel], ledger: Ledger, crew: Crew, start_s: float) -> TuningResult:
    return TuningResult(
        kernels=len(kernels),
        tuned=ledger.tuned(kernels),
        trials=ledger.done,
        failed=ledger.failed,
        seconds=time.monotonic() - start_s,
        workers=crew.workers,
        complete=not crew.out_of_time,
        records=ledger.table,
    )


def _open_log(target: Target, root: Path) -> LogWriter:
    machine = detect_machine()
    if target.run.where == "local" and (reason := target.runs_on(machine)):
        raise UserError(f"target {target.name} cannot be tuned here: {reason}")
    target.tvm_target()  # refuses a CPU that LLVM does not know
    header = Header(
        target=log_name(target),
        tvm_target=target.tvm_dict(),
        machine=_described(target, machine),
        versions={"tvm": tvm.__version__, "ofa-tvm": version("ofa-tvm")},
        date=datetime.now(UTC).date().isoformat(),
    )
    return LogWriter(root, target, header)


def timing_device(target: Target, machine: Machine) -> str:
    """What times a target's kernels, as the headers of its logs say it, without the number of cores."""
    if target.emulated:
        return f"{target.run.emulator} as {target.run.emulator_cpu}: emulated, costs are guest instructions"
    if target.run.where == "rpc":
        return f"{target.hardware.device or target.name}, devices of key {target.run.key}"
    if not KINDS[target.kind].family:
        return device_name(target.kind)
    return machine.name


def _described(target: Target, machine: Machine) -> str:
    device = timing_device(target, machine)
    return f"{device}, {machine.cores} cores" if device == machine.name else device
