"""Where a network's time goes: its kernels timed inside the network."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ofa_tvm.errors import UserError
from ofa_tvm.logs import Signature
from ofa_tvm.measurement.pinning import pinned
from ofa_tvm.runtime import Runner, load_module

TIMES = "kernel_seconds"  # the function that the compiler adds to a module with `profile=True`
_WARM_UP = 10


@dataclass(frozen=True)
class KernelTime:
    """One call of a kernel, as part of an inference.

    Parameters
    ----------
    signature
        What it computes.
    median_us, mad_us
        Median and median absolute deviation over the rounds.
    """

    signature: Signature
    median_us: float
    mad_us: float

    @property
    def name(self) -> str:
        """What it computes, for people."""
        return str(self.signature)


def profile(path: str | os.PathLike[str], *, rounds: int = 100, seed: int = 0) -> tuple[KernelTime, ...]:
    """Time every kernel call of a module that was compiled with `profile=True`, in order of execution.

    Unlike a kernel timed alone, each finds the caches as its predecessor leaves them. The process is pinned
    meanwhile.

    Parameters
    ----------
    path
        The `.so`.
    rounds
        Inferences to take the median over.
    seed
        Of the inputs.

    Raises
    ------
    UserError
        If the module cannot be loaded, or was compiled without `profile=True`.
    """
    import tvm

    module = load_module(path)
    listed = module.metadata.get("kernel_calls")
    if not listed:
        raise UserError(f"{Path(path)} was not compiled for profiling; compile it with profile=True")
    try:
        signatures = [Signature.from_json(entry) for entry in listed]
    except ValueError as error:
        raise UserError(f"{Path(path)} was profiled by another version: {error}; compile it anew") from error
    read = module.vm.vm.module.get_function(TIMES, query_imports=True)
    times = tvm.runtime.tensor(np.zeros(len(signatures)))
    run = Runner(module)
    inputs = module.random_inputs(seed)
    samples = np.empty((rounds, len(signatures)))
    with pinned(module.threads):
        for _ in range(_WARM_UP):
            run(*inputs)
        read(times)
        for number in range(rounds):
            run(*inputs)
            read(times)
            samples[number] = times.numpy()
    median = np.median(samples, axis=0)
    mad = np.median(np.abs(samples - median), axis=0)
    return tuple(
        KernelTime(signature, float(m) * 1e6, float(d) * 1e6)
        for signature, m, d in zip(signatures, median, mad, strict=True)
    )
