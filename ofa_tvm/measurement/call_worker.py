"""A runner whose calls are timed one by one: a process on CPUs of its own."""

from __future__ import annotations

import sys
import time
from array import array
from collections.abc import Callable
from typing import Any

import numpy as np

from ofa_tvm.measurement.pinning import pin
from ofa_tvm.measurement.protocol import FEWEST, timer
from ofa_tvm.measurement.worker import blaming, cold_times_ms, module_call
from ofa_tvm.process import EventPipe, answer_requests, use_runtime_only
from ofa_tvm.runtime import Runner

Call = Callable[[], object]


class _Server:
    """Answers `load`, then `time` and `cold`, for the one module that it has loaded."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._call: Call | None = None

    def answer(self, request: dict[str, Any], events: EventPipe) -> dict[str, Any]:
        """What a request asks for."""
        with blaming(request["path"]):
            if request["do"] == "load":
                events.send(event="loading")  # from here on silence is the module's own
                runner, self._call = module_call(request["path"], request["seed"], self._threads)
                return {
                    "calls": _warm_up(self._call, time.monotonic() + request["seconds"], events),
                    "images": _images(runner),
                }
            assert self._call is not None
            if request["do"] == "cold":
                return {"cold_ms": cold_times_ms([timer(self._call)], events)[0]}
            return _timed(self._call, request, events)


def _images(runner: Runner) -> int | None:
    """Images a call; None of a network that does not take one array of images."""
    shapes = [spec.shape for spec in runner.inputs]
    return shapes[0][0] if len(shapes) == 1 and len(shapes[0]) == 4 else None


def _warm_up(call: Call, until: float, events: EventPipe) -> int:
    calls = 0
    while calls < 2 or time.monotonic() < until:
        call()
        calls += 1
        events.beat()
    return calls


def _timed(call: Call, request: dict[str, Any], events: EventPipe) -> dict[str, Any]:
    """Call until the window ends, from the moment on that all runners start at; none waits with idle CPUs."""
    own = time.process_time()
    _warm_up(call, request["start"], events)
    clock, took = time.perf_counter, array("d")
    first = clock()
    end, most = first + request["seconds"], max(request["calls"] or sys.maxsize, FEWEST)
    now = first
    while (now < end or len(took) < FEWEST) and len(took) < most:
        before = clock()
        call()
        now = clock()
        took.append(now - before)
        events.beat()
    np.save(request["file"], np.frombuffer(took))
    return {"seconds": now - first, "own_s": time.process_time() - own}


def main() -> None:
    """Serve until standard input closes; the argument lists the CPUs."""
    cpus = tuple(int(cpu) for cpu in sys.argv[1].split(","))
    pin(cpus)
    use_runtime_only()
    import tvm.runtime.vm  # noqa: F401  (seconds on a busy machine, which are no module's silence)

    answer_requests(_Server(len(cpus)).answer)


if __name__ == "__main__":
    main()
