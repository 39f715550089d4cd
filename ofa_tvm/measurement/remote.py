"""The process that measures compiled modules on a device.

On an emulated device TVM's timers count guest instructions, so a measurement is one exact number; on a board
modules are timed in interleaved rounds, as on this machine.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from ofa_tvm.agreement import relative_difference, tolerance
from ofa_tvm.devices.place import Place
from ofa_tvm.devices.session import Session, disk_is_full, open_session, require_kind
from ofa_tvm.devices.tracker import TrackerUnreachable
from ofa_tvm.errors import UserError
from ofa_tvm.measurement.device_watch import DeviceWatches
from ofa_tvm.measurement.protocol import requested_timings
from ofa_tvm.process import EventPipe, answer_requests, use_runtime_only
from ofa_tvm.reference import reference_session
from ofa_tvm.runtime.module import LoadedModule, output_arrays
from ofa_tvm.runtime.remote import load_remote

WAIT_S = 60.0  # for a device, before a measurement gives up
_PAUSE_S = 5.0
_SESSION_LIMIT_S = 1800.0
_TRIES = 2  # on different sessions, before a module is blamed for a lost device or a wrong answer


class _Wrong(Exception):
    """A module's output on the device is not what it should be."""


class _Subject:
    """One module of a request, loaded, checked and ready to be measured."""

    def __init__(self, session: Session, path: Path, seed: int) -> None:
        self.module = load_remote(session, path)
        arrays = self.module.random_inputs(seed)
        inputs = [self.module.tensor(array) for array in arrays]
        _check(self.module, arrays, output_arrays(self.module.vm.main(*inputs)))
        self.module.vm.vm.save_function("main", "ofa_tvm_timed", *inputs, include_return=False)
        self._inputs = inputs  # the saved function refers to them
        self._samples(1)  # the first run after loading takes memory

    def _samples(self, calls: int, repeat: int = 1) -> list[float]:
        evaluator = self.module.vm.vm.module.time_evaluator(
            "ofa_tvm_timed", self.module.device, number=calls, repeat=repeat
        )
        return [float(value) for value in evaluator().results]

    def timer(self, calls: int) -> float:
        """Seconds of so many calls."""
        return self._samples(calls)[0] * calls

    def instructions(self) -> tuple[int, bool]:
        """Instructions of one call, and whether repetitions agree."""
        counts = [round(1e9 * value) for value in self._samples(1, repeat=3)]
        return round(statistics.median(counts)), len(set(counts)) == 1


def _check(module: LoadedModule, arrays: list[Any], outputs: tuple[np.ndarray, ...]) -> None:
    """Refuse to measure a module whose outputs are not finite, or not those of the ONNX file beside it."""
    for output in outputs:
        if output.dtype.kind == "f" and not np.isfinite(output).all():
            raise _Wrong("returns values that are not finite")
    reference = module.path.with_suffix(".onnx")
    if not reference.is_file():
        return
    session = reference_session(reference)
    feeds = {item.name: array for item, array in zip(session.get_inputs(), arrays, strict=True)}
    for want, got in zip(session.run(None, feeds), outputs, strict=True):
        worst = relative_difference(want, got)
        if not worst <= tolerance("measure", str(module.target.get("dtype"))):
            raise _Wrong(f"differs from ONNX Runtime by {worst:.1g} of its largest output")


def _serve(
    request: dict[str, Any],
    place: Place,
    threads: int,
    emulated: bool,
    watches: DeviceWatches,
    events: EventPipe,
) -> dict[str, Any]:
    problem = ""
    for _ in range(_TRIES):
        try:
            session = _connect(place, request.get("avoid", ()), request.get("wait_s") or WAIT_S, events)
        except TrackerUnreachable as error:
            return {"no_device": str(error)}
        require_kind(session, emulated)
        address = session.address
        try:
            return _measure(request, session, threads, watches, events)
        except _Wrong as wrong:
            problem = str(wrong)
        except UserError:
            raise
        except Exception as error:
            reason = (str(error).strip() or repr(error)).splitlines()[-1]
            if session.alive and not disk_is_full(error):
                raise UserError(reason) from error
            gone = "took its device's session down, or the device is gone"
            problem = reason if disk_is_full(error) else gone
        finally:
            watches.forget()
            session.close()
        events.send(event="note", message=f"device {address}: {problem}; trying once more")
    raise UserError(f"{problem} (twice)")


def _connect(place: Place, avoid: Collection[str], wait_s: float, events: EventPipe) -> Session:
    deadline = time.monotonic() + wait_s
    while True:
        events.beat()
        try:
            session = open_session(place, limit_s=_SESSION_LIMIT_S, wait_s=min(_PAUSE_S, wait_s))
        except TrackerUnreachable:
            if time.monotonic() > deadline:
                raise
            time.sleep(1.0)
            continue
        if session.address not in avoid:
            return session
        session.close()  # and it is the last in the tracker's queue
        if time.monotonic() > deadline:
            raise TrackerUnreachable(f"no other device of key {place.key} was free for {wait_s:g} s")
        time.sleep(0.2)


def _measure(
    request: dict[str, Any], session: Session, threads: int, watches: DeviceWatches, events: EventPipe
) -> dict[str, Any]:
    session.set_threads(threads)
    subjects: list[_Subject] = []
    results: list[dict[str, Any]] = []
    for index, path in enumerate(request["paths"]):
        events.send(event="loading", index=index)
        subject = _Subject(session, Path(path), request["seed"])
        if session.emulated:
            count, agree = subject.instructions()
            results.append({"instructions": count, "noisy": not agree})
        else:
            subjects.append(subject)
    if subjects:
        events.send(event="timing")
        timers = [subject.timer for subject in subjects]
        results = requested_timings(request, timers, events.beat, watches.of(session))
    return {"timings": results, "device": session.address}


def main() -> None:
    """Serve until standard input closes; arguments: the place of devices, the threads, the kind of device."""
    use_runtime_only()
    place, threads, emulated = Place.parse(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "emulated"
    watches = DeviceWatches()
    answer_requests(lambda request, events: _serve(request, place, threads, emulated, watches, events))


if __name__ == "__main__":
    main()
