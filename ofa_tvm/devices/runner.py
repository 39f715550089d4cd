"""The program that classifies pictures on a bare device, built for a processor family."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path

from filelock import FileLock

from ofa_tvm.devices.native import host_cxx, package_folder, require_cxx, run_compiler
from ofa_tvm.files import cache_dir
from ofa_tvm.native.library import FOLDER
from ofa_tvm.progress import SILENT, Progress
from ofa_tvm.temporaries import scratch_folder

PROGRAM, SCRIPT = "classify", "run.sh"
_SOURCES = FOLDER / "runner"
# Contracted, products and sums are rounded otherwise than Python rounds them.
_FLAGS = ("-std=c++17", "-O2", "-s", "-ffp-contract=off")


def runner_program(
    arch: str, cxx: Sequence[str], libraries: Sequence[Path], *, progress: Progress = SILENT
) -> Path:
    """The program for a processor family, built on first use and kept; it finds libraries beside itself.

    Parameters
    ----------
    arch
        As `uname -m` says.
    cxx
        Command of a C++ compiler for it; not needed for this machine's own family.
    libraries
        Files of TVM's runtime for it, to link with.
    progress
        Told of the build.

    Raises
    ------
    UserError
        If a compiler is missing or fails.
    """
    command = list(cxx) or (list(host_cxx()) if arch == platform.machine() else [])
    require_cxx(command, arch)
    folder = cache_dir() / "devices" / f"runner-{arch}-{_digest(command, libraries)}"
    program = folder / PROGRAM
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):
        if not program.is_file():
            progress.say(f"building the program that classifies pictures on {arch}")
            with scratch_folder("runner", folder) as name:
                new = Path(name) / PROGRAM
                run_compiler(
                    [*command, *_FLAGS, f"-isystem{package_folder('tvm_ffi') / 'include'}"]
                    + [str(file) for file in sorted(_SOURCES.glob("*.cc"))]
                    + ["-o", str(new), "-Wl,--no-as-needed", *map(str, libraries), "-Wl,-rpath,$ORIGIN"],
                    f"building {PROGRAM} for {arch} failed",
                )
                new.rename(program)
    return program


def run_script(values: dict[str, str]) -> str:
    """The script that starts the program, with the names between @ signs filled in."""
    text = (_SOURCES / SCRIPT).read_text()
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return text


def sized(folder: Path, files: Iterable[Path]) -> str:
    """Files as the scripts of folders look for them when something is wrong: `name:bytes` of each."""
    return " ".join(f"{file.relative_to(folder).as_posix()}:{file.stat().st_size}" for file in files)


def _digest(command: Sequence[str], libraries: Sequence[Path]) -> str:
    files = [*_SOURCES.glob("*.*"), *(FOLDER / "third_party").glob("*.h"), *(FOLDER / "device").glob("*.h")]
    content = b"".join(file.read_bytes() for file in sorted(files))
    text = "\n".join([*command, *_FLAGS, *(f"{file.name} {file.stat().st_size}" for file in libraries)])
    return hashlib.sha256(text.encode() + content).hexdigest()[:16]
