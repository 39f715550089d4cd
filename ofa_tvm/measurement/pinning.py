"""Keeping a measurement on CPUs of its own (Linux; elsewhere threads stay where the system puts them)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ofa_tvm.errors import UsageError, counted


def allowed_cpus() -> set[int]:
    """CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def choose_cpus(threads: int, allowed: set[int] | None = None, sys: Path = Path("/sys")) -> tuple[int, ...]:
    """CPUs for `threads` threads, one a physical core as long as there are cores, the last ones first.

    The first core is left for last, because the system's own work gathers there.

    Raises
    ------
    UsageError
        If this process may use fewer CPUs than that.
    """
    if allowed is None:
        allowed = allowed_cpus()
    if threads > len(allowed):
        raise UsageError(
            f"{threads} threads asked for, but this process may use only {counted(len(allowed), 'CPU')}"
        )
    core_of = {cpu: _core(cpu, sys) for cpu in allowed}
    firsts: list[int] = []
    siblings: list[int] = []
    seen: set[str] = set()
    for cpu in sorted(allowed, reverse=True):
        (siblings if core_of[cpu] in seen else firsts).append(cpu)
        seen.add(core_of[cpu])
    return tuple(sorted((firsts + siblings)[:threads]))


def _core(cpu: int, sys: Path) -> str:
    try:
        return (sys / f"devices/system/cpu/cpu{cpu}/topology/core_cpus_list").read_text().strip()
    except OSError:
        return str(cpu)


def pin(cpus: tuple[int, ...]) -> None:
    """Restrict this process, and the threads that it starts from now on, to `cpus`."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cpus)


@contextmanager
def pinned(threads: int) -> Iterator[tuple[int, ...]]:
    """Pin this process while the block runs; yields the CPUs."""
    cpus = choose_cpus(threads)
    before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    pin(cpus)
    try:
        yield cpus
    finally:
        if before is not None:
            os.sched_setaffinity(0, before)
