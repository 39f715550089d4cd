"""Measuring compiled modules in a warm process of its own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self, overload

from ofa_tvm.devices import Fleet
from ofa_tvm.errors import UserError
from ofa_tvm.measurement.conditions import Conditions
from ofa_tvm.measurement.pinned_worker import pinned_worker
from ofa_tvm.measurement.pinning import choose_cpus
from ofa_tvm.measurement.protocol import Timing
from ofa_tvm.measurement.result import Measurement
from ofa_tvm.process import WorkerDied, WorkerHung, WorkerProcess
from ofa_tvm.runtime.stored import target_of
from ofa_tvm.targets import Target, detect_machine

GROUP = 32  # modules that one interleaved run holds in memory at once


class NoDevice(UserError):
    """No device of the target's could be had for as long as a request waits."""


class Measurer:
    """Times modules for one target, in one warm worker process; use it as a context manager.

    Where the target's device is another one, the worker measures there over RPC: on a board in milliseconds,
    on an emulated device in instructions. A device that vanishes, hangs or computes wrongly is replaced by
    another one before a module is blamed; `notes` tells of it.

    The worker loads the TVM runtime alone, keeps to its CPUs and survives from module to module, so that a
    small network costs little more than its timed calls. A module that crashes or hangs the worker is
    reported by name, and the next one gets a new worker.

    Parameters
    ----------
    target
        Says the threads and the protocol's settings.
    time_limit_s
        Seconds of silence after which a module counts as hung.

    Raises
    ------
    UserError
        If the target does not run on this machine, or its device cannot be had.
    """

    def __init__(self, target: Target, *, time_limit_s: float = 60.0) -> None:
        self.target = target
        self.cpus: tuple[int, ...] = ()
        self.notes: list[str] = []
        self._fleet: Fleet | None = None
        self._machine = detect_machine().model
        self._limit_s = time_limit_s
        self._worker: WorkerProcess | None = None
        self._killed = False
        if target.run.where == "local":
            self.cpus = choose_cpus(target.threads)
            if reason := target.runs_on(detect_machine()):
                raise UserError(f"target {target.name} cannot be measured here: {reason}")
        else:
            self._fleet = Fleet(target, devices=1)
            self._machine = _device_name(target)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the worker, and the emulated device if there is one."""
        self._end_worker()
        if self._fleet is not None:
            self._fleet.close()

    def kill(self) -> None:
        """End the worker and start no other; from another thread than the one that measures."""
        self._killed = True
        if (worker := self._worker) is not None:
            worker.kill()

    def _end_worker(self) -> None:
        if self._worker is not None:
            self._worker.stop()
            self._worker = None

    def measure(
        self,
        path: str | os.PathLike[str],
        *,
        repeats: int | None = None,
        seconds: float = 5.0,
        seed: int = 0,
        cold: bool = False,
    ) -> Measurement:
        """Time one `.so` (or, by ONNX Runtime with the same threads, one `.onnx`).

        Parameters
        ----------
        path
            The file.
        repeats
            Samples to take, by default the target's.
        seconds
            A slow module gives fewer samples, at least five, if they would take longer.
        seed
            Of its random inputs.
        cold
            Time calls with empty caches as well (`Measurement.cold_ms`; on this machine only).

        Raises
        ------
        UserError
            If the file cannot be loaded, crashes, hangs, or returns values that are not finite.
        """
        return self.measure_many([path], repeats=repeats, seconds=seconds, seed=seed, cold=cold)[0]

    @overload
    def measure_many(
        self,
        paths: Sequence[str | os.PathLike[str]],
        *,
        repeats: int | None = ...,
        seconds: float = ...,
        seed: int = ...,
        cold: bool = ...,
        avoid: Sequence[str] = ...,
        wait_s: float | None = ...,
        errors: Literal["raise"] = ...,
    ) -> list[Measurement]: ...

    @overload
    def measure_many(
        self,
        paths: Sequence[str | os.PathLike[str]],
        *,
        repeats: int | None = ...,
        seconds: float = ...,
        seed: int = ...,
        cold: bool = ...,
        avoid: Sequence[str] = ...,
        wait_s: float | None = ...,
        errors: Literal["return"],
    ) -> list[Measurement | UserError]: ...

    def measure_many(
        self,
        paths: Sequence[str | os.PathLike[str]],
        *,
        repeats: int | None = None,
        seconds: float = 5.0,
        seed: int = 0,
        cold: bool = False,
        avoid: Sequence[str] = (),
        wait_s: float | None = None,
        errors: Literal["raise", "return"] = "raise",
    ) -> list[Any]:
        """Time several files in interleaved rounds (32 at a time), so that their order and ratios hold.

        Parameters are those of `measure`, and `avoid`: devices (host:port) of a tracker not to measure on;
        `wait_s`: how long to wait for another one. With `errors="return"` a file that fails gives its
        UserError in place of a measurement and the others are measured all the same.

        Raises
        ------
        UserError
            As `measure`, for the first file that fails, unless `errors="return"`.
        """
        files = [str(Path(path).resolve()) for path in paths]
        results: list[Measurement | UserError] = []
        for start in range(0, len(files), GROUP):
            request = {
                "repeats": self.target.measure.repeats if repeats is None else repeats,
                "sample_ms": self.target.measure.sample_ms,
                "seconds": seconds,
                "seed": seed,
                "cold": cold,
                "avoid": list(avoid),
                "wait_s": wait_s or self.target.run.wait_s,
            }
            results += self._group(files[start : start + GROUP], request, errors)
        return results

    def _group(
        self, files: list[str], settings: dict[str, Any], errors: str
    ) -> list[Measurement | UserError]:
        failed: dict[int, UserError] = {}
        while left := [index for index in range(len(files)) if index not in failed]:
            try:
                timings = self._ask(settings | {"paths": [files[index] for index in left]})
            except _Failure as failure:
                error = (NoDevice if failure.no_device else UserError)(failure.message)
                if errors == "raise":
                    raise error from None
                guilty = left if failure.index is None else [left[failure.index]]
                failed.update(dict.fromkeys(guilty, error))
                continue
            measured = {index: self._result(item) for index, item in zip(left, timings, strict=True)}
            return [failed.get(index) or measured[index] for index in range(len(files))]
        return [failed[index] for index in range(len(files))]

    def _result(self, item: dict[str, Any]) -> Measurement:
        if "instructions" in item:
            return Measurement.emulated(
                item["instructions"],
                self.target.name,
                self._machine,
                noisy=item["noisy"],
                device=item.get("device", ""),
            )
        found = Conditions.from_json(item["conditions"]) if "conditions" in item else None
        timing = Timing(tuple(item["samples_ms"]), item["calls"], item["passes"], found)
        return Measurement.of(
            timing,
            self.target.name,
            self.target.threads,
            self.cpus,
            self._machine,
            cold_ms=item.get("cold_ms"),
            device=item.get("device", ""),
        )

    def _ask(self, request: dict[str, Any]) -> list[dict[str, Any]]:
        """The worker's answer; a device that hangs or takes the worker down is given up once for another."""
        try:
            return self._ask_once(request)
        except _Failure as failure:
            if self._fleet is None or not failure.worker_ended or self._killed:
                raise
            self.notes.append(failure.message)
            return self._ask_once(request)

    def _ask_once(self, request: dict[str, Any]) -> list[dict[str, Any]]:
        paths = request["paths"]
        if self._killed:
            raise _Failure("measuring was stopped", None)
        if self._worker is None:
            self._worker = self._start()
        index: int | None = 0 if len(paths) == 1 else None
        try:
            self._revive()
            for event in self._worker.ask(request, self._limit_s):
                self._revive()
                match event["event"]:
                    case "loading":
                        index = event["index"]
                    case "timing" if len(paths) > 1:
                        index = None
                    case "note":
                        self.notes.append(event["message"])
                    case "done" if "no_device" in event:
                        raise _Failure(event["no_device"], None, no_device=True)
                    case "done":
                        device = event.get("device", "")
                        return [{**timing, "device": device} for timing in event["timings"]]
                    case "failed":
                        raise _Failure(event["message"], index)
        except _Failure:
            raise
        except (WorkerDied, WorkerHung) as death:
            self._end_worker()
            guilty = paths[index] if index is not None else f"one of {', '.join(paths)}"
            raise _Failure(f"{guilty} {death}", index, worker_ended=True) from None
        except BaseException:
            # An answer that nobody reads would be taken for the next one's.
            self._end_worker()
            raise
        raise AssertionError("a worker's answer ends with done or failed")

    def _revive(self) -> None:
        if self._fleet is not None and self._fleet.revive():
            self.notes.append("the emulated device ended and was started anew")

    def _start(self) -> WorkerProcess:
        if self._fleet is not None:
            threads, kind = str(self.target.threads), "emulated" if self.target.emulated else "real"
            return WorkerProcess("ofa_tvm.measurement.remote", [str(self._fleet.place), threads, kind])
        return pinned_worker("ofa_tvm.measurement.worker", self.cpus)


class _Failure(Exception):
    """A request that failed, and which of its files is to blame (None: any of them)."""

    def __init__(
        self, message: str, index: int | None, *, worker_ended: bool = False, no_device: bool = False
    ) -> None:
        super().__init__(message)
        self.message, self.index = message, index
        self.worker_ended, self.no_device = worker_ended, no_device


def _device_name(target: Target) -> str:
    if target.emulated:
        return f"{target.run.emulator} as {target.run.emulator_cpu} (emulated)"
    return f"{target.hardware.device or target.name} (key {target.run.key})"


def measure(
    path: str | os.PathLike[str],
    target: Target | None = None,
    *,
    repeats: int | None = None,
    seconds: float = 5.0,
    seed: int = 0,
) -> Measurement:
    """Time one compiled module on `target`, with empty caches as well; see `Measurer.measure`.

    Many modules want one `Measurer`.

    Parameters
    ----------
    target
        With the threads to take; by default what the module was compiled for, as a call of it takes them.
    """
    with Measurer(target or target_of(Path(path))) as measurer:
        return measurer.measure(path, repeats=repeats, seconds=seconds, seed=seed, cold=True)


def measure_many(
    paths: Sequence[str | os.PathLike[str]],
    target: Target,
    *,
    repeats: int | None = None,
    seconds: float = 5.0,
    seed: int = 0,
) -> list[Measurement]:
    """Time several modules in interleaved rounds on `target`; see `Measurer.measure_many`."""
    with Measurer(target) as measurer:
        return measurer.measure_many(paths, repeats=repeats, seconds=seconds, seed=seed)
