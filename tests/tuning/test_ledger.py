"""A campaign's counts and records, which several threads change at once."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from test_campaign import kernels

from ofa_tvm.compiler.transfer import Transfer
from ofa_tvm.logs import Header, KernelTable, LogWriter, log_name, read_folder
from ofa_tvm.targets import get_target
from ofa_tvm.tuning import campaign, crew, tune_kernels
from ofa_tvm.tuning.ledger import Ledger
from ofa_tvm.tuning.messages import Tried


class Watched(Ledger):
    """Refuses counts that change while nobody holds the lock."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("_done", "_failed") and name in vars(self):
            assert self._lock.locked(), f"{name} changes outside its lock"
        super().__setattr__(name, value)


@pytest.mark.slow
def test_a_campaign_counts_under_its_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(campaign, "Ledger", Watched)
    monkeypatch.setattr(crew, "allowed_cpus", lambda: {0})
    target = get_target("x86")
    found = kernels(target)[:2]
    result = tune_kernels(found, target, tmp_path, trials=1)
    assert result.trials == sum(result.records.trials(kernel.key) for kernel in found) > 0


@pytest.mark.parametrize("emulated", [False, True])
def test_nothing_is_lost_between_threads(emulated: bool, tmp_path: Path) -> None:
    target = get_target("x86")
    header = Header(log_name(target), {}, "a machine", {}, "2026-11-28")
    found = kernels(target)[:3]
    interval = sys.getswitchinterval()
    with LogWriter(tmp_path, target, header) as log:
        ledger = Watched(log, KernelTable(), Transfer(), emulated=emulated)

        def feed(feeder: int) -> None:
            for number in range(60):
                kernel = found[number % len(found)]
                trace = [[["Schedule", [], [feeder, number], []]], []]
                ledger.keep(kernel, Tried(trace, [] if number % 5 == 0 else [2.0, 3.0, 2.5]))
                if number % 5:
                    ledger.keep(kernel, Tried(trace, [1.0], counts=False))

        sys.setswitchinterval(1e-6)
        try:
            with ThreadPoolExecutor(4) as pool:
                list(pool.map(feed, range(4)))
        finally:
            sys.setswitchinterval(interval)
    assert (ledger.done, ledger.failed, ledger.tuned(found)) == (240, 48, 3)
    table = read_folder(ledger.folder, log_name(target))
    assert not table.problems
    for kernel in found:
        assert table.trials(kernel.key) == ledger.table.trials(kernel.key) == 80
        assert len(ledger.failures(kernel)) == 16
        best = table.best(kernel.key)
        assert best is not None and best.instructions == (1000 if emulated else None)
