"""The process that times modules: it loads the TVM runtime alone and pins itself to its CPUs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from ofa_tvm.errors import UserError
from ofa_tvm.measurement.module import (
    LoadedModule,
    TensorSpec,
    load_module,
    output_arrays,
    random_input,
)
from ofa_tvm.measurement.pinning import pin
from ofa_tvm.measurement.protocol import Timer, requested_timings, timer
from ofa_tvm.process import Link, answer_requests, use_runtime_only


def _check_finite(arrays: tuple[np.ndarray, ...], path: str) -> None:
    for array in arrays:
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise UserError(
                f"{path} returns values that are not finite: it computes wrongly and is not timed"
            )


def _tvm_timer(path: str, seed: int) -> tuple[LoadedModule, Timer]:
    module = load_module(path)
    inputs = [module.tensor(array) for array in module.random_inputs(seed)]
    _check_finite(output_arrays(module.main(*inputs)), path)
    # The runtime's own evaluator loops in C++ and waits for the device; only its first run is not timed.
    module.vm.save_function("main", "ofa_tvm_timed", *inputs, include_return=False)
    evaluator = module.vm.module.time_evaluator

    def run(calls: int) -> float:
        once = evaluator("ofa_tvm_timed", module.device, number=calls, repeat=1)()
        return float(once.mean) * calls

    return module, run


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
    rng = np.random.default_rng(seed)
    dtypes = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(int64)": "int64"}
    feeds = {}
    for item in session.get_inputs():
        if item.type not in dtypes or not all(isinstance(size, int) for size in item.shape):
            raise UserError(f"{path}: input {item.name} is {item.type}{item.shape}; fix its shape and type")
        spec = TensorSpec(item.name, tuple(item.shape), dtypes[item.type])
        feeds[item.name] = random_input(spec, rng)
    _check_finite(tuple(np.asarray(array) for array in session.run(None, feeds)), path)
    return timer(lambda: session.run(None, feeds))


@contextmanager
def _blaming(what: str) -> Iterator[None]:
    """Turn whatever a module raises into a sentence about it."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise UserError(f"{what} failed: {reason}") from error


def _serve(request: dict[str, Any], threads: int, link: Link) -> dict[str, Any]:
    timers: list[Timer] = []
    modules = []  # kept, because a timer's function lives in its module
    for index, path in enumerate(request["paths"]):
        # The parent blames the file named last, should this process die.
        link.send(event="loading", index=index)
        with _blaming(path):
            if path.endswith(".onnx"):
                timers.append(_onnx_timer(path, request["seed"], threads))
            else:
                module, run = _tvm_timer(path, request["seed"])
                modules.append(module)
                timers.append(run)
            timers[-1](1)  # a crash while it runs is then its own, too
    link.send(event="timing")
    with _blaming(" or ".join(request["paths"])):
        return {"timings": requested_timings(request, timers, link.beat)}


def main() -> None:
    """Serve until standard input closes; the argument lists the CPUs."""
    cpus = tuple(int(cpu) for cpu in sys.argv[1].split(","))
    pin(cpus)
    use_runtime_only()
    answer_requests(lambda request, link: _serve(request, len(cpus), link))


if __name__ == "__main__":
    main()
