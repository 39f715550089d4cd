"""What a campaign knows and has done, shared by the threads that feed its workers."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from ofa_tvm.compiler.kernels import Kernel
from ofa_tvm.compiler.tilings import Tiling
from ofa_tvm.compiler.transfer import Transfer
from ofa_tvm.logs import KernelTable, LogWriter, Record
from ofa_tvm.tuning.messages import Tried


class Ledger:
    """The log, the records and the counts of a campaign; any thread may call any method.

    Parameters
    ----------
    log
        Where every trial is appended as it ends.
    table
        The target's records, to which trials are added.
    transfer
        Tilings of similar kernels, which learns from what is tuned.
    emulated
        Whether costs are instructions.
    """

    def __init__(self, log: LogWriter, table: KernelTable, transfer: Transfer, *, emulated: bool) -> None:
        self.table, self.folder = table, log.folder
        self._log, self._transfer, self._emulated = log, transfer, emulated
        self._lock = threading.Lock()
        self._done = self._failed = 0

    @property
    def done(self) -> int:
        """Trials made."""
        return self._done

    @property
    def failed(self) -> int:
        """Trials that failed."""
        return self._failed

    def keep(self, kernel: Kernel, tried: Tried) -> None:
        """Log a trial and count it, unless it is a second timing of one."""
        record = self._record(kernel, tried)
        with self._lock:
            self._log.append(record)
            self.table.add(record)
            self._done += tried.counts
            self._failed += not tried.times_us

    def learn(self, kernel: Kernel) -> None:
        """Let similar kernels start from this one's best schedule."""
        with self._lock:
            if (best := self.table.best(kernel.key)) is not None:
                self._transfer.learn(best)

    def hints(self, kernel: Kernel) -> tuple[Tiling, ...]:
        """Best tilings of the most similar kernels, nearest first."""
        with self._lock:
            return self._transfer.hints(kernel)

    def failures(self, kernel: Kernel) -> list[Any]:
        """Traces of the schedules that failed."""
        with self._lock:
            return [record.trace for record in self.table.failures.get(kernel.key, ())]

    def tuned(self, kernels: Sequence[Kernel]) -> int:
        """How many of them have a record."""
        with self._lock:
            return sum(self.table.best(kernel.key) is not None for kernel in kernels)

    def _record(self, kernel: Kernel, tried: Tried) -> Record:
        if tried.times_us and self._emulated:  # an instruction came as 1 ns
            instructions = round(1e3 * tried.times_us[0])
            return Record(kernel.key, kernel.signature, tried.trace, (), instructions=instructions)
        times_us = tuple(tried.times_us)
        return Record(
            kernel.key, kernel.signature, tried.trace, times_us, tried.error, throttled=tried.throttled
        )
