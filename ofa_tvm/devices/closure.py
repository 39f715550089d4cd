"""The C library, its loader and what else a program of glibc needs, for systems that have another one."""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from ofa_tvm.errors import UserError
from ofa_tvm.files import cache_dir
from ofa_tvm.targets.readiness import EMULATOR_FOLDER, EMULATOR_ROOT

_LOADERS = {"aarch64": "ld-linux-aarch64.so.1", "x86_64": "ld-linux-x86-64.so.2"}
_PACKAGES = "apt-get install libc6-arm64-cross libstdc++6-arm64-cross libgcc-s1-arm64-cross"
_DYNAMIC, _LOAD = 2, 1  # kinds of an ELF file's segments
_NEEDED, _STRINGS = 1, 5  # tags of its dynamic section


def loader_name(arch: str) -> str:
    """File name of glibc's dynamic loader for a processor family.

    Raises
    ------
    UserError
        If nothing is known of the family.
    """
    if arch not in _LOADERS:
        raise UserError(
            f"a folder that brings its own C library is made for {' or '.join(_LOADERS)}, not {arch}"
        )
    return _LOADERS[arch]


def needed_libraries(arch: str, cxx: Sequence[str], files: Sequence[Path]) -> list[Path]:
    """Everything of the system that programs and libraries need, the dynamic loader first.

    Parameters
    ----------
    arch
        Processor family, "aarch64" or "x86_64".
    cxx
        Command of the C++ compiler for it; gcc's brings the libraries, else those of Debian's cross packages
        are taken, installed or unpacked by `ofa-tvm device emulate`.
    files
        The programs and libraries. What is among them is not looked for.

    Raises
    ------
    UserError
        If a library is not there; the sentence says what to install.
    """
    own = {file.name for file in files}
    found = {loader_name(arch): _find(loader_name(arch), arch, cxx)}
    waiting = list(files)
    while waiting:
        for name in needed(waiting.pop()):
            if name not in own and name not in found:
                found[name] = _find(name, arch, cxx)
                waiting.append(found[name])
    return list(found.values())


def needed(file: Path) -> Iterator[str]:
    """Names of the libraries that a 64-bit ELF file asks the loader for (its DT_NEEDED entries)."""
    content = file.read_bytes()
    if content[:5] != b"\x7fELF\x02":
        raise UserError(f"{file} is no 64-bit program or library")
    (start,) = struct.unpack_from("<Q", content, 32)
    size, count = struct.unpack_from("<HH", content, 54)
    # Of each segment: its kind, where it lies in the file, where in memory, and how much of it.
    segments = [
        (struct.unpack_from("<I", content, at)[0], *struct.unpack_from("<QQ8xQ", content, at + 8))
        for at in range(start, start + size * count, size)
    ]
    entries = [
        struct.unpack_from("<QQ", content, at)
        for kind, offset, _, length in segments
        if kind == _DYNAMIC
        for at in range(offset, offset + length, 16)
    ]
    strings = next((value for tag, value in entries if tag == _STRINGS), 0)
    base = next(
        (offset - memory for kind, offset, memory, length in segments
         if kind == _LOAD and memory <= strings < memory + length),
        0,
    )  # fmt: skip
    for tag, value in entries:
        if tag == _NEEDED:
            at = strings + base + value
            yield content[at : content.index(b"\0", at)].decode()


def _find(name: str, arch: str, cxx: Sequence[str]) -> Path:
    folders = [EMULATOR_ROOT, cache_dir() / EMULATOR_FOLDER / "usr" / EMULATOR_ROOT.name]
    places = [folder / "lib" / name for folder in folders] if arch == "aarch64" else []
    if not {"c++", "cc"} & set(cxx[1:]):  # `zig c++` brings a C library in pieces, to link with
        done = subprocess.run([*cxx, f"-print-file-name={name}"], capture_output=True, text=True, check=False)
        places.insert(0, Path(done.stdout.strip() or name))
    for place in places:
        if place.is_absolute() and place.is_file():
            return place
    hint = f"{_PACKAGES}, or `ofa-tvm device emulate` fetches them" if arch == "aarch64" else "install g++"
    raise UserError(f"there is no {name} for {arch} on this machine to put into the folder; {hint}")
