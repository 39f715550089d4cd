"""Building the C++ libraries on first use, and loading them into a process that has their runtime loaded."""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from ofa_tvm.errors import UserError
from ofa_tvm.files import cache_dir, replacing
from ofa_tvm.process import installed_command

_COMPILERS = ("g++", "c++", "clang++")
_ANY_COMPILER = (*_COMPILERS, "zig c++")  # zig has a C++ library of its own, which TVM's cannot do with
FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class _Library:
    """One library: its sources, what it links to, and what to install for its headers."""

    file: str
    sources: tuple[str, ...]
    links: tuple[str, ...] = ()
    needs: str = "apt-get install g++"
    flags: tuple[str, ...] = ("-O2",)
    tvm: bool = True


LIBRARIES = {
    # The name is the one that tvm/backend/opencl looks for.
    "opencl": _Library(
        "libtvm_runtime_opencl.so",
        ("opencl/device.cc", "opencl/module.cc"),
        ("-l:libOpenCL.so.1",),
        "apt-get install g++ ocl-icd-libopencl1 opencl-headers",
    ),
    "cuda-code": _Library("libofa_tvm_cuda_code.so", ("cuda/cuda_code.cc",)),
    "depthwise": _Library(
        "libofa_tvm_depthwise.so",
        ("training/weight_gradient.cc",),
        needs="apt-get install g++ (or pip install ziglang)",
        flags=("-O3",),
        tvm=False,
    ),
}


def build_library(name: str, *, flags: Sequence[str] = (), rebuild: bool = False) -> Path:
    """Path of a library, compiled now unless the cache has it.

    The cache is keyed by the sources, the flags and, where it is linked, TVM's version, so that nothing stale
    is ever loaded.

    Parameters
    ----------
    name
        "opencl", "cuda-code" or "depthwise".
    flags
        More flags for the compiler, such as those of a sanitizer or of the processor.
    rebuild
        Compile although the cache has it.

    Raises
    ------
    UserError
        If there is no C++ compiler, or it fails; the sentence says what to install.
    """
    library = LIBRARIES[name]
    packages = [_package_folder("tvm"), _package_folder("tvm_ffi")] if library.tvm else []
    path = cache_dir() / "native" / _digest(library, flags) / library.file
    if path.is_file() and not rebuild:
        return path
    compiler = installed_command(_COMPILERS if library.tvm else _ANY_COMPILER)
    if compiler is None:
        raise UserError(f"building {library.file} needs a C++ compiler; {library.needs}")
    with replacing(path) as temporary:
        command = [
            *compiler,
            *("-std=c++17", "-fPIC", "-shared", "-fvisibility=hidden"),
            *library.flags,
            *flags,
            *(part for folder in packages for part in ("-isystem", str(folder / "include"))),
            *(str(FOLDER / source) for source in library.sources),
            *("-o", str(temporary)),
            *(f"-L{folder / 'lib'}" for folder in packages),
            *(("-ltvm_runtime", "-ltvm_ffi") if library.tvm else ()),
            *library.links,
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["no message"]
            reason = next((line for line in lines if "error" in line or "cannot find" in line), lines[-1])
            raise UserError(
                f"building {library.file} with {' '.join(compiler)} failed: {reason}; {library.needs}"
            )
    return path


def load_library(name: str, *, flags: Sequence[str] = ()) -> ctypes.CDLL:
    """Build a library if need be and load it; what it calls must be loaded (`import tvm`, or torch).

    Raises
    ------
    UserError
        If it cannot be built, or one of its own libraries is missing.
    """
    path = build_library(name, flags=flags)
    try:
        return ctypes.CDLL(os.fspath(path))
    except OSError as error:
        raise UserError(f"{path.name} cannot be loaded: {error}; {LIBRARIES[name].needs}") from error


def _package_folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"the Python package {package} is not installed; install ofa-tvm again")
    return Path(spec.submodule_search_locations[0])


def _digest(library: _Library, flags: Sequence[str]) -> str:
    versions = [version("apache-tvm"), version("apache-tvm-ffi")] if library.tvm else []
    texts = [*versions, *library.flags, *flags, *library.links]
    headers = sorted(path for path in FOLDER.rglob("*.h"))
    for path in [*headers, *(FOLDER / source for source in library.sources)]:
        texts.append(path.read_text())
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]
