"""The threads of a call.

TVM keeps one pool of threads for every thread that calls networks. A pool starts with the first kernel that
asks for it, with half as many threads as the machine has CPUs, never grows, and is not given back when its
caller ends. So calls on several threads come from the main thread, with its pool made as large as the first
such network asks, or from callers that are kept here, a few for each number of threads.
"""

from __future__ import annotations

import functools
import math
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

_NO_AFFINITY = 1  # any of TVM's modes: threads are not bound, see `leave_unbound`
_sizing = threading.Lock()  # TVM keeps the size of the next pool for the whole process
_starting = threading.Lock()


class _Pool(threading.local):
    """What the present thread's pool was set to, and in which process."""

    process = 0
    threads = 0


_pool = _Pool()


def leave_unbound() -> None:
    """Let the system place the pools' threads, unless TVM_BIND_THREADS says otherwise.

    To be called before a pool starts. TVM would bind each thread to one CPU, its caller as well, and with
    that every thread that the caller starts later.
    """
    os.environ.setdefault("TVM_BIND_THREADS", "0")


def on_threads(threads: int, call: Callable[[], T]) -> T:
    """Make a call whose kernels run on so many threads."""
    if threading.current_thread() is threading.main_thread() and _use(threads):
        return call()
    with _starting:
        callers = _callers(os.getpid(), threads)
    return callers.submit(call).result()


@functools.cache
def _callers(_process: int, threads: int) -> ThreadPoolExecutor:
    """Threads that make calls on `threads` threads each, as many as the CPUs have room for.

    A forked process has none of its parent's.
    """
    most = max(1, usable_cpus() // threads)
    return ThreadPoolExecutor(most, f"ofa-tvm-{threads}-threads", functools.partial(_use, threads))


def _use(threads: int) -> bool:
    """Let the present thread's calls run on so many threads, itself included; False if they would not."""
    here = os.getpid()
    if (_pool.process, _pool.threads) == (here, threads):
        return True
    if _pool.process not in (0, here):
        return False  # its pool was lost in a fork
    import tvm

    before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    with _sizing:
        # The list's length is the size of a pool that starts now.
        tvm.get_global_func("runtime.config_threadpool")(_NO_AFFINITY, threads, ["0"] * threads)
        found = int(tvm.get_global_func("runtime.NumThreads")())
    if before is not None:
        os.sched_setaffinity(0, before)  # where TVM_BIND_THREADS is on
    _pool.process, _pool.threads = here, found
    return found == threads


def usable_cpus(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """CPUs that this process may run on, and no more of them than its control group has time for."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(cpus, _cpu_time(cgroup))))


def _cpu_time(cgroup: Path) -> float:
    """Seconds of processor time that a control group gets in a second; infinite without a limit."""
    for files in (["cpu.max"], ["cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"]):  # versions 2 and 1
        try:
            quota, period = " ".join((cgroup / name).read_text() for name in files).split()
            if float(quota) > 0:  # "max" and -1 say that there is no limit
                return float(quota) / float(period)
        except (OSError, ValueError, ZeroDivisionError):
            continue
    return math.inf
