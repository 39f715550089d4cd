"""The process that times modules: it loads the TVM runtime alone and pins itself to its CPUs."""

from __future__ import annotations

import itertools
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from ofa_tvm.errors import UserError
from ofa_tvm.measurement.cold import CALLS, cache_emptier
from ofa_tvm.measurement.conditions import system_files
from ofa_tvm.measurement.pinning import pin
from ofa_tvm.measurement.protocol import Timer, requested_timings, timer
from ofa_tvm.measurement.watch import Watch, hashing_s
from ofa_tvm.process import EventPipe, answer_requests, use_runtime_only
from ofa_tvm.random_arrays import random_array
from ofa_tvm.runtime import Runner, TensorSpec, load_module

_ONNX_DTYPES = {  # ONNX Runtime's names of types
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(bool)": "bool",
} | {
    f"tensor({name})": name for name in (f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))
}
_INPUTS = 4  # that a network is called with in turn


def _check_finite(arrays: tuple[np.ndarray, ...], path: str) -> None:
    for array in arrays:
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise UserError(
                f"{path} returns values that are not finite: it computes wrongly and is not timed"
            )


def _inputs(specs: Sequence[TensorSpec], seed: int) -> list[list[npt.NDArray[Any]]]:
    """Inputs to call with in turn: a caller's next picture lies elsewhere than the one before."""
    rng = np.random.default_rng(seed)
    return [[random_array(spec.shape, spec.dtype, rng) for spec in specs] for _ in range(_INPUTS)]


def module_call(path: str, seed: int, threads: int) -> tuple[Runner, Callable[[], object]]:
    """A module as `ofa_tvm.load` hands it to users, and a call of it with another input each time."""
    run = Runner(load_module(path), threads)
    inputs = _inputs(run.inputs, seed)
    for arrays in inputs:
        outputs = run(*arrays)
        _check_finite(outputs if isinstance(outputs, tuple) else (outputs,), path)
    turns = itertools.cycle(inputs)
    return run, lambda: run(*next(turns))


def _onnx_timer(path: str, seed: int, threads: int) -> Timer:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has exception classes for each cause, without a public base
        raise UserError(f"ONNX Runtime cannot load {path}: {str(error).splitlines()[0]}") from error
    specs = []
    for item in session.get_inputs():
        if item.type not in _ONNX_DTYPES or not all(isinstance(size, int) for size in item.shape):
            raise UserError(f"{path}: input {item.name} is {item.type}{item.shape}; fix its shape and type")
        specs.append(TensorSpec(item.name, tuple(item.shape), _ONNX_DTYPES[item.type]))
    names = [spec.name for spec in specs]
    feeds = [dict(zip(names, arrays, strict=True)) for arrays in _inputs(specs, seed)]
    for feed in feeds:
        _check_finite(tuple(np.asarray(array) for array in session.run(None, feed)), path)
    turns = itertools.cycle(feeds)
    return timer(lambda: session.run(None, next(turns)))


@contextmanager
def blaming(what: str) -> Iterator[None]:
    """Turn whatever a module raises into a sentence about it."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise UserError(f"{what} failed: {reason}") from error


def _serve(request: dict[str, Any], threads: int, watch: Watch, events: EventPipe) -> dict[str, Any]:
    timers: list[Timer] = []
    for index, path in enumerate(request["paths"]):
        # The parent blames the file named last, should this process die.
        events.send(event="loading", index=index)
        with blaming(path):
            if path.endswith(".onnx"):
                timers.append(_onnx_timer(path, request["seed"], threads))
            else:
                timers.append(timer(module_call(path, request["seed"], threads)[1]))
            timers[-1](1)  # a crash while it runs is then its own, too
    events.send(event="timing")
    with blaming(" or ".join(request["paths"])):
        timings = requested_timings(request, timers, events.beat, watch)
        if request["cold"]:
            for timing, cold_ms in zip(timings, cold_times_ms(timers, events), strict=True):
                timing["cold_ms"] = cold_ms
        return {"timings": timings}


def cold_times_ms(timers: Sequence[Timer], events: EventPipe) -> list[float]:
    """Median milliseconds of single calls that find nothing of theirs in the caches."""
    empty = cache_emptier()
    samples: list[list[float]] = [[] for _ in timers]
    for _ in range(CALLS):
        for run, taken in zip(timers, samples, strict=True):
            empty()
            taken.append(1e3 * run(1))
            events.beat()
    return [statistics.median(taken) for taken in samples]


def main() -> None:
    """Serve until standard input closes; the argument lists the CPUs."""
    cpus = tuple(int(cpu) for cpu in sys.argv[1].split(","))
    pin(cpus)
    use_runtime_only()
    import tvm.runtime.vm  # noqa: F401  (seconds on a busy machine, which are no module's silence)

    watch = Watch(hashing_s, system_files, cpus=cpus)
    answer_requests(lambda request, events: _serve(request, len(cpus), watch, events))


if __name__ == "__main__":
    main()
