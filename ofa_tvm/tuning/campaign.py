"""A tuning campaign: kernels in the order of the time they stand for, trials logged as they are made."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import tvm

from ofa_tvm.compiler import schedules
from ofa_tvm.compiler.kernels import Kernel
from ofa_tvm.errors import UserError
from ofa_tvm.logs import Header, KernelTable, LogWriter, Record, log_name, read_folder
from ofa_tvm.measurement.pinning import choose_cpus
from ofa_tvm.process import WorkerDied, WorkerHung, WorkerProcess
from ofa_tvm.progress import SILENT, Progress, Task
from ofa_tvm.targets import Target, detect_machine

TRIAL_LIMIT_S = 30.0
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
    complete: bool
    records: KernelTable


def tune_kernels(
    kernels: Sequence[Kernel],
    target: Target,
    root: Path,
    *,
    trials: int = 16,
    seconds: float | None = None,
    seed: int = 0,
    progress: Progress = SILENT,
) -> TuningResult:
    """Tune kernels on this machine until each has `trials` trials in the log, or the time is up.

    Every trial is appended to the log under `root` as it ends, so that a killed campaign loses only the one
    in flight and the same call goes on where it stopped.

    Parameters
    ----------
    kernels
        What to tune. Those that take most of the time (calls times operations) come first.
    target
        A CPU target that runs on this machine.
    root
        Folder of logs; the target's own is made in it.
    trials
        Trials for each kernel, those already logged included.
    seconds
        Wall-clock limit of this call.
    seed
        Of the search.
    progress
        Told of every kernel.

    Raises
    ------
    UserError
        If the target cannot be tuned here, or the log cannot be written.
    """
    machine = detect_machine()
    if target.run.where != "local" or target.kind not in ("x86", "arm"):
        raise UserError(
            f"target {target.name} runs by {target.run.where}; this version tunes local CPU targets"
        )
    if reason := target.runs_on(machine):
        raise UserError(f"target {target.name} cannot be tuned here: {reason}")
    target.tvm_target()  # refuses a CPU that LLVM does not know
    header = Header(
        target=log_name(target),
        tvm_target=target.tvm_dict(),
        machine=f"{machine.model}, {machine.cores} cores",
        versions={"tvm": tvm.__version__, "ofa-tvm": version("ofa-tvm")},
        date=datetime.now(UTC).date().isoformat(),
    )
    start = time.monotonic()
    with LogWriter(root, target, header) as log:
        table = read_folder(log.folder)
        jobs: queue.SimpleQueue[Kernel] = queue.SimpleQueue()
        waiting = [k for k in kernels if trials_left(k, table, target, trials)]
        for kernel in sorted(waiting, key=lambda k: -k.calls * k.flops):
            jobs.put(kernel)
        with progress.task("tuning kernels", len(waiting)) as task:
            campaign = _Campaign(
                jobs, table, log, task, target, trials, seed, None if seconds is None else start + seconds
            )
            campaign.run(target.threads)
    return TuningResult(
        kernels=len(kernels),
        tuned=sum(table.best(kernel.key) is not None for kernel in kernels),
        trials=campaign.done,
        failed=campaign.failed,
        seconds=time.monotonic() - start,
        complete=not campaign.out_of_time,
        records=table,
    )


def trials_left(kernel: Kernel, table: KernelTable, target: Target, trials: int) -> int:
    """Trials that a campaign of `trials` a kernel still has to make: no more than there are schedules."""
    left = trials - table.trials(kernel.key)
    if left <= 0:
        return 0
    schedules_in_all = schedules.count(kernel.mod, schedules.machine(target.tvm_target()))
    return (
        left if schedules_in_all is None else max(0, min(left, schedules_in_all - table.trials(kernel.key)))
    )


class _Campaign:
    """Threads that each feed one worker process; shared state is touched under one lock."""

    def __init__(
        self,
        jobs: queue.SimpleQueue[Kernel],
        table: KernelTable,
        log: LogWriter,
        task: Task,
        target: Target,
        trials: int,
        seed: int,
        deadline: float | None,
    ) -> None:
        self.done = self.failed = 0
        self.out_of_time = False
        self._jobs, self._table, self._log, self._task = jobs, table, log, task
        self._target, self._trials, self._seed, self._deadline = target, trials, seed, deadline
        self._workers: set[WorkerProcess] = set()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._error: BaseException | None = None

    def run(self, threads: int) -> None:
        """Work the queue off with as many workers as there are CPUs for."""
        cpus = choose_cpus(len(_allowed_cpus()))
        groups = [cpus[i : i + threads] for i in range(0, len(cpus) - threads + 1, threads)]
        feeders = [threading.Thread(target=self._guarded, args=(group,), daemon=True) for group in groups]
        for feeder in feeders:
            feeder.start()
        try:
            for feeder in feeders:
                while feeder.is_alive():
                    feeder.join(0.2)
        finally:
            self._stop.set()
            with self._lock:
                for worker in self._workers:
                    worker.kill()  # its feeder waits for an event, perhaps for long
            for feeder in feeders:
                feeder.join()
        if self._error is not None:
            raise self._error

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
                if self._deadline is not None and time.monotonic() > self._deadline:
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
                with self._lock:
                    self._task.advance(1, kernel.name.split(" ")[0])
        finally:
            if worker is not None:
                self._discard(worker)

    def _start_worker(self, cpus: Sequence[int]) -> WorkerProcess:
        with self._lock:
            worker = WorkerProcess("ofa_tvm.tuning.worker", [",".join(map(str, cpus))])
            self._workers.add(worker)
            return worker

    def _discard(self, worker: WorkerProcess) -> None:
        with self._lock:
            self._workers.discard(worker)
            worker.stop()

    def _tune(self, worker: WorkerProcess, kernel: Kernel) -> None:
        left = trials_left(kernel, self._table, self._target, self._trials)
        if left <= 0:
            return
        known = self._table.records.get(kernel.key, [])
        request = {
            "mod": tvm.ir.save_json(kernel.mod),
            "target": self._target.tvm_dict(),
            "known": [[record.trace, record.time_us] for record in known],
            "failed": [record.trace for record in self._table.failures.get(kernel.key, [])],
            "trials": left,
            "seed": self._seed,
        }
        trying: Any = None
        try:
            for event in worker.ask(request, TRIAL_LIMIT_S):
                if self._stop.is_set():
                    raise WorkerDied("was stopped")
                if event["event"] == "trying":
                    trying = event["trace"]
                elif event["event"] == "trial":
                    self._keep(kernel, event["trace"], event["times_us"], event.get("error", ""))
                    trying = None
        except (WorkerDied, WorkerHung) as error:
            if trying is not None and not self._stop.is_set():
                self._keep(kernel, trying, [], str(error))
            raise

    def _keep(self, kernel: Kernel, trace: Any, times_us: Sequence[float], error: str) -> None:
        record = Record(kernel.key, kernel.name, trace, tuple(times_us), error)
        with self._lock:
            self._log.append(record)
            self._table.add(record)
            self.done += 1
            self.failed += not times_us


def _allowed_cpus() -> set[int]:
    import os

    with suppress(AttributeError):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))
