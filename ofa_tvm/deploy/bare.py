"""What an artefact brings along to run where there is nothing: no Python, no TVM, perhaps no glibc."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path

from ofa_tvm.devices.closure import needed_libraries
from ofa_tvm.devices.features import used_features
from ofa_tvm.devices.native import REFUSED, build_refused, cxx_of
from ofa_tvm.devices.runner import PROGRAM, SCRIPT, run_script, runner_program, sized
from ofa_tvm.devices.runtime import runtime_libraries
from ofa_tvm.errors import UserError
from ofa_tvm.files import cache_dir, write_atomic
from ofa_tvm.progress import SILENT, Progress
from ofa_tvm.targets import Target

RUNTIME = "runtime"  # folder of the libraries and of the program
# Where another C library is usual (Android's, musl) or an old one (boards): these folders bring their own.
_SELF_CONTAINED = ("aarch64",)


@dataclass(frozen=True)
class BareRuntime:
    """Files for a bare device.

    Attributes
    ----------
    arch
        Its processor family.
    libraries, program
        TVM's, and what classifies pictures with them (None for GPUs, whose modules it cannot call).
    system
        glibc, its loader first; empty where the device is to have them.
    cpus
        The cores that the program keeps to unless told otherwise: those that the module was measured on.
    refused
        What runs the program where a filter of system calls would end it.
    """

    arch: str
    libraries: tuple[Path, ...]
    program: Path | None = None
    system: tuple[Path, ...] = ()
    refused: Path | None = None
    cpus: str = "big"

    def write(self, folder: Path, module: str) -> None:
        """Write the files into an artefact's folder, whose module has a name."""
        runtime = folder / RUNTIME
        for file in (*self.libraries, *self.system):
            write_atomic(runtime / file.name, file.read_bytes())
        if self.program is None:
            return
        loader = self.system[0].name if self.system else "none"
        values = {
            "LOADER": loader,
            "PROGRAM": PROGRAM,
            "REFUSED": REFUSED,
            "MODULE": module,
            "NEEDS": " ".join(sorted(used_features(folder / module))),
            "CPUS": self.cpus,
            "ARCH": self.arch,
        }
        write_atomic(runtime / PROGRAM, self.program.read_bytes())
        if self.refused is not None:
            write_atomic(runtime / REFUSED, self.refused.read_bytes())
        values["FILES"] = sized(folder, [folder / module, *sorted(runtime.iterdir())])
        write_atomic(folder / SCRIPT, run_script(values))
        for file in (runtime / PROGRAM, runtime / REFUSED, runtime / loader, folder / SCRIPT):
            if file.is_file():
                file.chmod(0o755)


def bare_runtime(target: Target, *, progress: Progress = SILENT) -> BareRuntime:
    """Build and download what a target's modules need on a bare device: once, then it is kept.

    Parameters
    ----------
    target
        What they are compiled for, and how its programs are linked.
    progress
        Told of what is built and downloaded, and of what the folder will lack.

    Raises
    ------
    UserError
        If the kind has no runtime in TVM's packages, or something cannot be built or downloaded.
    """
    settings = target.host or target.tvm
    arch = str(settings.get("mtriple", platform.machine())).partition("-")[0]
    kind = str(target.tvm.get("kind", "llvm"))
    libraries = tuple(runtime_libraries(arch, kind, progress=progress))
    if kind != "llvm":
        return BareRuntime(arch, libraries)
    cxx, cpus = cxx_of(target.link.find()), target.run.cpus or "big"
    program = runner_program(arch, cxx, libraries, progress=progress)
    if arch not in _SELF_CONTAINED:
        return BareRuntime(arch, libraries, program, cpus=cpus)
    try:
        system = tuple(needed_libraries(arch, cxx, [program, *libraries]))
    except UserError as error:
        progress.say(f"the artefact will need glibc and libstdc++ on the device: {error}")
        return BareRuntime(arch, libraries, program, cpus=cpus)
    refused = cache_dir() / "devices" / f"{REFUSED}-{arch}"
    if not refused.is_file():
        build_refused(cxx, refused)
    return BareRuntime(arch, libraries, program, system, refused, cpus)
