"""All boards that a tracker has under a key, measuring at once; one that is unlike the others is left out."""

from __future__ import annotations

import queue
import statistics
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Self, TypeVar

from ofa_tvm.devices import fleet_size
from ofa_tvm.devices.session import WAIT_S
from ofa_tvm.measurement.measurer import Measurer, NoDevice
from ofa_tvm.measurement.result import Measurement
from ofa_tvm.progress import SILENT, Progress
from ofa_tvm.targets import Target

AGREEMENT = 0.1  # boards of one kind differ by less, as a share of their median
J = TypeVar("J")

OnBoard = Callable[[Sequence[Path]], list[Measurement]]
"""Measurements of some modules, all by the same board."""


class Boards:
    """The boards of a target's tracker for as long as the context lasts, each with a worker of its own.

    A reference module is measured with every request. Of boards of one kind it takes the same time: one that
    differs from the median of all by more than `agreement`, twice in a row, is named and left out. Of two the
    faster one counts: heat or other work make a board slow, nothing makes it fast.

    Parameters
    ----------
    target
        Runs by RPC.
    progress
        Told of boards that are left out or vanish.
    agreement
        Largest share by which a board may differ.

    Attributes
    ----------
    paces
        Latest time of the reference by board (host:port), in ms, of those that are not left out.
    left_out
        Boards that differ.

    Raises
    ------
    UserError
        If there is no tracker or no device with the key.
    """

    def __init__(self, target: Target, *, progress: Progress = SILENT, agreement: float = AGREEMENT) -> None:
        self.target, self.size = target, max(fleet_size(target), 1)
        self.paces: dict[str, float] = {}
        self.left_out: set[str] = set()
        self._progress, self._agreement = progress, agreement
        self._strikes: set[str] = set()
        self._checked = False
        self._lock = threading.Lock()
        self._error: BaseException | None = None
        # Its threads live as long as the workers: the system ends a worker with the thread that started it.
        self._pool = ThreadPoolExecutor(self.size)
        self._measurers: list[Measurer] = []
        self._free: queue.SimpleQueue[Measurer] = queue.SimpleQueue()
        for _ in range(self.size):
            measurer = Measurer(target)
            self._measurers.append(measurer)
            self._free.put(measurer)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the workers."""
        self._pool.shutdown(cancel_futures=True)
        for measurer in self._measurers:
            measurer.close()

    def slower(self, device: str) -> float:
        """How much longer the slowest of the boards takes than this one, as a share of this one's time."""
        with self._lock:
            pace = self.paces.get(device)
            return 0.0 if pace is None else max(self.paces.values()) / pace - 1

    def run(
        self,
        jobs: Iterable[J],
        work: Callable[[J, OnBoard], None],
        reference: Path | None,
        *,
        repeats: int | None = None,
    ) -> None:
        """Work off jobs, as many at once as there are boards; what one was at when it vanished is repeated.

        Parameters
        ----------
        jobs
            Drawn in this thread while boards are at work, so that making them costs no time.
        work
            Called in other threads with a job and what measures for it.
        reference
            Module that is measured beside each request; its measurement comes first in the answer. None where
            boards need not agree (emulated ones count instructions).
        repeats
            Of each measurement.

        Raises
        ------
        UserError
            If a module cannot be measured, or no board is left.
        """
        self._check(reference)
        while len(self._measurers) > self._wanted:
            self._retire(self._free.get())

        def on_board(measurer: Measurer) -> OnBoard:
            return lambda paths: self._measured(measurer, paths, reference, repeats)

        pending: set[Future[None]] = set()
        try:
            for job in jobs:
                pending.add(self._pool.submit(self._one, job, work, on_board))
                if len(pending) > self.size:  # one job waits, the boards never
                    pending = self._finished(pending, FIRST_COMPLETED)
            while pending:
                pending = self._finished(pending, FIRST_COMPLETED)
        except BaseException as error:
            self._error = error
            for measurer in self._measurers:
                measurer.kill()  # a thread waits for its answer, perhaps for long
            self._pool.shutdown(cancel_futures=True)
            raise

    @staticmethod
    def _finished(pending: set[Future[None]], when: str) -> set[Future[None]]:
        done, left = wait(pending, return_when=when)
        for future in done:
            future.result()
        return left

    def _one(
        self, job: J, work: Callable[[J, OnBoard], None], on_board: Callable[[Measurer], OnBoard]
    ) -> None:
        while self._error is None:
            measurer = self._free.get()
            try:
                work(job, on_board(measurer))
            except NoDevice as error:
                if not self._retire(measurer):
                    self._error = error
                    self._free.put(measurer)
                    raise
                self._progress.say(f"{error}; {len(self._measurers)} boards go on")
                continue
            except BaseException:
                self._free.put(measurer)
                raise
            if len(self._measurers) <= self._wanted or not self._retire(measurer):
                self._free.put(measurer)
            return
        raise self._error

    @property
    def _wanted(self) -> int:
        """Workers that there are boards for."""
        return max(self.size - len(self.left_out), 1)

    def _retire(self, measurer: Measurer) -> bool:
        """Do without one of the workers, unless it is the last."""
        with self._lock:
            if len(self._measurers) == 1:
                return False
            self._measurers.remove(measurer)
        measurer.close()
        return True

    def _measured(
        self, measurer: Measurer, paths: Sequence[Path], reference: Path | None, repeats: int | None
    ) -> list[Measurement]:
        files = paths if reference is None else [reference, *paths]
        while True:
            alone = len(self._measurers) == 1  # nobody else would do what a board that is gone was at
            results = measurer.measure_many(
                files, repeats=repeats, avoid=sorted(self.left_out), wait_s=None if alone else WAIT_S
            )
            while measurer.notes:
                self._progress.say(measurer.notes.pop(0))
            if reference is None or self.agrees(results[0]):
                return results

    def _check(self, reference: Path | None) -> None:
        """Time the reference once on every board, so that the median is known before one is judged by it."""
        if self._checked or reference is None or self.size == 1:
            return
        measurer = self._measurers[0]
        for _ in range(self.size):
            try:
                result = measurer.measure_many([reference], avoid=sorted(self.paces), wait_s=10.0)[0]
            except NoDevice:
                break  # the others are at other work, or gone
            self.paces[result.device] = result.cost
        for device in sorted(self.paces, key=self.paces.__getitem__, reverse=True):
            others = sorted(self.paces.keys() - {device} | self.left_out)
            while others and device in self.paces and self._differs(self.paces[device]) > self._agreement:
                try:
                    result = measurer.measure_many([reference], avoid=others, wait_s=10.0)[0]
                except NoDevice:
                    break
                self.agrees(result)
        self._checked = True

    def _differs(self, pace: float) -> float:
        return abs(pace / statistics.median_low(self.paces.values()) - 1) if self.paces else 0.0

    def agrees(self, result: Measurement) -> bool:
        """Whether a board's measurements count, by its time of the reference; twice not leaves it out."""
        device, pace = result.device, result.cost
        with self._lock:
            self.paces[device] = pace
            share = self._differs(pace)
            if share <= self._agreement or len(self.paces) == 1:
                self._strikes.discard(device)
                return True
            if device not in self._strikes:
                self._strikes.add(device)
                return False
            median = statistics.median_low(self.paces.values())
            del self.paces[device]
            self.left_out.add(device)
        self._progress.say(
            f"board {device} is left out: the reference subnet takes {pace:.4g} ms there, {share:.0%} off "
            f"the median of {len(self.paces) + 1} boards, {median:.4g} ms; {self._agreement:.0%} is allowed"
        )
        return False
