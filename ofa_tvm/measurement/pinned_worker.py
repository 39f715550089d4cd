"""Starting a measuring process on CPUs of its own."""

from __future__ import annotations

from collections.abc import Sequence

from ofa_tvm.process import WorkerProcess


def pinned_worker(module: str, cpus: Sequence[int]) -> WorkerProcess:
    """A `python -m module CPUS` that keeps to `cpus`, with one thread of each library's for each of them."""
    threads = str(len(cpus))
    return WorkerProcess(
        module,
        [",".join(map(str, cpus))],
        {
            "TVM_BIND_THREADS": "0",  # the affinity set by the worker is the one that counts
            "OMP_NUM_THREADS": threads,
            "POCL_MAX_PTHREAD_COUNT": threads,  # else one a CPU of the machine
        },
    )
