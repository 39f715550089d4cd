"""The workers of a campaign: threads that each feed one process with kernels, and what to do if it dies."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any

from ofa_tvm.compiler.kernels import Kernel
from ofa_tvm.devices import Fleet
from ofa_tvm.errors import UserError, counted
from ofa_tvm.logs import KernelTable
from ofa_tvm.measurement.pinning import allowed_cpus, choose_cpus
from ofa_tvm.process import WorkerDied, WorkerHung, WorkerProcess
from ofa_tvm.progress import Progress, Task
from ofa_tvm.targets import Target, detect_machine
from ofa_tvm.tuning.allotment import trials_left
from ofa_tvm.tuning.ledger import Ledger
from ofa_tvm.tuning.messages import DeviceRequest, GaveUp, Note, Tried, Trying, TuningRequest, from_event
from ofa_tvm.tuning.runner import TRIES_ON_DEVICES

TRIAL_LIMIT_S = 30.0
DEVICE_WAIT_S = 60.0  # without any device to be had, before a campaign ends
_PAUSE_S = 0.05
_MOST_CRASHES = 3  # of one kernel, before it is left as it is


@dataclass(frozen=True)
class Order:
    """What a crew is to do with every kernel.

    Parameters
    ----------
    target
        The target.
    trials
        Of each kernel, those already logged included, by its key.
    seed
        Of the search.
    again
        Time these records' best schedules instead of searching; None: search.
    """

    target: Target
    trials: Mapping[str, int]
    seed: int = 0
    again: KernelTable | None = None


class _NoDevice(UserError):
    """A worker had no device for as long as it waits."""


class Crew:
    """Threads that each feed one worker process.

    Parameters
    ----------
    order
        What to do.
    ledger
        Takes what was done.
    seconds
        Wall-clock limit, which starts now; None for none. Setting devices up does not count.
    task
        Advanced by every kernel.
    progress
        Told what people should know.

    Attributes
    ----------
    workers
        Processes that worked at once; 0 if there was nothing to do.
    out_of_time
        Whether the time was up before the kernels had their trials.
    """

    def __init__(
        self, order: Order, ledger: Ledger, seconds: float | None, task: Task, progress: Progress
    ) -> None:
        self.workers = 0
        self.out_of_time = False
        self._order, self._ledger, self._task, self._progress = order, ledger, task, progress
        self._deadline = None if seconds is None else time.monotonic() + seconds
        self._jobs: queue.Queue[Kernel] = queue.Queue()
        self._l2_bytes = (detect_machine().l2_kib or 1024) << 10
        self._fleet: Fleet | None = None
        self._link = () if order.target.run.where == "local" else order.target.link.find()
        self._deaths: Counter[tuple[str, str]] = Counter()
        self._processes: set[WorkerProcess] = set()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._no_device: UserError | None = None

    def run(self, kernels: Sequence[Kernel]) -> None:
        """Work the kernels off in order, with as many workers as there are CPUs for, or devices.

        Raises
        ------
        UserError
            If no device is left to work on.
        """
        for kernel in kernels:
            self._jobs.put(kernel)
        if not kernels:
            return
        if self._order.target.run.where == "local":
            self._run()
            return
        start_s = time.monotonic()
        with Fleet(self._order.target, progress=self._progress) as self._fleet:
            if self._deadline is not None:  # setting devices up is not tuning
                self._deadline += time.monotonic() - start_s
            self._progress.say(f"{counted(self._fleet.size, 'device')} of {self._fleet.place}")
            self._run()

    def _run(self) -> None:
        threads = self._order.target.threads
        cpus = choose_cpus(len(allowed_cpus()))
        groups = [cpus[i : i + threads] for i in range(0, len(cpus) - threads + 1, threads)]
        if self._fleet is not None:
            groups = [()] * self._fleet.size  # they build while others measure, wherever there is time
        self.workers = len(groups)
        feeders = [threading.Thread(target=self._guarded, args=(group,), daemon=True) for group in groups]
        try:
            for feeder in feeders:
                feeder.start()
            for feeder in feeders:
                while feeder.is_alive():
                    feeder.join(0.2)
                    if self._fleet is not None and (count := self._fleet.revive()):
                        self._progress.say(f"{count} emulated devices ended and were started anew")
        finally:
            self._stop.set()
            with self._lock:
                for process in self._processes:
                    process.kill()  # its feeder waits for an event, perhaps for long
            for feeder in feeders:
                if feeder.ident is not None:  # a signal may have come before its start
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
                    if not self._jobs.unfinished_tasks:
                        return
                    time.sleep(_PAUSE_S)  # a worker without a device leaves its kernel to the others
                    continue
                try:
                    if self._time_is_up():
                        with self._lock:
                            self.out_of_time = True
                        return
                    crashes = 0
                    while crashes < _MOST_CRASHES and not self._stop.is_set():
                        worker = worker or self._start_worker(cpus)
                        try:
                            self._tune(worker, kernel)
                            break
                        except (WorkerDied, WorkerHung) as death:
                            self._discard(worker)
                            worker, crashes = None, crashes + 1
                            if crashes == _MOST_CRASHES and not self._stop.is_set():
                                self._progress.say(
                                    f"{kernel.signature.kind}: left as it is, its worker {death}"
                                )
                        except _NoDevice as error:
                            self._jobs.put(kernel)
                            self._no_device = error
                            self._progress.say(str(error))
                            return
                    with self._lock:
                        self.out_of_time |= self._time_is_up() and self._left(kernel) > 0
                        self._task.advance(1, kernel.signature.kind)
                finally:
                    self._jobs.task_done()
        finally:
            if worker is not None:
                self._discard(worker)

    def _time_is_up(self) -> bool:
        return self._deadline is not None and time.monotonic() > self._deadline

    def _left(self, kernel: Kernel) -> int:
        if self._order.again is not None:
            return 0
        return trials_left(kernel, self._ledger.table, self._order.target, self._order.trials[kernel.key])

    def _start_worker(self, cpus: Sequence[int]) -> WorkerProcess:
        with self._lock:
            worker = WorkerProcess(
                "ofa_tvm.tuning.worker",
                [",".join(map(str, cpus))],
                # PoCL: no more threads than CPUs, and no copy on disk of every kernel that is tried.
                {"POCL_MAX_PTHREAD_COUNT": str(len(cpus)), "POCL_KERNEL_CACHE": "0"},
            )
            self._processes.add(worker)
            return worker

    def _discard(self, worker: WorkerProcess) -> None:
        with self._lock:
            self._processes.discard(worker)
            worker.stop()

    def _request(self, kernel: Kernel) -> TuningRequest:
        order, failed = self._order, self._ledger.failures(kernel)
        known = (order.again or self._ledger.table).records.get(kernel.key, [])
        return TuningRequest(
            mod=kernel.json,
            target=order.target.tvm_dict(),
            l2_bytes=self._l2_bytes,
            known=[(record.trace, 1e3 * record.cost) for record in known if record.trace not in failed],
            failed=failed,
            hints=[astuple(tiling) for tiling in self._ledger.hints(kernel)],
            trials=self._left(kernel),
            seconds=None if self._deadline is None else self._deadline - time.monotonic(),
            seed=order.seed,
            again=order.again is not None,
            device=None
            if self._fleet is None
            else DeviceRequest(
                str(self._fleet.place),
                self._link,
                order.target.emulated,
                (order.target.run.wait_s if self._fleet.size == 1 else 0) or DEVICE_WAIT_S,
            ),
        )

    def _tune(self, worker: WorkerProcess, kernel: Kernel) -> None:
        if self._order.again is None and self._left(kernel) <= 0:
            return
        trying: Any = None
        try:
            for event in worker.ask(self._request(kernel).to_json(), TRIAL_LIMIT_S):
                if self._stop.is_set():
                    raise WorkerDied("was stopped")
                match from_event(event):
                    case Trying(trace):
                        trying = trace
                    case Tried() as tried:
                        self._ledger.keep(kernel, tried)
                        trying = None
                    case Note(message):
                        self._progress.say(message)
                    case GaveUp(error, no_device=True):
                        raise _NoDevice(
                            f"{error}; what was measured so far is in {self._ledger.folder}, the same "
                            "command goes on from there"
                        )
                    case GaveUp(error):
                        self._progress.say(f"{kernel.signature.kind}: its search ended early: {error}")
        except (WorkerDied, WorkerHung) as death:
            if trying is not None and not self._stop.is_set() and self._is_to_blame(kernel, trying):
                self._ledger.keep(kernel, Tried(trying, [], str(death)))
            raise
        self._ledger.learn(kernel)

    def _is_to_blame(self, kernel: Kernel, trace: Any) -> bool:
        """Whether a schedule counts as failed when its worker ends: a device may hang by itself."""
        name = (kernel.key, json.dumps(trace))
        with self._lock:
            self._deaths[name] += 1
            deaths = self._deaths[name]
        if deaths >= (1 if self._fleet is None else TRIES_ON_DEVICES):
            return True
        self._progress.say(f"{kernel.signature.kind}: its device gave no sign; trying once more")
        return False
