"""Measuring compiled modules in a warm process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, overload

from ofa_tvm.errors import UserError
from ofa_tvm.measurement.pinning import choose_cpus
from ofa_tvm.measurement.protocol import Timing
from ofa_tvm.measurement.result import Measurement
from ofa_tvm.targets import Target, detect_machine

GROUP = 32  # modules that one interleaved run holds in memory at once
START_LIMIT_S = 60.0


class Measurer:
    """Times modules for one target, in one warm worker process; use it as a context manager.

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
        If the target does not run on this machine.
    """

    def __init__(self, target: Target, *, time_limit_s: float = 60.0) -> None:
        self.target = target
        self.cpus = choose_cpus(target.threads)
        self._machine = detect_machine()
        self._limit_s = time_limit_s
        self._worker: _Worker | None = None
        if target.run.where != "local":
            raise UserError(
                f"target {target.name} runs by {target.run.where}; this version measures local targets only"
            )
        if reason := target.runs_on(self._machine):
            raise UserError(f"target {target.name} cannot be measured here: {reason}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the worker."""
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
            Of its random input.

        Raises
        ------
        UserError
            If the file cannot be loaded, crashes, hangs, or returns values that are not finite.
        """
        return self.measure_many([path], repeats=repeats, seconds=seconds, seed=seed)[0]

    @overload
    def measure_many(
        self,
        paths: Sequence[str | os.PathLike[str]],
        *,
        repeats: int | None = ...,
        seconds: float = ...,
        seed: int = ...,
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
        errors: Literal["return"],
    ) -> list[Measurement | UserError]: ...

    def measure_many(
        self,
        paths: Sequence[str | os.PathLike[str]],
        *,
        repeats: int | None = None,
        seconds: float = 5.0,
        seed: int = 0,
        errors: Literal["raise", "return"] = "raise",
    ) -> list[Any]:
        """Time several files in interleaved rounds (32 at a time), so that their order and ratios hold.

        Parameters are those of `measure`; with `errors="return"` a file that fails gives its UserError in
        place of a measurement and the others are measured all the same.

        Raises
        ------
        UserError
            As `measure`, for the first file that fails, unless `errors="return"`.
        """
        files = [str(Path(path).resolve()) for path in paths]
        results: list[Measurement | UserError] = []
        for start in range(0, len(files), GROUP):
            results += self._group(files[start : start + GROUP], repeats, seconds, seed, errors)
        return results

    def _group(
        self, files: list[str], repeats: int | None, seconds: float, seed: int, errors: str
    ) -> list[Measurement | UserError]:
        settings = self.target.measure
        failed: dict[int, UserError] = {}
        while left := [index for index in range(len(files)) if index not in failed]:
            request = {
                "paths": [files[index] for index in left],
                "repeats": settings.repeats if repeats is None else repeats,
                "sample_ms": settings.sample_ms,
                "seconds": seconds,
                "seed": seed,
            }
            try:
                timings = self._ask(request)
            except _Failure as failure:
                error = UserError(failure.message)
                if errors == "raise":
                    raise error from None
                guilty = left if failure.index is None else [left[failure.index]]
                failed.update(dict.fromkeys(guilty, error))
                continue
            measured = {
                index: Measurement.of(timing, self.target.name, len(self.cpus), self.cpus, self._machine)
                for index, timing in zip(left, timings, strict=True)
            }
            return [failed.get(index) or measured[index] for index in range(len(files))]
        return [failed[index] for index in range(len(files))]

    def _ask(self, request: dict[str, Any]) -> list[Timing]:
        if self._worker is None:
            self._worker = _Worker(self.cpus)
        try:
            return self._worker.ask(request, self._limit_s)
        except _Failure as failure:
            if failure.fatal:
                self.close()
            raise
        except BaseException:
            # An interrupted answer would be taken for the next one's.
            self.close()
            raise


class _Failure(Exception):
    """A request that failed: whose fault it is (None: any of them), whether the worker is gone."""

    def __init__(self, message: str, index: int | None, fatal: bool) -> None:
        super().__init__(message)
        self.message, self.index, self.fatal = message, index, fatal


class _Worker:
    """One worker process and the pipe to it."""

    def __init__(self, cpus: tuple[int, ...]) -> None:
        root = Path(__file__).resolve().parents[2]
        environment = os.environ | {
            "TVM_NUM_THREADS": str(len(cpus)),
            "TVM_BIND_THREADS": "0",  # the affinity set by the worker is the one that counts
            "OMP_NUM_THREADS": str(len(cpus)),
            "PYTHONPATH": os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])]),
        }
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  (closed by stop)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "ofa_tvm.measurement.worker", ",".join(map(str, cpus))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment,
        )
        self._pending = b""

    def ask(self, request: dict[str, Any], limit_s: float) -> list[Timing]:
        """Send one request and wait for its answer."""
        paths = request["paths"]
        assert self._process.stdin is not None
        index: int | None = 0 if len(paths) == 1 else None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
            limit = max(limit_s, START_LIMIT_S)
            while True:
                event = self._event(limit)
                match event["event"]:
                    case "loading":
                        index, limit = event["index"], limit_s
                    case "timing" if len(paths) > 1:
                        index = None
                    case "done":
                        return [Timing(tuple(item.pop("samples_ms")), **item) for item in event["timings"]]
                    case "failed":
                        raise _Failure(event["message"], index, fatal=False)
                    case "raised":
                        message = f"{_blame(paths, index)} failed: {event['message']}"
                        raise _Failure(message, index, fatal=False)
        except TimeoutError:
            message = f"{_blame(paths, index)} gave no sign for {limit_s:g} s and was stopped"
            raise _Failure(message, index, fatal=True) from None
        except (EOFError, BrokenPipeError):
            raise _Failure(f"{_blame(paths, index)} {self._death()}", index, fatal=True) from None

    def _event(self, limit_s: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        deadline = time.monotonic() + limit_s
        while b"\n" not in self._pending:
            ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError
            chunk = os.read(descriptor, 1 << 16)
            if not chunk:
                raise EOFError
            self._pending += chunk
        line, _, self._pending = self._pending.partition(b"\n")
        return dict(json.loads(line))

    def _death(self) -> str:
        code = self._process.wait()
        if code < 0:
            name = signal.Signals(-code).name
            why = {
                "SIGILL": "uses instructions that this CPU lacks",
                "SIGKILL": "was killed (out of memory?)",
            }
            return f"{why.get(name, 'crashed')} ({name})"
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return f"ended the measuring process with exit code {code}: {lines[-1] if lines else 'no message'}"

    def stop(self) -> None:
        """End the process at once."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


def _blame(paths: Sequence[str], index: int | None) -> str:
    return paths[index] if index is not None else f"one of {', '.join(paths)}"


def measure(
    path: str | os.PathLike[str],
    target: Target,
    *,
    repeats: int | None = None,
    seconds: float = 5.0,
    seed: int = 0,
) -> Measurement:
    """Time one compiled module on `target`; see `Measurer.measure`. Many modules want one `Measurer`."""
    with Measurer(target) as measurer:
        return measurer.measure(path, repeats=repeats, seconds=seconds, seed=seed)


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
