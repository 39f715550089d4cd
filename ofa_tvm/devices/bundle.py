"""The folder that makes a board a device: the RPC server and TVM's runtime, a few megabytes to copy."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from ofa_tvm.devices.native import LIBRARIES, SERVER, device_runtime
from ofa_tvm.errors import UsageError
from ofa_tvm.files import write_atomic
from ofa_tvm.progress import SILENT, Progress

_README = """\
This folder makes a {arch} Linux board a device of ofa-tvm. Copy it there and run

  ./{server} --host 0.0.0.0 --tracker HOST:PORT --key {key}

with the address of your `ofa-tvm device tracker`. It needs glibc and libstdc++, which every Linux
distribution for boards has{gpu}, and nothing else.

TVM's RPC runs whatever it is sent. Only a network that you trust may reach the board's port; without --host
the server listens on the loopback address alone.
"""
_GPU = {
    "opencl": ", the GPU vendor's OpenCL driver (libOpenCL.so.1 or libOpenCL.so)",
    "cuda": ", CUDA 13 with its driver",
}


def write_bundle(
    folder: Path, arch: str, cxx: Sequence[str], key: str, *, kind: str = "llvm", progress: Progress = SILENT
) -> int:
    """Write the folder for boards of a processor family, and a kind of GPU; returns its size in bytes.

    Raises
    ------
    UsageError
        If something else is in the way.
    UserError
        If the server cannot be built or the runtime not be downloaded.
    """
    if folder.exists() and not (folder / SERVER).is_file():
        raise UsageError(f"{folder} is there already and no bundle; name another folder with -o")
    runtime = device_runtime(arch, cxx, kind=kind, progress=progress)
    (folder / LIBRARIES).mkdir(parents=True, exist_ok=True)
    for file in [SERVER, *(f"{LIBRARIES}/{path.name}" for path in (runtime / LIBRARIES).iterdir())]:
        shutil.copy2(runtime / file, folder / file)
    write_atomic(
        folder / "README.txt", _README.format(arch=arch, server=SERVER, key=key, gpu=_GPU.get(kind, ""))
    )
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
