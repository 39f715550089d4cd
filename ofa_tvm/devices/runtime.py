"""TVM's runtime for a processor family: what a compiled module needs on a bare device."""

from __future__ import annotations

import importlib.util
import platform
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from filelock import FileLock

from ofa_tvm.errors import UserError
from ofa_tvm.files import cache_dir, write_atomic
from ofa_tvm.progress import SILENT, Progress
from ofa_tvm.temporaries import scratch_folder

# Library -> the Python package whose wheel brings it, and that package's name on the index.
_HOMES = {
    "libtvm_runtime.so": ("tvm", "apache-tvm"),
    "libtvm_runtime_extra.so": ("tvm", "apache-tvm"),
    "libtvm_ffi.so": ("tvm_ffi", "apache-tvm-ffi"),
    "libtvm_runtime_cuda.so": ("tvm", "apache-tvm"),
}
_MANYLINUX = (28, 27, 24, 17)


def runtime_libraries(
    arch: str, kind: str = "llvm", *, rpc: bool = False, progress: Progress = SILENT
) -> list[Path]:
    """The runtime libraries of the installed TVM version, for this or another processor family.

    Those of another family are taken out of the wheels on the package index, once, and kept in the cache.

    Parameters
    ----------
    arch
        As `uname -m` says: "x86_64", "aarch64".
    kind
        TVM's kind of target; "cuda" adds that runtime.
    rpc
        With what an RPC server needs besides.

    Raises
    ------
    UserError
        If the kind has no runtime in TVM's packages, or a download fails.
    """
    names = ["libtvm_runtime.so", "libtvm_ffi.so"]
    if rpc:
        names.append("libtvm_runtime_extra.so")
    if kind == "cuda":
        names.append("libtvm_runtime_cuda.so")
    elif kind != "llvm":
        raise UserError(f"TVM's packages hold no {kind} runtime; copy the one that was built for the device")
    if arch == platform.machine():
        return [_installed(name) for name in names]
    versions = "-".join(version(wheel) for wheel in ("apache-tvm", "apache-tvm-ffi"))
    folder = cache_dir() / "runtime" / f"{arch}-{versions}"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):
        if not all((folder / name).is_file() for name in names):
            progress.say(f"downloading TVM's runtime for {arch} (95 MB, once)")
            _download(arch, list(_HOMES), folder)
    return [folder / name for name in names]


def _installed(name: str) -> Path:
    package, wheel = _HOMES[name]
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise UserError(f"the package {wheel} is not installed; install ofa-tvm again")
    return Path(spec.origin).parent / "lib" / name


def _download(arch: str, names: Sequence[str], destination: Path) -> None:
    wheels = {_HOMES[name][1] for name in names}
    with scratch_folder("wheels") as folder:
        command = [
            sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
            "--only-binary=:all:", *(f"--platform=manylinux_2_{minor}_{arch}" for minor in _MANYLINUX),
            "-d", folder, *(f"{wheel}=={version(wheel)}" for wheel in sorted(wheels)),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = (done.stderr.strip() or "no message").splitlines()[-1]
            raise UserError(f"TVM's runtime for {arch} cannot be downloaded: {reason}")
        for file in Path(folder).glob("*.whl"):
            with zipfile.ZipFile(file) as content:
                members = set(content.namelist())
                for name in names:
                    member = f"{_HOMES[name][0]}/lib/{name}"
                    if member in members:
                        write_atomic(destination / name, content.read(member))
    lacking = [name for name in names if not (destination / name).is_file()]
    if lacking:
        raise UserError(f"TVM's packages for {arch} lack {', '.join(lacking)}")
