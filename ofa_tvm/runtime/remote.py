"""Loading a compiled module where it can run: here, on a device over RPC, or in the emulator."""

from __future__ import annotations

import dataclasses
import platform
import weakref
from functools import partial
from pathlib import Path
from typing import Any

from ofa_tvm.devices import Fleet
from ofa_tvm.devices.session import Session, open_session
from ofa_tvm.errors import UserError
from ofa_tvm.files import data_dir
from ofa_tvm.runtime.elf import elf_arch, require_whole
from ofa_tvm.runtime.module import (
    LoadedModule,
    VirtualMachine,
    kind_of,
    lacking_runtime,
    load_module,
    read_metadata,
    specs,
)
from ofa_tvm.targets import Target, load_target
from ofa_tvm.targets.load import ALIASES
from ofa_tvm.targets.readiness import missing_emulator


def load_remote(session: Session, path: Path) -> LoadedModule:
    """Load a module on a session's device; it is called like one of this process.

    Raises
    ------
    UserError
        If it is damaged, code for another processor, or not made by ofa-tvm.
    """
    arch = elf_arch(path)
    require_whole(path)
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

    metadata = read_metadata(lambda: call("metadata"), path)
    device = session.device(kind_of(metadata.get("target", {})))
    if device is not session.cpu:
        vm = tvm.runtime.vm.VirtualMachine(library, device)
    return LoadedModule(
        path=path,
        inputs=specs(metadata, "inputs", path),
        outputs=specs(metadata, "outputs", path),
        metadata=metadata,
        vm=VirtualMachine(vm, partial(call, "main")),
        another_vm=None,
        device=device,
        remote=True,
    )


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
        session.set_threads(module.threads)
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
