"""Trials on a device of a tracker: built here, run there, and checked before they count."""

from __future__ import annotations

import itertools
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
from tvm.s_tir import Schedule

from ofa_tvm.compiler import schedules
from ofa_tvm.compiler.final import final_form
from ofa_tvm.compiler.kernels import shapes
from ofa_tvm.devices.place import Place
from ofa_tvm.devices.session import Session, SessionLost, disk_is_full, open_session, require_kind
from ofa_tvm.devices.tracker import TrackerUnreachable
from ofa_tvm.errors import UserError
from ofa_tvm.temporaries import scratch_folder

_PAUSE_S = 5.0
_SESSION_LIMIT_S = 900.0
_TRIES = 2  # on different sessions, before a schedule is blamed for a lost device or a wrong answer
_REPEATS = 3
_SAMPLE_S = 2e-3
_HOPELESS = 3.0
_TOLERANCE = {"float16": 2e-2}  # of the largest value; otherwise 1e-3


class RemoteTimer:
    """Builds schedules of one kernel for a target and measures them on a device.

    The device's output is compared with the kernel's on this machine, so that neither a broken schedule nor
    a broken device leaves a time. Whatever fails is tried once more, on another device if there is one.

    Parameters
    ----------
    mod, target
        The kernel and TVM's target.
    place
        Where devices come from.
    link
        Command that links for the target.
    best_s
        Of the schedules known so far.
    emulated
        Whether the devices have to be emulated ones, which count instructions, or must not be.
    wait_s
        How long to wait for a device before giving up.
    alive
        Called while nothing else happens, so that waiting is not taken for hanging.
    note
        Told of devices that misbehave.
    """

    def __init__(
        self,
        mod: tvm.IRModule,
        target: tvm.target.Target,
        place: Place,
        link: Sequence[str],
        best_s: float,
        emulated: bool,
        wait_s: float,
        alive: Callable[[], None],
        note: Callable[[str], None],
    ) -> None:
        self.best_s = best_s
        self._target, self._place, self._link = target, place, tuple(link)
        self._emulated, self._wait_s = emulated, wait_s
        self._alive, self._note = alive, note
        rng = np.random.default_rng(0)
        function = mod["main"]
        self._arrays = [
            rng.random(shape).astype(str(buffer.dtype))
            for shape, buffer in zip(shapes(function), function.params, strict=True)
        ]
        self._expected = _on_this_machine(mod, self._arrays)
        self._session: Session | None = None
        self._device: Any = None
        self._tensors: list[Any] = []
        self._numbers = itertools.count()
        self._folder = scratch_folder("trials")

    def __call__(self, sch: Schedule) -> list[float]:
        """Seconds of one call (instructions x 1e-9 on an emulated device): some samples, one if hopeless.

        Raises
        ------
        UserError
            If the schedule cannot be built, crashes its device or computes wrongly.
        TrackerUnreachable
            If there is no device to be had, or none that has room for a schedule.
        """
        library = self._build(sch)
        problem, full = "", False
        for _ in range(_TRIES):
            session = self._connected()
            device = session.address
            try:
                samples = self._measure(session, library)
            except _WrongAnswer as wrong:
                problem = str(wrong)
            except Exception as error:
                full = disk_is_full(error)
                if session.alive and not full:
                    raise UserError(_reason(error)) from error
                problem = _reason(error) if full else "its session ended"
            else:
                self.best_s = min(self.best_s, statistics.median(samples))
                return samples
            self._note(f"device {device}: {problem}; trying once more")
            del session
            self.close()
        if full:
            raise TrackerUnreachable(problem)
        raise UserError(f"twice on a device: {problem}")

    def close(self) -> None:
        """Give the device back."""
        self._tensors, self._device = [], None
        if self._session is not None:
            self._session.close()
            self._session = None

    def _build(self, sch: Schedule) -> Path:
        path = Path(self._folder.name) / f"trial{next(self._numbers)}.so"
        library = tvm.compile(final_form(sch.mod, self._target), target=self._target)
        library.export_library(str(path), fcompile=_linker(self._link))
        return path

    def _connected(self) -> Session:
        deadline = time.monotonic() + self._wait_s
        while self._session is None:
            self._alive()
            try:
                session = open_session(
                    self._place, limit_s=_SESSION_LIMIT_S, wait_s=min(_PAUSE_S, self._wait_s)
                )
            except TrackerUnreachable:
                if time.monotonic() > deadline:
                    raise
                time.sleep(1.0)
                continue
            require_kind(session, self._emulated)
            try:
                session.set_threads(int(self._target.attrs.get("num-cores", 1)))
                self._device = session.device(str(self._target.kind.name))
                self._tensors = [tvm.runtime.tensor(array, device=self._device) for array in self._arrays]
            except TrackerUnreachable:
                session.close()
                raise
            except Exception:  # a device that ends at once is passed over
                self._tensors = []
                session.close()
                continue
            self._session = session
        return self._session

    def _measure(self, session: Session, library: Path) -> list[float]:
        module = session.load(library)
        start = time.monotonic()
        module["main"](*self._tensors)
        self._check()
        if session.emulated:
            return [self._seconds(module, 1)]
        once = self._seconds(module, 1)
        if once > _HOPELESS * self.best_s and once > 50e-6:
            return [once]
        calls = max(1, round(_SAMPLE_S / max(once, 1e-7)))
        samples = [self._seconds(module, calls) for _ in range(_REPEATS)]
        if time.monotonic() - start > _SESSION_LIMIT_S:
            raise SessionLost("the trial outlasted its session")
        return samples

    def _seconds(self, module: Any, calls: int) -> float:
        evaluator = module.time_evaluator("main", self._device, number=calls, repeat=1)
        return float(evaluator(*self._tensors).mean)

    def _check(self) -> None:
        for tensor, expected in zip(self._tensors, self._expected, strict=True):
            if expected.dtype.kind not in "fiu":
                continue
            got = tensor.numpy().astype(np.float64)
            scale = max(float(np.abs(expected.astype(np.float64)).max(initial=0.0)), 1e-6)
            worst = float(np.abs(got - expected).max(initial=0.0))
            if not worst <= _TOLERANCE.get(str(expected.dtype), 1e-3) * scale:
                raise _WrongAnswer(f"it computes wrongly (off by {worst / scale:.1g} of the largest value)")


class _WrongAnswer(Exception):
    """The device's output differs from this machine's."""


def _on_this_machine(mod: tvm.IRModule, arrays: Sequence[npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
    """What a call makes of its arguments, computed by the CPU at hand with the template's first schedule."""
    host = tvm.target.Target({"kind": "llvm"})
    default = next(schedules.ranked_schedules(mod, schedules.machine(host)), None)
    scheduled = mod if default is None else default.mod
    library = tvm.compile(final_form(scheduled, host), target=host)
    tensors = [tvm.runtime.tensor(array) for array in arrays]
    library["main"](*tensors)
    return [tensor.numpy() for tensor in tensors]


def _linker(command: Sequence[str]) -> Callable[..., None]:
    def link(output: str, files: list[str], **_options: object) -> None:
        # What a kernel calls (expf, memset) the server has; looking for it here takes most of the time.
        line = [*command, "-shared", "-fPIC", "-nostdlib", "-o", output, *files]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        if done.returncode:
            raise UserError(f"linking with {command[0]} failed: {done.stderr.strip()}")

    return link


def _reason(error: Exception) -> str:
    return (str(error).strip() or repr(error)).splitlines()[-1]
