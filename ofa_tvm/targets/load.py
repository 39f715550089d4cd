"""Finding, reading and checking descriptors."""

from __future__ import annotations

import dataclasses
import difflib
import os
import platform
import warnings
from pathlib import Path

from ofa_tvm.errors import UsageError, UserError, shown
from ofa_tvm.files import data_dir
from ofa_tvm.targets.kinds import KINDS
from ofa_tvm.targets.machine import X86_LEVELS, Machine, detect_machine, needed_flags
from ofa_tvm.targets.schema import DESCRIPTOR_SCHEMA, DEVICE_SCHEMA
from ofa_tvm.targets.target import Hardware, Link, Target
from ofa_tvm.yamlfile import read_yaml

PROBED = "x86"  # the one name that has no file: it is this machine
TRACKER = "OFA_TVM_TRACKER"  # host:port; the targets of boards that ship run on its devices then
# Of each level the first CPU that has it; Ice Lake also has VBMI, which looks up bytes.
_WITH_VNNI = {"x86-64-v4": ("icelake-server", "cascadelake"), "x86-64-v3": ("alderlake",)}
ALIASES = {"arm": "cortex-a72", "cuda": "cuda-sm90"}  # the short names stand for the device that most have


def target_names() -> list[str]:
    """Names of the targets that ship, the probed `x86` first."""
    return [PROBED, *sorted(path.stem for path in data_dir("targets").glob("*.yaml"))]


def list_targets() -> list[Target]:
    """Every target that ships, in the order of `target_names`; `x86` only where this machine is one."""
    names = target_names() if detect_machine().arch == "x86_64" else target_names()[1:]
    return [get_target(name) for name in names]


class StandsFor(UserWarning):
    """A device was named, and the target of its core is taken."""


def device_targets() -> dict[str, str]:
    """Names of the devices that may be given in place of a target, and the targets of their cores."""
    files = sorted((data_dir("targets") / "devices").glob("*.yaml"))
    contents = {path.stem: read_yaml(path, DEVICE_SCHEMA) for path in files}
    return {name: content["target"] for name, content in contents.items() if "target" in content}


def get_target(name_or_path: str | os.PathLike[str]) -> Target:
    """Load a target by its shipped name, by that of a device with its core, or from a descriptor file.

    A device's name brings the warning `StandsFor`, and its hardware in place of the target's.

    Raises
    ------
    UsageError
        If there is no such name; the sentence lists those that are near it.
    UserError
        If the file is missing, not YAML, or not a descriptor.
    """
    text = os.fspath(name_or_path)
    text = ALIASES.get(text, text)
    if text == PROBED:
        return probe_x86(detect_machine())
    if os.sep in text or text.endswith((".yaml", ".yml")):
        return load_target(text)
    if text not in target_names():
        return _of_device(text)
    target = load_target(data_dir("targets") / f"{text}.yaml")
    if target.run.where != "local" and (tracker := os.environ.get(TRACKER)):
        return target.on_tracker(tracker, target.run.key or target.name)
    return target


def _of_device(name: str) -> Target:
    """The target of a device's core, with the device's hardware."""
    file = data_dir("targets") / "devices" / f"{name}.yaml"
    if file not in file.parent.glob("*.yaml"):
        raise UsageError(_unknown(name))
    device = read_yaml(file, DEVICE_SCHEMA)
    if "target" not in device:
        raise UsageError(
            f"{name} ({device['summary']}) is a device that latencies are known of, but no target that ships "
            "is for its cores; write one (see targets/README.md) and give the file's path"
        )
    target = get_target(device["target"])
    warnings.warn(
        f"{name} ({device['summary']}) is a device; its target is {target.name}", StandsFor, stacklevel=3
    )
    hardware = Hardware(**device["hardware"])
    if hardware.device == target.hardware.device:
        known = {field.name: getattr(hardware, field.name) for field in dataclasses.fields(hardware)}
        given = {key: value for key, value in known.items() if value is not None}
        hardware = dataclasses.replace(target.hardware, **given)
    run = dataclasses.replace(target.run, cpus=device.get("cpus", target.run.cpus))
    return dataclasses.replace(target, hardware=hardware, run=run)


def _unknown(name: str) -> str:
    """That there is no such target, and which names are near."""
    names = target_names()
    every = [*names, *ALIASES, *device_targets()]
    text = name[:100].lower()
    near = [one for one in every if text in one] if len(text) > 1 else []
    near += difflib.get_close_matches(text, every, n=5)
    hint = (
        f"near are {', '.join(dict.fromkeys(near[:8]))} (`ofa-tvm targets list` has all)"
        if near
        else f"known are {', '.join(names)}"
    )
    return f"unknown target {shown(name)}; {hint}, or give a descriptor file's path"


def probe_x86(machine: Machine) -> Target:
    """Target of an x86 machine: its CPU by LLVM's name, else one that it includes, else its level.

    Raises
    ------
    UserError
        If the machine is not an x86-64.
    """
    if machine.arch != "x86_64":
        raise UserError(f"target x86 is an x86-64 machine, but this is {machine.arch}; name another target")
    mcpu = machine.cpu or _with_vnni(machine) or machine.level
    needed = {"x86-64-v4": ("avx512f", "avx512vl"), "x86-64-v3": ("avx2", "fma")}.get(machine.level, ())
    return Target(
        name=PROBED,
        kind="x86",
        summary=f"this machine: {machine.model or 'x86-64'}, {machine.cores} cores, compiled for {mcpu}",
        tvm={"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": mcpu},
        link=Link(("g++", "c++", "clang++", "gcc", "zig cc"), "apt-get install g++ (or pip install ziglang)"),
        features=needed,
        compatible=_logs_for(machine),
        hardware=_hardware(machine),
        probed=True,
    )


def _logs_for(machine: Machine) -> tuple[str, ...]:
    """Targets whose logs serve an x86 machine, most specific first."""
    own = (machine.cpu,) if machine.cpu else ()
    known = machine.cpu if machine.cpu in target_names() else _with_vnni(machine)
    if known:
        below = (known, *load_target(data_dir("targets") / f"{known}.yaml").compatible)
        return tuple(dict.fromkeys((*own, *below)))
    levels = list(X86_LEVELS)
    return (*own, *(levels[levels.index(machine.level) :] if machine.level in levels else ()))


def _with_vnni(machine: Machine) -> str:
    """The CPU with VNNI of which an x86 machine has everything, though it may be another; "" without."""
    cpus = _WITH_VNNI.get(machine.level, ())
    return next((cpu for cpu in cpus if needed_flags(cpu) <= machine.flags), "")


def probe_arm(machine: Machine) -> Target:
    """Target of an AArch64 machine, its core by LLVM's name.

    Raises
    ------
    UserError
        If it is no AArch64 machine, or its core is not known.
    """
    if machine.arch != "aarch64":
        raise UserError(f"the device is {machine.arch}, not aarch64")
    if not machine.cpu:
        raise UserError(
            "the device's core is not one that ofa-tvm knows (see CPU part in its /proc/cpuinfo); copy "
            "targets/cortex-a72.yaml and set mcpu to LLVM's name of it"
        )
    linkers = ("g++", "c++", "gcc") if platform.machine() == "aarch64" else ()
    return Target(
        name=machine.cpu,
        kind="arm",
        summary=f"{machine.model or 'AArch64'}, {machine.cores} cores, compiled for {machine.cpu}",
        tvm={"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": machine.cpu} | _without(machine),
        link=Link(
            (*linkers, "aarch64-linux-gnu-g++", "aarch64-linux-gnu-gcc", "zig cc -target aarch64-linux-gnu"),
            "apt-get install g++-aarch64-linux-gnu (or pip install ziglang)",
        ),
        features=tuple(name for name in ("neon", "fullfp16", "dotprod") if machine.has(name)),
        compatible=(machine.cpu,),
        hardware=_hardware(machine),
    )


def _without(machine: Machine) -> dict[str, list[str]]:
    """What LLVM takes for granted of a core whose early revisions lack it."""
    lacks_dotprod = machine.cpu in ("cortex-a55", "cortex-a75") and not machine.has("dotprod")
    return {"mattr": ["-dotprod"]} if lacks_dotprod else {}


def _hardware(machine: Machine) -> Hardware:
    known = {
        "device": machine.model,
        "cores": machine.cores,
        "clock_ghz": machine.clock_ghz,
        "simd_bits": machine.simd_bits,
        "fma_units": machine.fma_units,
        "l1d_kib": machine.l1d_kib,
        "l2_kib": machine.l2_kib,
        "l3_kib": machine.l3_kib,
        "ram_gib": machine.ram_gib,
        "peak_gflops": round(machine.peak_gflops, 1),
    }
    return Hardware(**{key: value for key, value in known.items() if value})  # type: ignore[arg-type]


def load_target(path: str | os.PathLike[str]) -> Target:
    """Read and check one descriptor file.

    Raises
    ------
    UserError
        If the file is missing, not YAML (with line and column), or breaks the schema (with line, key and what
        is allowed there).
    """
    file = Path(path)
    if not file.is_file():
        raise UserError(f"no target descriptor {file}; `ofa-tvm targets list` shows those that ship")
    content = read_yaml(file, DESCRIPTOR_SCHEMA)
    target = Target.from_json({**content, "source": str(file)})
    _check_consistency(target, file)
    return target


def _check_consistency(target: Target, file: Path) -> None:
    backend = KINDS[target.kind].backend
    if target.tvm["kind"] != backend:
        raise UserError(f"{file}: kind {target.kind} needs tvm.kind {backend}, not {target.tvm['kind']}")
    if target.run.where == "emulator" and target.unit == "ms":
        raise UserError(
            f"{file}: measure.unit: an emulated device costs instructions, not milliseconds; write Minstr"
        )
