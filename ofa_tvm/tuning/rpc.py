"""Trials on a device of a tracker: built here, run there, and checked before they count."""

from __future__ import annotations

import itertools
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tvm
from tvm.s_tir import Schedule

from ofa_tvm.compiler.code import kernel_code
from ofa_tvm.compiler.final import final_form
from ofa_tvm.compiler.templates import templates_of
from ofa_tvm.compiler.toolchain import on_cpu
from ofa_tvm.devices.place import Place
from ofa_tvm.devices.session import Session, SessionLost, disk_is_full, open_session, require_kind
from ofa_tvm.devices.tracker import TrackerUnreachable
from ofa_tvm.errors import UserError
from ofa_tvm.measurement.device_watch import DeviceWatches
from ofa_tvm.targets.tvm_target import cpu_features
from ofa_tvm.temporaries import scratch_folder
from ofa_tvm.tuning.messages import DeviceRequest
from ofa_tvm.tuning.runner import (
    SAMPLE_S,
    TRIES_ON_DEVICES,
    Array,
    Runner,
    WrongAnswer,
    random_arguments,
    reason,
    stays_hot,
)

_PAUSE_S = 5.0
_LONG_S = 60.0  # a wait that is told of
_SESSION_LIMIT_S = 900.0


class RpcRunner(Runner):
    """Times schedules on a device of a tracker, or counts their instructions on an emulated one.

    The device's output is compared with the kernel's on this machine, so that neither a broken schedule nor
    a broken device leaves a time. Whatever fails is tried once more, on another device if there is one.
    Nothing is timed in turns: instruction counts are exact, and a board is nobody else's.

    Parameters
    ----------
    mod, target
        The kernel and TVM's target.
    device
        Where devices come from, and of which kind they have to be.
    best_s
        Of the best schedule known so far.
    alive
        Called while nothing else happens, so that waiting is not taken for hanging.
    note
        Told of devices that misbehave.
    watches
        Of the devices: one that throttles is waited for.
    """

    tries = TRIES_ON_DEVICES
    takes_turns = False

    def __init__(
        self,
        mod: tvm.IRModule,
        target: tvm.target.Target,
        device: DeviceRequest,
        best_s: float,
        alive: Callable[[], None],
        note: Callable[[str], None],
        watches: DeviceWatches | None = None,
    ) -> None:
        self._arrays = random_arguments(mod["main"])
        super().__init__(target, best_s, _on_this_machine(mod, self._arrays))
        self._place, self._wanted = Place.parse(device.place), device
        self._alive, self._note = alive, note
        self._watches = watches or DeviceWatches()
        self._session: Session | None = None
        self._device: Any = None
        self._tensors: list[Any] = []
        self._loaded_s = 0.0
        self._numbers = itertools.count()
        self._folder = scratch_folder("trials")

    def build(self, sch: Schedule) -> Path:
        """A shared library for the device."""
        path = Path(self._folder.name) / f"trial{next(self._numbers)}.so"
        super().build(sch).export_library(str(path), fcompile=_linker(self._wanted.link))
        return path

    def load(self, library: Path) -> Any:
        """The library as a module of the device; waits for a device where there is none.

        Raises
        ------
        TrackerUnreachable
            If there is no device to be had.
        """
        session, self.throttled = self._connected(), False
        module = session.load(library)
        self._loaded_s = time.monotonic()
        return module

    def first_call(self, program: Any) -> float:
        """Seconds of a call after one that warms up (instructions x 1e-9 on an emulated device)."""
        program["main"](*self._tensors)
        return self._seconds(program, 1)

    def samples(self, program: Any, once_s: float, count: int) -> list[float]:
        """Seconds a call; the one count of an emulated device, which is exact."""
        if self._wanted.emulated:
            return [once_s]
        calls = max(1, round(SAMPLE_S / max(once_s, 1e-7)))
        session = self._connected()
        samples, self.throttled = self._watches.of(session).while_cool(
            lambda: [self._seconds(program, calls) for _ in range(count)],
            self._alive,
            lambda: self._note(stays_hot(f"device {session.address}")),
        )
        if time.monotonic() - self._loaded_s > _SESSION_LIMIT_S:
            raise SessionLost("the trial outlasted its session")
        return samples

    def results(self) -> list[Array]:
        """All arguments as they are after the last call."""
        return [tensor.numpy() for tensor in self._tensors]

    def fault_of_device(self, error: Exception) -> UserError | None:
        """A device may lose its session, compute wrongly, or have no room for a schedule."""
        session = self._session
        if session is None:
            return None
        full, address = disk_is_full(error), session.address
        if isinstance(error, WrongAnswer):
            problem = str(error)
        elif full:
            problem = reason(error)
        elif session.alive:
            return None
        else:
            problem = "its session ended"
        self._note(f"device {address}: {problem}; trying once more")
        return TrackerUnreachable(problem) if full else UserError(f"twice on a device: {problem}")

    def close(self) -> None:
        """Give the device back."""
        self._tensors, self._device = [], None
        if self._session is not None:
            self._watches.forget()
            self._session.close()
            self._session = None

    def _connected(self) -> Session:
        deadline, told = time.monotonic() + self._wanted.wait_s, False
        while self._session is None:
            self._alive()
            try:
                session = open_session(
                    self._place, limit_s=_SESSION_LIMIT_S, wait_s=min(_PAUSE_S, self._wanted.wait_s)
                )
            except TrackerUnreachable:
                if time.monotonic() > deadline:
                    raise
                if not told and self._wanted.wait_s > _LONG_S:
                    minutes = round(self._wanted.wait_s / 60)
                    self._note(
                        f"no device of key {self._place.key} is there; waiting {minutes:.0f} minutes for one"
                    )
                    told = True
                time.sleep(1.0)
                continue
            require_kind(session, self._wanted.emulated)
            try:
                self._require_features(session)
                session.set_threads(int(self.target.attrs.get("num-cores", 1)))
                self._device = session.device(str(self.target.kind.name))
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

    def _require_features(self, session: Session) -> None:
        """No schedule is blamed for a device that is not of the target's kind."""
        host = self.target if on_cpu(self.target) else self.target.host
        if host is not None and (lacking := session.lacking(cpu_features(host))):
            raise TrackerUnreachable(
                f"the cores of device {session.address} do not have {lacking}, which the target is for; name "
                "the target of its cores (`ofa-tvm targets list`)"
            )

    def _seconds(self, module: Any, calls: int) -> float:
        evaluator = module.time_evaluator("main", self._device, number=calls, repeat=1)
        return float(evaluator(*self._tensors).mean)


def _on_this_machine(mod: tvm.IRModule, arrays: Sequence[Array]) -> list[Array]:
    """What a call makes of its arguments, computed by the CPU at hand with the template's first schedule."""
    host = tvm.target.Target({"kind": "llvm"})
    default = next(templates_of(host).ranked(mod), None)
    scheduled = mod if default is None else default.mod
    library = kernel_code(final_form(scheduled, host), host)
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
