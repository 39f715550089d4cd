"""What this machine can do for a target: generate code, link it, run it."""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ofa_tvm.errors import UserError
from ofa_tvm.files import cache_dir
from ofa_tvm.targets.cuda_toolkit import find_nvcc, find_nvrtc, install_hint
from ofa_tvm.targets.machine import Machine
from ofa_tvm.targets.target import Target

EMULATOR_ROOT = Path("/usr/aarch64-linux-gnu")  # AArch64 system libraries, by Debian's cross packages
EMULATOR_LOADER = "lib/ld-linux-aarch64.so.1"
EMULATOR_FOLDER = Path("devices/packages")  # in the cache: the same packages, unpacked without root


@dataclass(frozen=True)
class Check:
    """One thing that a target needs: is it there, what was found or is missing, how to get it."""

    ok: bool
    found: str
    install: str = ""


@dataclass(frozen=True)
class Readiness:
    """What `doctor` says of one target.

    Attributes
    ----------
    target
        The target.
    compiler, linker, device
        What it needs here.
    dtypes
        The number formats that it has (`Target.dtypes`); none if nothing compiles for it.
    """

    target: Target
    compiler: Check
    linker: Check
    device: Check
    dtypes: Mapping[str, str]

    @property
    def checks(self) -> tuple[tuple[str, Check], ...]:
        """The three checks by name, in the order in which a module comes to life."""
        return (("compiler", self.compiler), ("linker", self.linker), ("device", self.device))

    @property
    def ready(self) -> bool:
        """Whether the whole path works here."""
        return all(check.ok for _, check in self.checks)


def examine(target: Target, machine: Machine) -> Readiness:
    """Look for what `target` needs on `machine`, which is this one. Imports tvm with its compiler."""
    compiler = _compiler(target)
    dtypes = target.dtypes if compiler.ok else {}
    return Readiness(target, compiler, _linker(target), device_for(target, machine), dtypes)


def device_for(target: Target, machine: Machine) -> Check:
    """Whether `machine`, which is this one, has or reaches the device of a target; without importing tvm."""
    device: Callable[[Target, Machine], Check] = {
        "x86": _x86_device,
        "arm": _arm_device,
        "cuda": _cuda_device,
        "opencl": _opencl_device,
    }[target.kind]
    return device(target, machine)


def _compiler(target: Target) -> Check:
    try:
        made = target.tvm_target()
    except (ImportError, OSError, RuntimeError) as error:
        return Check(False, f"tvm does not import: {error}", "install ofa-tvm again")
    except UserError as error:
        return Check(False, str(error))
    if target.kind == "cuda":
        arch = str(made.attrs["arch"])
        if find_nvrtc(arch):
            return Check(True, "NVRTC")
        return Check(True, "nvcc") if find_nvcc() else Check(False, "no NVRTC, no nvcc", install_hint(arch))
    if target.kind == "opencl":
        return Check(True, "TVM's OpenCL source")
    return Check(True, f"LLVM, {made.attrs.get('mcpu', 'generic')}")


def _linker(target: Target) -> Check:
    try:
        return Check(True, " ".join([Path(target.link.find()[0]).name, *target.link.find()[1:]]))
    except UserError:
        return Check(False, f"no {target.link.compilers[0]}", target.link.install)


def _x86_device(target: Target, machine: Machine) -> Check:
    if reason := target.runs_on(machine):
        return Check(False, reason, f"compile here, run on a machine that has {target.name}")
    return Check(True, f"this machine, {target.threads} thread" + ("s" if target.threads > 1 else ""))


def _arm_device(target: Target, machine: Machine) -> Check:
    if target.run.where == "local":
        reason = target.runs_on(machine)
        return Check(not reason, reason or f"this machine, {target.threads} thread(s)")
    if target.run.where == "rpc":
        return _tracker(target)
    if missing := missing_emulator(target):
        return Check(False, missing, target.run.install)
    return Check(True, f"emulated by {target.run.emulator} as {target.run.emulator_cpu}: counts instructions")


def _tracker(target: Target) -> Check:
    host, _, port = target.run.tracker.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=2.0).close()
    except OSError as error:
        install = "; ".join(filter(None, ["start it: ofa-tvm device tracker", target.run.install]))
        return Check(False, f"no tracker at {target.run.tracker} ({error.strerror or error})", install)
    return Check(True, f"tracker at {target.run.tracker}, key {target.run.key} (ofa-tvm device list)")


def missing_emulator(target: Target) -> str:
    """What keeps this machine from emulating a target's device, "" if nothing does."""
    unpacked = cache_dir() / EMULATOR_FOLDER / "usr"
    if not shutil.which(target.run.emulator) and not (unpacked / "bin" / target.run.emulator).is_file():
        return f"no {target.run.emulator}"
    if not any((root / EMULATOR_LOADER).exists() for root in (EMULATOR_ROOT, unpacked / EMULATOR_ROOT.name)):
        return "no AArch64 system libraries"
    return ""


def _cuda_device(target: Target, machine: Machine) -> Check:
    if target.run.where == "rpc":
        return _tracker(target)
    if not _library("libcuda.so.1"):
        return Check(False, "no NVIDIA driver (libcuda.so.1)", target.run.install)
    if not list(Path("/dev").glob("nvidia[0-9]*")):
        return Check(False, "a driver library, but no GPU (/dev/nvidia0)", "run where the GPU is")
    return Check(True, "an NVIDIA GPU")


def _opencl_device(target: Target, machine: Machine) -> Check:
    if target.run.where == "rpc":
        return _tracker(target)
    if not _library("libOpenCL.so.1"):
        return Check(False, "no OpenCL loader (libOpenCL.so.1)", target.run.install)
    vendors = Path(os.environ.get("OCL_ICD_VENDORS", "/etc/OpenCL/vendors"))
    drivers = sorted(path.stem for path in vendors.glob("*.icd")) if vendors.is_dir() else []
    if not drivers:
        return Check(False, f"no OpenCL driver in {vendors}", target.run.install)
    if not Path("/usr/include/CL/cl.h").is_file():
        return Check(False, f"{', '.join(drivers)}, but no OpenCL headers", "apt-get install opencl-headers")
    return Check(True, ", ".join(drivers))


def _library(name: str) -> bool:
    """Whether a shared library can be loaded."""
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True
