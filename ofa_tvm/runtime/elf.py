"""What the file of a compiled module says before it is opened: whose code it is, and whether it is whole.

The system's loader believes an ELF file's headers and dies with its process where they lie, so nothing is
opened that does not end in the checksum which the compiler wrote. The loader itself never looks behind the
last section.
"""

from __future__ import annotations

import hashlib
import mmap
import struct
from pathlib import Path

from ofa_tvm.errors import UserError

_MACHINES = {62: "x86_64", 183: "aarch64", 243: "riscv64", 40: "arm"}
_HEADER = 64  # bytes of an ELF64 header
_MAGIC = b"ofa-tvm\x01"
_PARALLEL = b"\0__TVMBackendParallelLaunch\0"  # in the table of symbols that the library asks for
_DIGEST = hashlib.sha256().digest_size


def elf_arch(file: Path) -> str:
    """Processor family of a compiled module, as `platform.machine()` calls it.

    Raises
    ------
    UserError
        If the file is missing or no shared library.
    """
    try:
        if file.exists() and not file.is_file():
            raise UserError(f"{file} is not a compiled module but a folder or a device")
        with file.open("rb") as handle:
            head = handle.read(20)
    except FileNotFoundError:
        raise UserError(f"no compiled module {file}; make one with `ofa-tvm compile`") from None
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from error
    if file.suffix != ".so" or head[:4] != b"\x7fELF" or len(head) < 20:
        raise UserError(f"{file} is not a compiled module (an ELF shared library named *.so)")
    number = int.from_bytes(head[18:20], "little")
    return _MACHINES.get(number, f"machine {number}")


def append_checksum(file: Path) -> None:
    """Let a finished library end in a mark and the SHA-256 of all that comes before."""
    with file.open("rb+") as handle:
        digest = hashlib.file_digest(handle, "sha256")
        digest.update(_MAGIC)
        handle.seek(0, 2)
        handle.write(_MAGIC + digest.digest())


def require_whole(file: Path) -> None:
    """Refuse a library that the compiler did not write, or that is not as it was written.

    Raises
    ------
    UserError
        If it is cut short, carries no checksum, or differs from its checksum.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from error
    body, digest = content[:-_DIGEST], content[-_DIGEST:]
    if not body.endswith(_MAGIC):
        if _is_cut_short(content):
            raise UserError(f"{file} is damaged: it is cut short; copy it again or compile it anew")
        raise UserError(
            f"{file} is not a module that ofa-tvm compiled (it carries no checksum: another library, or one "
            "that was cut or compiled by an older version); make one with `ofa-tvm compile`"
        )
    if hashlib.sha256(body).digest() != digest:
        raise UserError(
            f"{file} is damaged: it differs from the checksum that it carries; copy it again or compile it "
            "anew"
        )


def runs_in_parallel(file: Path) -> bool:
    """Whether a library has kernels that ask TVM for threads."""
    with file.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(_PARALLEL) >= 0


def _is_cut_short(content: bytes) -> bool:
    """Whether an ELF64 file ends before the table of its sections, which linkers write last."""
    if len(content) < _HEADER:
        return True
    start = struct.unpack_from("<Q", content, 40)[0]
    entry, count = struct.unpack_from("<HH", content, 58)
    return content[4] == 2 and bool(start + entry * count > len(content))
