"""From objects to a shared library that appears whole or not at all."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import tvm

from ofa_tvm.compiler.driver import Driver
from ofa_tvm.errors import UserError, shorten
from ofa_tvm.files import replacing, require_room
from ofa_tvm.runtime.elf import append_checksum
from ofa_tvm.targets import Target
from ofa_tvm.temporaries import scratch_folder

LIBRARY_BYTES = 1 << 22  # of a library, at most, besides the weights
_WEIGHTS = """\
.section .rodata.weights,"a",%progbits
.balign 4096
.hidden network_weights
.globl network_weights
network_weights:
.incbin "{path}"
.section .note.GNU-stack,"",%progbits
"""
_NO_ROOM = re.compile("No space left on device|File too large|File size limit exceeded|Disk quota exceeded")


def link_library(
    executable: tvm.runtime.Executable,
    objects: Sequence[Path | bytes],
    driver: Driver | None,
    target: Target,
    path: Path,
    size: int,
    check: Callable[[Path], None] | None = None,
) -> None:
    """Link a network into the library at `path`, and append its checksum.

    Parameters
    ----------
    executable
        The network's code for the virtual machine.
    objects
        Object files of its kernels, or their bytes.
    driver
        What runs it in one call, if it can be.
    target
        Names the linker.
    path
        The library.
    size
        Bytes that have to be free for it.
    check
        Raises if the library that was linked must not appear.

    Raises
    ------
    UserError
        If the linker is missing or fails, or the library cannot be written.
    """
    linker = target.link.find()
    with scratch_folder("link") as folder, replacing(path) as temporary:
        require_room(Path(folder), size)
        temporary.touch()  # what is wrong with the place is said here, not by the linker

        def link(output: str, files: list[str], **_options: object) -> None:
            command = [*linker, "-shared", "-fPIC", "-O1", "-o", output, *files]
            environment = os.environ | {"LC_ALL": "C"}
            done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
            if done.returncode:
                if match := _NO_ROOM.search(done.stderr):
                    raise UserError(f"cannot write {path}: {match[0]}")
                lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
                reason = next((line for line in lines if "error" in line or "cannot" in line), lines[0])
                raise UserError(f"linking {path.name} with {linker[0]} failed: {shorten(reason, 200)}")

        files = []
        for index, code in enumerate(objects):
            file = code if isinstance(code, Path) else Path(folder) / f"kernel{index}.o"
            if isinstance(code, bytes):
                file.write_bytes(code)
            files.append(str(file))
        if driver is not None:
            files += _sources(driver, Path(folder).absolute())
        executable.export_library(str(temporary), fcompile=link, addons=files, workspace_dir=folder)
        if check is not None:
            check(temporary)
        append_checksum(temporary)


def _sources(driver: Driver, folder: Path) -> list[str]:
    """Files for the compiler: the driver, and its weights as the assembler's data."""
    source = folder / "network.c"
    source.write_text(driver.source)
    if not driver.weights:
        return [str(source)]
    content, assembly = folder / "weights.bin", folder / "weights.s"
    content.write_bytes(driver.weights)
    quoted = str(content).replace("\\", "\\\\").replace('"', '\\"')
    assembly.write_text(_WEIGHTS.format(path=quoted))
    return [str(source), str(assembly)]
