"""Building what runs on devices: the RPC server for a processor family, and the emulator's counter."""

from __future__ import annotations

import hashlib
import importlib.util
import platform
import re
import shutil
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from filelock import FileLock

from ofa_tvm.devices.runtime import runtime_libraries
from ofa_tvm.errors import UserError
from ofa_tvm.files import cache_dir
from ofa_tvm.native import library as native_libraries
from ofa_tvm.process import installed_command
from ofa_tvm.progress import SILENT, Progress
from ofa_tvm.temporaries import scratch_folder

SERVER, COUNTER, LIBRARIES = "ofa-tvm-device", "counter.so", "lib"
REFUSED, START = "refused", "start.sh"
_SOURCES = Path(__file__).resolve().parents[1] / "native" / "device"
_CL_HEADERS = Path("/usr/include/CL")
_HOST_CXX = ("g++", "c++", "clang++", "zig c++")
_WHEELS = {"tvm": "apache-tvm", "tvm_ffi": "apache-tvm-ffi"}


def device_runtime(
    arch: str, cxx: Sequence[str] = (), *, kind: str = "llvm", progress: Progress = SILENT
) -> Path:
    """Folder with the RPC server and TVM's runtime for a processor family, made on first use and kept.

    Parameters
    ----------
    arch
        "aarch64" or "x86_64", as `uname -m` says.
    cxx
        Command of a C++ compiler for it; not needed for this machine's own family.
    kind
        "opencl" or "cuda": the device also runs what was compiled for its GPU.
    progress
        Told of a download.

    Raises
    ------
    UserError
        If a compiler is missing or fails, or the runtime cannot be downloaded.
    """
    native = arch == platform.machine()
    command = list(cxx) or (list(host_cxx()) if native else [])
    require_cxx(command, arch)
    gpu = "" if kind == "llvm" else f"-{kind}"
    folder = cache_dir() / "devices" / f"{arch}{gpu}-{_digest(command)}"
    with FileLock(_lock(folder)):
        if not (folder / SERVER).is_file():
            progress.say(f"building the device server for {arch} into {folder}")
            folder.parent.mkdir(parents=True, exist_ok=True)
            with scratch_folder("device", folder.parent) as name:
                stage = Path(name) / "stage"
                (stage / LIBRARIES).mkdir(parents=True)
                wheels_have = kind if kind != "opencl" else "llvm"
                for library in runtime_libraries(arch, wheels_have, rpc=True, progress=progress):
                    shutil.copy2(library, stage / LIBRARIES / library.name)
                _build_server(command, stage)
                if kind == "opencl":
                    _build_opencl(command, stage)
                shutil.rmtree(folder, ignore_errors=True)
                stage.rename(folder)
    return folder


def emulator_counter(emulator: str) -> Path:
    """The plugin that counts guest instructions, built for the version of an emulator.

    Raises
    ------
    UserError
        If the emulator does not run, or there is no C compiler for this machine.
    """
    done = run_compiler([emulator, "--version"], "the emulator does not run")
    match = re.search(r"version (\d+)", done)
    api = 1 if match is None or int(match[1]) < 9 else 2
    file = cache_dir() / "devices" / f"counter-{_digest([emulator, str(api)])}" / COUNTER
    with FileLock(_lock(file.parent)):
        if not file.is_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            compiler = host_cxx()
            language = ["-x", "c"] if "++" in compiler[-1] or "++" in compiler[0] else []
            new = file.with_suffix(".new")
            flags = ["-O2", "-shared", "-fPIC", f"-DQEMU_PLUGIN_API={api}"]
            run_compiler(
                [*compiler, *language, *flags, str(_SOURCES / "counter.c"), "-o", str(new)],
                "building the instruction counter failed",
            )
            new.rename(file)
    return file


def build_refused(cxx: Sequence[str], file: Path) -> None:
    """Build what runs a program on where a filter of system calls would end it (see its source).

    Raises
    ------
    UserError
        If the compiler fails.
    """
    flags = ["-x", "c", "-std=gnu11", "-O2", "-s", "-static", "-nostdlib", "-nostartfiles", "-ffreestanding"]
    flags += ["-fno-stack-protector", "-fno-asynchronous-unwind-tables"]
    run_compiler([*cxx, *flags, str(_SOURCES / "refused.c"), "-o", str(file)], f"building {file.name} failed")


def start_script() -> str:
    """The script of a self-contained folder, with names between @ signs to fill in."""
    return (_SOURCES / START).read_text()


def cxx_of(link: Sequence[str]) -> tuple[str, ...]:
    """The C++ compiler that comes with a linking compiler: g++ with gcc, `zig c++` with `zig cc`."""
    command = list(link)
    if "cc" in command:
        command[command.index("cc")] = "c++"
        return tuple(part.replace("-linux-gnu", "-linux-gnu.2.28") for part in command)
    program = re.sub(r"gcc$", "g++", re.sub(r"clang$", "clang++", command[0]))
    return (program, *command[1:])


def require_cxx(command: Sequence[str], arch: str) -> None:
    """Refuse a command of a C++ compiler that is not installed: where C is compiled, it may be missing.

    Raises
    ------
    UserError
        The sentence says what to install.
    """
    if not command:
        raise UserError(f"programs for {arch} need a C++ compiler for it")
    if shutil.which(command[0]) is None:
        name = Path(command[0]).name
        family = name.removesuffix("g++").rstrip("-")
        package = f"g++-{family}" if family != name and family else "g++"
        raise UserError(f"no C++ compiler: {name} is not installed; apt-get install {package}")


def host_cxx() -> tuple[str, ...]:
    """Command of this machine's own C++ compiler.

    Raises
    ------
    UserError
        If there is none.
    """
    if command := installed_command(_HOST_CXX):
        return command
    raise UserError("no C++ compiler for this machine; apt-get install g++ (or pip install ziglang)")


def package_folder(name: str) -> Path:
    """Where one of TVM's Python packages ("tvm", "tvm_ffi") lies, without importing it.

    Raises
    ------
    UserError
        If it is not installed.
    """
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise UserError(f"the package {_WHEELS[name]} is not installed; install ofa-tvm again")
    return Path(spec.origin).parent


def _digest(command: Sequence[str]) -> str:
    text = [*command, *(version(wheel) for wheel in _WHEELS.values())]
    folders = (_SOURCES, native_libraries.FOLDER / "opencl", native_libraries.FOLDER / "common")
    sources = b"".join(file.read_bytes() for folder in folders for file in sorted(folder.glob("*.*")))
    return hashlib.sha256("\n".join(text).encode() + sources).hexdigest()[:16]


def _lock(folder: Path) -> Path:
    folder.parent.mkdir(parents=True, exist_ok=True)
    return folder.with_name(folder.name + ".lock")


def _build_server(cxx: Sequence[str], folder: Path) -> None:
    includes = [f"-isystem{package_folder(name) / 'include'}" for name in _WHEELS]
    # Exceptions cross from TVM's libraries, so their own C++ library is shared with them.
    libraries = ["-ltvm_runtime_extra", "-ltvm_runtime", "-ltvm_ffi"]
    link = [f"-L{folder / LIBRARIES}", "-Wl,--no-as-needed", *libraries, f"-Wl,-rpath,$ORIGIN/{LIBRARIES}"]
    files = [str(_SOURCES / "server.cc"), "-o", str(folder / SERVER)]
    run_compiler(
        [*cxx, "-std=c++17", "-O2", "-s", *includes, *files, *link], "building the device server failed"
    )


def _build_opencl(cxx: Sequence[str], folder: Path) -> None:
    library = native_libraries.LIBRARIES["opencl"]
    if not _CL_HEADERS.is_dir():
        raise UserError(f"there are no OpenCL headers; {library.needs}")
    with scratch_folder("headers") as name:
        # Alone: this machine's other headers are not the device's.
        (Path(name) / "CL").symlink_to(_CL_HEADERS)
        includes = [
            f"-isystem{path}" for path in (name, *(package_folder(wheel) / "include" for wheel in _WHEELS))
        ]
        sources = [str(native_libraries.FOLDER / source) for source in library.sources]
        # The loader is the device's own: the server looks for it there.
        link = ["-o", str(folder / LIBRARIES / library.file), f"-L{folder / LIBRARIES}"]
        flags = ["-std=c++17", "-O2", "-fPIC", "-shared", "-fvisibility=hidden"]
        libraries = ["-ltvm_runtime", "-ltvm_ffi"]
        run_compiler(
            [*cxx, *flags, *includes, *sources, *link, *libraries], "building the OpenCL runtime failed"
        )


def run_compiler(command: Sequence[str], problem: str) -> str:
    """Run a command and return what it prints.

    Raises
    ------
    UserError
        If it fails: `problem` and the last line that it wrote.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise UserError(f"{problem}: {error}") from error
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()
        raise UserError(f"{problem}: {lines[-1]}")
    return done.stdout
