"""Compiled modules on a device: loading them over RPC, and the process that measures them there.

On an emulated device TVM's timers count guest instructions, so a measurement is one exact number; on a board
modules are timed in interleaved rounds, as on this machine.
"""

from __future__ import annotations

import dataclasses
import platform
import statistics
import sys
import time
import weakref
from pathlib import Path
from typing import Any

import numpy as np

from ofa_tvm.devices import Fleet
from ofa_tvm.devices.place import Place
from ofa_tvm.devices.session import Session, disk_is_full, open_session, require_kind
from ofa_tvm.devices.tracker import TrackerUnreachable
from ofa_tvm.errors import UserError
from ofa_tvm.files import data_dir
from ofa_tvm.measurement.module import (
    LoadedModule,
    elf_arch,
    lacking_runtime,
    load_module,
    loaded_module,
    output_arrays,
)
from ofa_tvm.measurement.protocol import requested_timings
from ofa_tvm.process import Link, answer_requests, use_runtime_only
from ofa_tvm.targets import Target, load_target
from ofa_tvm.targets.load import ALIASES
from ofa_tvm.targets.readiness import missing_emulator

WAIT_S = 60.0  # for a device, before a measurement gives up
_PAUSE_S = 5.0
_SESSION_LIMIT_S = 1800.0
_TRIES = 2  # on different sessions, before a module is blamed for a lost device or a wrong answer
_TOLERANCE = {"float16": 5e-2}  # of the largest output, by the dtype computed in; otherwise 1e-3


def load_remote(session: Session, path: Path) -> LoadedModule:
    """Load a module on a session's device; it is called like one of this process.

    Raises
    ------
    UserError
        If it is code for another processor, or not made by ofa-tvm.
    """
    arch = elf_arch(path)
    if arch != session.arch:
        raise UserError(f"{path} is code for {arch}, but device {session.address} is {session.arch}")
    import tvm.runtime.vm

    try:
        library = session.load(path)
    except Exception as error:
        if kind := lacking_runtime(error):
            session.device(kind)  # says what to do
        raise
    vm = tvm.runtime.vm.VirtualMachine(library, session.cpu)

    def call(name: str, *tensors: Any) -> Any:
        vm.set_input(name, *tensors)
        vm.invoke_stateful(name)
        return _outputs(vm.module, name)

    on_cpu = loaded_module(path, vm, session.cpu, call)
    kind = str(on_cpu.target.get("tvm", {}).get("kind", "llvm"))
    if kind == "llvm":
        return on_cpu
    device = session.device(kind)
    vm = tvm.runtime.vm.VirtualMachine(library, device)
    return dataclasses.replace(on_cpu, vm=vm, device=device)


def _outputs(module: Any, name: str, *place: int) -> Any:
    """What a stateful call returned: a tensor, or a tuple of such.

    TVM's own `get_outputs` leaves a reference cycle, which holds the device until Python looks for cycles.
    """
    count = int(module["get_output_arity"](name, *place))
    if count < 0:
        return module["get_output"](name, *place)
    return tuple(_outputs(module, name, *place, index) for index in range(count))


def load_for(path: Path, target: Target | None = None) -> LoadedModule:
    """Load a module where it can run: in this process, on its target's device, or in the emulator.

    Parameters
    ----------
    path
        The `.so`.
    target
        Where to; without it, AArch64 code runs in the emulator if this machine is of another family. What is
        started for it ends when the module is no longer used.

    Raises
    ------
    UserError
        If the file is no module of ofa-tvm, or there is no place where it can run; says what it is for.
    """
    path = path.resolve()
    if target is None and elf_arch(path) == "aarch64" != platform.machine():
        target = load_target(data_dir("targets") / f"{ALIASES['arm']}.yaml")
        if missing := missing_emulator(target):
            raise UserError(
                f"{path} is code for aarch64, but this machine is {platform.machine()} and cannot emulate it "
                f"({missing}; {target.run.install})"
            )
        # Nothing is known of the CPU that it was compiled for.
        target = dataclasses.replace(target, run=dataclasses.replace(target.run, emulator_cpu="max"))
    if target is None or target.run.where == "local":
        return load_module(path)
    fleet = Fleet(target, devices=1)
    try:
        session = open_session(fleet.place, limit_s=0)
        module = _load_sound(session, path)
    except BaseException:
        fleet.close()
        raise
    weakref.finalize(module, fleet.close)
    return module


def _load_sound(session: Session, path: Path) -> LoadedModule:
    """`load_remote`, for a file that may be damaged, which can take the device's session down."""
    try:
        return load_remote(session, path)
    except UserError:
        raise
    except Exception as error:  # tvm raises RPCError, RuntimeError and kinds of its own
        raise UserError(
            f"{path} cannot be loaded on device {session.address}: it is damaged, or no module of ofa-tvm; "
            "compile it again"
        ) from error


class _Wrong(Exception):
    """A module's output on the device is not what it should be."""


class _Subject:
    """One module of a request, loaded, checked and ready to be measured."""

    def __init__(self, session: Session, path: Path, seed: int) -> None:
        self.module = load_remote(session, path)
        arrays = self.module.random_inputs(seed)
        inputs = [self.module.tensor(array) for array in arrays]
        _check(self.module, arrays, output_arrays(self.module.main(*inputs)))
        self.module.vm.save_function("main", "ofa_tvm_timed", *inputs, include_return=False)
        self._inputs = inputs  # the saved function refers to them
        self._samples(1)  # the first run after loading takes memory

    def _samples(self, calls: int, repeat: int = 1) -> list[float]:
        evaluator = self.module.vm.module.time_evaluator(
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
    import onnxruntime

    session = onnxruntime.InferenceSession(str(reference), providers=["CPUExecutionProvider"])
    feeds = {item.name: array for item, array in zip(session.get_inputs(), arrays, strict=True)}
    for want, got in zip(session.run(None, feeds), outputs, strict=True):
        scale = max(float(np.abs(want).max()), 1e-12)
        worst = float(np.abs(want.astype(np.float64) - got).max()) / scale
        if not worst <= _TOLERANCE.get(str(module.target.get("dtype")), 1e-3):
            raise _Wrong(f"differs from ONNX Runtime by {worst:.1g} of its largest output")


def _serve(request: dict[str, Any], place: Place, threads: int, emulated: bool, link: Link) -> dict[str, Any]:
    problem = ""
    for _ in range(_TRIES):
        session = _connect(place, link)
        require_kind(session, emulated)
        address = session.address
        try:
            return _measure(request, session, threads, link)
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
            session.close()
        link.send(event="note", message=f"device {address}: {problem}; trying once more")
    raise UserError(f"{problem} (twice)")


def _connect(place: Place, link: Link) -> Session:
    deadline = time.monotonic() + WAIT_S
    while True:
        link.beat()
        try:
            return open_session(place, limit_s=_SESSION_LIMIT_S, wait_s=_PAUSE_S)
        except TrackerUnreachable:
            if time.monotonic() > deadline:
                raise
            time.sleep(1.0)


def _measure(request: dict[str, Any], session: Session, threads: int, link: Link) -> dict[str, Any]:
    session.set_threads(threads)
    subjects: list[_Subject] = []
    results: list[dict[str, Any]] = []
    for index, path in enumerate(request["paths"]):
        link.send(event="loading", index=index)
        subject = _Subject(session, Path(path), request["seed"])
        if session.emulated:
            count, agree = subject.instructions()
            results.append({"instructions": count, "noisy": not agree})
        else:
            subjects.append(subject)
    if subjects:
        link.send(event="timing")
        results = requested_timings(request, [subject.timer for subject in subjects], link.beat)
    return {"timings": results, "device": session.address}


def main() -> None:
    """Serve until standard input closes; arguments: the place of devices, the threads, the kind of device."""
    use_runtime_only()
    place, threads, emulated = Place.parse(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "emulated"
    answer_requests(lambda request, link: _serve(request, place, threads, emulated, link))


if __name__ == "__main__":
    main()
