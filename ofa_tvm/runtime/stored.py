"""What a compiled module says of itself, read from its file: none of its code runs, TVM is not loaded."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ofa_tvm.errors import UsageError, UserError
from ofa_tvm.files import data_dir
from ofa_tvm.jsonfile import parse_json
from ofa_tvm.runtime.elf import elf_arch, require_whole
from ofa_tvm.runtime.module import checked_metadata, kind_of, require_cpu
from ofa_tvm.targets import Target, get_target, load_target
from ofa_tvm.targets.load import ALIASES
from ofa_tvm.targets.machine import Machine
from ofa_tvm.targets.readiness import device_for, missing_emulator

# TVM keeps the bytes of a constant as they are, behind their number; keys are sorted.
_START = b'{"format": '
_LENGTH_BYTES = 8
_MOST_BYTES = 1 << 24


def stored_metadata(file: Path) -> dict[str, Any]:
    """What `LoadedModule.metadata` is once the module is loaded, whatever processor its code is for.

    Raises
    ------
    UserError
        If the file is missing, damaged, or no module of this version of ofa-tvm.
    """
    elf_arch(file)
    require_whole(file)
    content = file.read_bytes()
    start = content.find(_START)
    while start >= 0:
        length = int.from_bytes(content[max(0, start - _LENGTH_BYTES) : start], "little")
        try:
            found = parse_json(content[start : start + length]) if length < _MOST_BYTES else None
        except ValueError:
            found = None
        if isinstance(found, dict) and "target" in found:
            return checked_metadata(found, file)
        start = content.find(_START, start + 1)
    raise UserError(f"{file} carries no metadata: it is not a module that this ofa-tvm compiled")


def own_target(name: str, kind: str, threads: int) -> Target:
    """The target that a module states, with its threads; one of a descriptor file elsewhere is its kind's."""
    try:
        target = get_target(name)
    except UsageError:
        target = get_target(kind)
    return target.with_threads(threads)


def target_of(file: Path) -> Target:
    """The target that a module was compiled for, with as many threads.

    Raises
    ------
    UserError
        As `stored_metadata`.
    """
    stated = stored_metadata(file)["target"]
    return own_target(str(stated.get("name")), str(stated.get("kind")), int(stated.get("threads", 1)))


def hindrance(file: Path, target: Mapping[str, Any], machine: Machine) -> str:
    """Why a module cannot run on this machine, "" if nothing speaks against it; the emulator counts as well.

    Parameters
    ----------
    file
        The `.so`.
    target
        What it says of its target.
    machine
        This one.

    Raises
    ------
    UserError
        If the file is no module.
    """
    arch, kind = elf_arch(file), kind_of(target)
    if arch == "aarch64" != platform.machine() and kind == "llvm":
        emulated = load_target(data_dir("targets") / f"{ALIASES['arm']}.yaml")
        missing = missing_emulator(emulated)
        return f"it is code for {arch}, which cannot be emulated here ({missing})" if missing else ""
    if arch != platform.machine():
        return f"it is code for {arch}, and this machine is {platform.machine()}"
    try:
        require_cpu(target, machine, file)
    except UserError as error:
        return str(error).removeprefix(f"{file} ")
    if kind in ("cuda", "opencl"):
        check = device_for(get_target(kind), machine)
        return "" if check.ok else f"it needs a device for {kind}: {check.found}"
    return ""
