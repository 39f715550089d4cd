"""A tuning campaign: kernels in the order of the time they stand for, trials logged as they are made."""

from __future__ import annotations

import json
import math
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import tvm

from ofa_tvm.compiler import templates
from ofa_tvm.compiler.kernels import Kernel
from ofa_tvm.compiler.transfer import Transfer
from ofa_tvm.devices import Fleet
from ofa_tvm.errors import UserError
from ofa_tvm.logs import Header, KernelTable, LogWriter, Record, log_name, read_folder
from ofa_tvm.measurement.devices import device_name
from ofa_tvm.measurement.pinning import allowed_cpus, choose_cpus
from ofa_tvm.process import WorkerDied, WorkerHung, WorkerProcess
from ofa_tvm.progress import SILENT, Progress, Task
from ofa_tvm.targets import Machine, Target, detect_machine

TRIAL_LIMIT_S = 30.0
DEVICE_WAIT_S = 60.0  # without any device to be had, before a campaign ends
_MOST_CRASHES = 3  # of one kernel, before it is left as it is


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
    weights: Mapping[str, float] | None = None,
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
        with progress.task("tuning kernels", len(waiting)) as task:
            transfer = Transfer(table, *([start] if start else []))
            # From here on: reading logs and counting schedules is not tuning.
            deadline = _deadline(seconds)
            campaign = _Campaign(table, log, task, target, wanted, seed, deadline, transfer, None, progress)
            campaign.run(_by_weight(waiting, weights))
    return campaign.result(kernels, start_s)


def time_again(
    kernels: Sequence[Kernel],
    target: Target,
    root: Path,
    records: KernelTable,
    *,
    seconds: float | None = None,
    weights: Mapping[str, float] | None = None,
    progress: Progress = SILENT,
) -> TuningResult:
    """Time the best known schedules of kernels on this machine, without searching.

    A log that ships carries another machine's times. Afterwards this machine's log under `root` has times of
    its own for the same schedules. Kernels that it knows already are left out, so a killed call goes on.

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
        waiting = [k for k in kernels if table.best(k.key) is None and records.best(k.key) is not None]
        with progress.task("timing kernels", len(waiting)) as task:
            transfer, deadline = Transfer(table), _deadline(seconds)
            campaign = _Campaign(table, log, task, target, {}, 0, deadline, transfer, records, progress)
            campaign.run(_by_weight(waiting, weights))
    return campaign.result(kernels, start_s)


def _deadline(seconds: float | None) -> float | None:
    return None if seconds is None else time.monotonic() + seconds


def _open_log(target: Target, root: Path) -> LogWriter:
    machine = detect_machine()
    if target.run.where == "local" and (reason := target.runs_on(machine)):
        raise UserError(f"target {target.name} cannot be tuned here: {reason}")
    target.tvm_target()  # refuses a CPU that LLVM does not know
    header = Header(
        target=log_name(target),
        tvm_target=target.tvm_dict(),
        machine=_device_name(target, machine),
        versions={"tvm": tvm.__version__, "ofa-tvm": version("ofa-tvm")},
        date=datetime.now(UTC).date().isoformat(),
    )
    return LogWriter(root, target, header)


def _device_name(target: Target, machine: Machine) -> str:
    if target.emulated:
        return f"{target.run.emulator} as {target.run.emulator_cpu}: emulated, costs are guest instructions"
    if target.run.where == "rpc":
        return f"{target.hardware.device or target.name}, devices of key {target.run.key}"
    if target.kind in ("cuda", "opencl"):
        return device_name(target.kind)
    return f"{machine.model} ({machine.cpu or machine.level or machine.arch}), {machine.cores} cores"


def _work(kernel: Kernel, weights: Mapping[str, float] | None) -> float:
    calls = kernel.calls if weights is None else weights.get(kernel.key, 0.0)
    return calls * kernel.flops


def _by_weight(kernels: Sequence[Kernel], weights: Mapping[str, float] | None) -> list[Kernel]:
    return sorted(kernels, key=lambda kernel: -_work(kernel, weights))


def allot(
    kernels: Sequence[Kernel], trials: int, weights: Mapping[str, float] | None = None
) -> dict[str, int]:
    """Trials of each kernel, by key: more where more of the networks' operations are.

    They grow with the square root of a kernel's share (the gain of another trial falls with their number),
    between half of `trials` and twice as many.
    """
    work = np.array([_work(kernel, weights) for kernel in kernels])
    mean = work.mean() if len(work) and work.any() else 1.0
    several = np.clip(np.ceil(trials * np.sqrt(work / mean)), math.ceil(trials / 2), 2 * trials)
    return {kernel.key: int(count) for kernel, count in zip(kernels, several, strict=True)}


def trials_left(kernel: Kernel, table: KernelTable, target: Target, trials: int) -> int:
    """Trials that a campaign of `trials` a kernel still has to make: no more than there are schedules."""
    left = trials - table.trials(kernel.key)
    if left <= 0:
        return 0
    schedules_in_all = templates.count(kernel.mod, target.tvm_target())
    return (
        left if schedules_in_all is None else max(0, min(left, schedules_in_all - table.trials(kernel.key)))
    )


class _NoDevice(UserError):
    """A worker had no device for as long as it waits."""


class _Campaign:
    """Threads that each feed one worker process; shared state is touched under one lock."""

    def __init__(
        self,
        table: KernelTable,
        log: LogWriter,
        task: Task,
        target: Target,
        trials: Mapping[str, int],
        seed: int,
        deadline: float | None,
        transfer: Transfer,
        again: KernelTable | None,
        progress: Progress,
    ) -> None:
        """`again` makes it time those records' best schedules instead of searching."""
        self.done = self.failed = self.workers = 0
        self.out_of_time = False
        self._jobs: queue.SimpleQueue[Kernel] = queue.SimpleQueue()
        self._table, self._log, self._task = table, log, task
        self._transfer, self._again = transfer, again
        self._l2_bytes = (detect_machine().l2_kib or 1024) << 10
        self._target, self._trials, self._seed, self._deadline = target, trials, seed, deadline
        self._progress = progress
        self._fleet: Fleet | None = None
        self._link = () if target.run.where == "local" else target.link.find()
        self._hung: set[tuple[str, str]] = set()
        self._workers: set[WorkerProcess] = set()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._no_device: UserError | None = None

    def run(self, kernels: Sequence[Kernel]) -> None:
        """Work the kernels off in order, with as many workers as there are CPUs for, or devices."""
        for kernel in kernels:
            self._jobs.put(kernel)
        if not kernels:
            return
        if self._target.run.where == "local":
            self._run()
            return
        start_s = time.monotonic()
        with Fleet(self._target, progress=self._progress) as self._fleet:
            if self._deadline is not None:  # setting devices up is not tuning
                self._deadline += time.monotonic() - start_s
            self._progress.say(f"{self._fleet.size} devices of {self._fleet.place}")
            self._run()

    def result(self, kernels: Sequence[Kernel], start_s: float) -> TuningResult:
        """What was done for these kernels since `start_s`."""
        return TuningResult(
            kernels=len(kernels),
            tuned=sum(self._table.best(kernel.key) is not None for kernel in kernels),
            trials=self.done,
            failed=self.failed,
            seconds=time.monotonic() - start_s,
            workers=self.workers,
            complete=not self.out_of_time,
            records=self._table,
        )

    def _run(self) -> None:
        threads = self._target.threads
        cpus = choose_cpus(len(allowed_cpus()))
        groups = [cpus[i : i + threads] for i in range(0, len(cpus) - threads + 1, threads)]
        if self._fleet is not None:
            groups = [()] * self._fleet.size  # they build while others measure, wherever there is time
        self.workers = len(groups)
        feeders = [threading.Thread(target=self._guarded, args=(group,), daemon=True) for group in groups]
        for feeder in feeders:
            feeder.start()
        try:
            for feeder in feeders:
                while feeder.is_alive():
                    feeder.join(0.2)
                    if self._fleet is not None and (count := self._fleet.revive()):
                        self._progress.say(f"{count} emulated devices ended and were started anew")
        finally:
            self._stop.set()
            with self._lock:
                for worker in self._workers:
                    worker.kill()  # its feeder waits for an event, perhaps for long
            for feeder in feeders:
                feeder.join()
        if self._error is not None:
            raise self._error
        # Without a device a worker leaves its kernel to the others; these have not come round to it.
        if self._no_device is not None and not self.out_of_time and not self._jobs.empty():
            raise self._no_device

    def _guarded(self, cpus: Sequence[int]) -> None:
        try:
            self._feed(cpus)
        except BaseException as error:  # handed to the thread that called run
            self._error = error
            self._stop.set()

    def _feed(self, cpus: Sequence[int]) -> None:
        worker: WorkerProcess | None = None
        try:
            while not self._stop.is_set():
                try:
                    kernel = self._jobs.get_nowait()
                except queue.Empty:
                    return
                if self._time_is_up():
                    self.out_of_time = True
                    return
                crashes = 0
                while crashes < _MOST_CRASHES and not self._stop.is_set():
                    worker = worker or self._start_worker(cpus)
                    try:
                        self._tune(worker, kernel)
                        break
                    except (WorkerDied, WorkerHung):
                        self._discard(worker)
                        worker, crashes = None, crashes + 1
                    except _NoDevice as error:
                        self._jobs.put(kernel)
                        self._no_device = error
                        self._progress.say(str(error))
                        return
                with self._lock:
                    self.out_of_time |= self._time_is_up() and self._left(kernel) > 0
                    self._task.advance(1, kernel.signature.kind)
        finally:
            if worker is not None:
                self._discard(worker)

    def _time_is_up(self) -> bool:
        return self._deadline is not None and time.monotonic() > self._deadline

    def _left(self, kernel: Kernel) -> int:
        if self._again is not None:
            return 0
        return trials_left(kernel, self._table, self._target, self._trials[kernel.key])

    def _start_worker(self, cpus: Sequence[int]) -> WorkerProcess:
        with self._lock:
            worker = WorkerProcess(
                "ofa_tvm.tuning.worker",
                [",".join(map(str, cpus))],
                # PoCL: no more threads than CPUs, and no copy on disk of every kernel that is tried.
                {"POCL_MAX_PTHREAD_COUNT": str(len(cpus)), "POCL_KERNEL_CACHE": "0"},
            )
            self._workers.add(worker)
            return worker

    def _discard(self, worker: WorkerProcess) -> None:
        with self._lock:
            self._workers.discard(worker)
            worker.stop()

    def _tune(self, worker: WorkerProcess, kernel: Kernel) -> None:
        table = self._again or self._table
        left = self._left(kernel)
        if self._again is None and left <= 0:
            return
        known = table.records.get(kernel.key, [])
        failed = [record.trace for record in self._table.failures.get(kernel.key, [])]
        with self._lock:
            hints = self._transfer.hints(kernel)
        request = {
            "mod": tvm.ir.save_json(kernel.mod),
            "target": self._target.tvm_dict(),
            "l2_bytes": self._l2_bytes,
            "known": [[record.trace, 1e3 * record.cost] for record in known if record.trace not in failed],
            "failed": failed,
            "hints": [astuple(tiling) for tiling in hints],
            "again": self._again is not None,
            "trials": left,
            "seconds": None if self._deadline is None else self._deadline - time.monotonic(),
            "seed": self._seed,
        }
        if self._fleet is not None:
            request |= {
                "place": str(self._fleet.place),
                "link": list(self._link),
                "emulated": self._target.emulated,
                "wait_s": DEVICE_WAIT_S,
            }
        trying: Any = None
        try:
            for event in worker.ask(request, TRIAL_LIMIT_S):
                if self._stop.is_set():
                    raise WorkerDied("was stopped")
                if event["event"] == "trying":
                    trying = event["trace"]
                elif event["event"] in ("trial", "timed"):
                    self._keep(kernel, event["trace"], event["times_us"], event.get("error", ""))
                    trying = None
                    self.done += event["event"] == "trial" or self._again is not None
                elif event["event"] == "note":
                    self._progress.say(event["message"])
                elif event.get("no_device"):
                    raise _NoDevice(
                        f"{event['error']}; what was measured so far is in {self._log.folder}, the same "
                        "command goes on from there"
                    )
                elif event["event"] == "failed":
                    self._progress.say(f"{kernel.signature.kind}: its search ended early: {event['error']}")
        except (WorkerDied, WorkerHung) as error:
            if trying is not None and not self._stop.is_set() and self._to_blame(kernel, trying):
                self._keep(kernel, trying, [], str(error))
                self.done += 1
            raise
        with self._lock:
            if (best := self._table.best(kernel.key)) is not None:
                self._transfer.learn(best)

    def _to_blame(self, kernel: Kernel, trace: Any) -> bool:
        """Whether a schedule counts as failed when its worker ends: a device may hang by itself."""
        if self._fleet is None:
            return True
        name = (kernel.key, json.dumps(trace))
        with self._lock:
            seen = name in self._hung
            self._hung.add(name)
        if not seen:
            self._progress.say(f"{kernel.signature.kind}: its device gave no sign; trying once more")
        return seen

    def _keep(self, kernel: Kernel, trace: Any, times_us: Sequence[float], error: str) -> None:
        record = Record(kernel.key, kernel.signature, trace, tuple(times_us), error)
        if times_us and self._target.emulated:  # an instruction came as 1 ns
            record = replace(record, times_us=(), instructions=round(1e3 * times_us[0]))
        with self._lock:
            self._log.append(record)
            self._table.add(record)
            self.failed += not times_us
