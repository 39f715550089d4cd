"""The folder that makes a phone a device: server, TVM's runtime, and a C library with its own loader.

An Android phone's C library is not glibc. A program of glibc runs there all the same when its folder brings
glibc and the loader, and when it is the loader that is started.
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

from ofa_tvm import __version__
from ofa_tvm.devices.bundle import README, require_own
from ofa_tvm.devices.closure import loader_name, needed_libraries
from ofa_tvm.devices.native import (
    LIBRARIES,
    REFUSED,
    SERVER,
    START,
    build_refused,
    device_runtime,
    start_script,
)
from ofa_tvm.devices.runner import sized
from ofa_tvm.files import write_atomic
from ofa_tvm.progress import SILENT, Progress

PLACE = "/data/local/tmp/ofa-tvm"  # on the phone: there `adb shell` may write and run programs
_README = """\
This folder makes an Android phone ({arch}) a device of ofa-tvm {version}, or any other Linux of this family,
whatever its C library. Nothing is installed on the phone, and neither an SDK nor root is needed: switch on
"USB debugging" in the developer options, plug it in, and on the computer

  adb shell mkdir -p {place}
  adb push {folder}/. {place}/
  adb shell sh {place}/{start}

`{start}` says what to type next; `sh {start} stop` ends it when it was left running with nohup.
"""


def write_self_contained(
    folder: Path,
    arch: str,
    cxx: Sequence[str],
    key: str,
    *,
    target: str = "",
    cpus: str = "",
    progress: Progress = SILENT,
) -> int:
    """Write the folder for phones of a processor family; returns its size in bytes.

    Parameters
    ----------
    folder
        Where to.
    arch
        The processor family, "aarch64" or "x86_64".
    cxx
        The compiler driver for it.
    key, target
        What its script offers and tells to type: the key on the tracker, and the target (by default the key).
    cpus
        The cores to keep to, as in a target's `run`; "" for those of the fastest kind.
    progress
        Told of building and downloading.

    Raises
    ------
    UsageError
        If something else is in the way.
    UserError
        If something cannot be built, a library is missing, or the runtime cannot be downloaded.
    """
    require_own(folder, START, _README, "bundle for a phone")
    loader = loader_name(arch)
    runtime = device_runtime(arch, cxx, progress=progress)
    own = [runtime / SERVER, *sorted((runtime / LIBRARIES).iterdir())]
    system = needed_libraries(arch, cxx, own)
    shutil.rmtree(folder / LIBRARIES, ignore_errors=True)
    (folder / LIBRARIES).mkdir(parents=True)
    values = {
        "LOADER": loader,
        "SERVER": SERVER,
        "REFUSED": REFUSED,
        "ARCH": arch,
        "KEY": shlex.quote(key),
        "TARGET": shlex.quote(target or key),
        "CPUS": cpus or "big",
        "VERSION": __version__,
    }
    files = {
        "arch": arch,
        "version": __version__,
        "folder": shlex.quote(folder.resolve().name),
        "place": PLACE,
        "start": START,
    }
    write_atomic(folder / README, _README.format(**files))  # first: by it an unfinished folder is known
    for source in [*own, *system]:
        name = source.name if source.name == SERVER else f"{LIBRARIES}/{source.name}"
        shutil.copy2(source, folder / name)  # no links: adb follows none, and phones make none
    build_refused(cxx, folder / LIBRARIES / REFUSED)
    values["FILES"] = sized(folder, [folder / SERVER, *sorted((folder / LIBRARIES).iterdir())])
    write_atomic(folder / START, re.sub(r"@([A-Z]+)@", lambda match: values[match[1]], start_script()))
    (folder / START).chmod(0o755)
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
