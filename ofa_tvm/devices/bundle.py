"""The folder that makes a board a device: the RPC server and TVM's runtime, a few megabytes to copy."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

from ofa_tvm import __version__
from ofa_tvm.devices.native import LIBRARIES, SERVER, device_runtime
from ofa_tvm.errors import UsageError
from ofa_tvm.files import write_atomic
from ofa_tvm.progress import SILENT, Progress

README = "README.txt"
_README = """\
This folder makes a Linux board ({arch}) a device of ofa-tvm {version}: a server ({server}) and TVM's
runtime ({libraries}/). It needs glibc and libstdc++, which every Linux distribution for boards has{gpu}
and nothing else: no Python, no ofa-tvm.

On the machine that compiles (here 192.168.0.10), once:

  ofa-tvm device tracker --host 0.0.0.0
  scp -r {folder} USER@BOARD:

On the board:

  cd {folder}
  ./{server} --host 0.0.0.0 --tracker 192.168.0.10:9190 --key {key}

It stays in the foreground and ends with Ctrl-C; `nohup ... &` or a systemd unit keeps it running. The board
must reach the tracker's port (9190), the machine that compiles the board's (9090, or the next free one).
Boards of one kind share a key. After a restart of the tracker the server finds it again by itself.

Back on the machine that compiles:

  export OFA_TVM_TRACKER=127.0.0.1:9190
  ofa-tvm device list                  # the board is there, and free
  ofa-tvm tune --target {target}
  ofa-tvm search --target {target} --latency 25ms -o deploy/

Times are worth what the board's clock is: fix the governor, cool it, and leave it alone meanwhile.

"version `GLIBC_...' not found" means that the board's system is older than the one that this server was
built for; built with `pip install ziglang` as the only cross compiler, it needs glibc 2.28 and no more.

TVM's RPC runs whatever it is sent. Only a network that you trust may reach the board's port; without --host
the server listens on the loopback address alone.
"""
_GPU = {
    "opencl": ",\nthe GPU vendor's OpenCL driver (libOpenCL.so.1 or libOpenCL.so)",
    "cuda": ",\nCUDA 13 with its driver",
}


def require_own(folder: Path, mark: str, readme: str, what: str) -> None:
    """Refuse to write a bundle where something else is: one begun before, or an empty folder, may be there.

    Parameters
    ----------
    folder
        Where to.
    mark
        The file by which a whole bundle is known.
    readme
        As the README of one begins.
    what
        Its kind, for people.

    Raises
    ------
    UsageError
        If something else is.
    """
    if not folder.exists() or (folder / mark).is_file() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if (folder / README).is_file() and (folder / README).read_text(errors="replace").startswith(readme[:30]):
        return
    raise UsageError(f"{folder} is there already and no {what}; name another folder with -o")


def write_bundle(
    folder: Path,
    arch: str,
    cxx: Sequence[str],
    key: str,
    *,
    target: str = "",
    kind: str = "llvm",
    progress: Progress = SILENT,
) -> int:
    """Write the folder for boards of a processor family, and a kind of GPU; returns its size in bytes.

    Parameters
    ----------
    folder
        Where to.
    arch, kind
        The processor family, and "opencl" or "cuda" for the runtime of a GPU as well.
    cxx
        The compiler driver for it.
    key, target
        What its README tells to type: the key on the tracker, and the target (by default the key).
    progress
        Told of building and downloading.

    Raises
    ------
    UsageError
        If something else is in the way.
    UserError
        If the server cannot be built or the runtime not be downloaded.
    """
    require_own(folder, SERVER, _README, "bundle")
    runtime = device_runtime(arch, cxx, kind=kind, progress=progress)
    (folder / LIBRARIES).mkdir(parents=True, exist_ok=True)
    for file in [SERVER, *(f"{LIBRARIES}/{path.name}" for path in (runtime / LIBRARIES).iterdir())]:
        shutil.copy2(runtime / file, folder / file)
    write_atomic(
        folder / README,
        _README.format(
            arch=arch,
            version=__version__,
            server=SERVER,
            libraries=LIBRARIES,
            folder=shlex.quote(folder.resolve().name),
            key=key,
            target=target or key,
            gpu=_GPU.get(kind, ""),
        ),
    )
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
