"""Files that are never half written, and the data folders that ship with the package."""

from __future__ import annotations

import hashlib
import os
import resource
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ofa_tvm.errors import UserError, shorten
from ofa_tvm.temporaries import remove_dead, temporary_beside

_PACKAGE = Path(__file__).resolve().parent
_DIGEST_BYTES = hashlib.sha256().digest_size


def data_dir(name: str) -> Path:
    """Folder `name` ("targets" or "tuning_logs") that ships with ofa-tvm.

    A wheel carries it inside the package; a checkout has it at the top level.

    Raises
    ------
    UserError
        If the installation is incomplete and has neither.
    """
    for candidate in (_PACKAGE / "_data" / name, _PACKAGE.parent / name):
        if candidate.is_dir():
            return candidate
    raise UserError(f"this installation of ofa-tvm lacks its {name!r} folder; reinstall the package")


def cache_dir() -> Path:
    """Per-user cache folder: `OFA_TVM_CACHE`, else `$XDG_CACHE_HOME/ofa-tvm`, else `~/.cache/ofa-tvm`."""
    if explicit := os.environ.get("OFA_TVM_CACHE"):
        return Path(explicit)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "ofa-tvm"


_SPECIAL = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def require_file(path: str | os.PathLike[str]) -> None:
    """Refuse what would be waited for without end, or never ends; a missing file is the reader's to name.

    Raises
    ------
    UserError
        If it is a pipe, a device or a socket, or no file can have that name.
    """
    try:
        kind = _SPECIAL.get(stat.S_IFMT(Path(path).stat().st_mode))
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"cannot read {shorten(str(path), 100)}: {reason}") from error
    if kind is not None:
        raise UserError(f"{path} is {kind}, not a file; save what it gives to a file first")


def require_room(folder: Path | None, n_bytes: int) -> None:
    """Refuse to begin what the disk has no room for; for writers that end the process where it has none.

    Parameters
    ----------
    folder
        Where to write; None for memory, which only has the limit on files.
    n_bytes
        How much.

    Raises
    ------
    UserError
        If less is free, or files may not be that large (`ulimit -f`).
    """
    free = n_bytes if folder is None else shutil.disk_usage(folder).free
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if free < n_bytes:
        raise UserError(
            f"the disk with {folder} is full: {n_bytes >> 20} MiB are needed, {free >> 20} MiB are free"
        )
    if limit not in (resource.RLIM_INFINITY, -1) and limit < n_bytes:
        raise UserError(f"files may have {limit >> 10} KiB here (ulimit -f), {n_bytes >> 10} KiB are needed")


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable: new files, renamed ones."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def replacing(path: str | os.PathLike[str], *, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary name beside `path`; on success it is synced and renamed to `path`, else removed.

    Use it for writers that need a file name of their own (linkers, `torch.save`). A cache that checks what it
    reads can do without `durable`, the sync to disk, which takes milliseconds.

    Raises
    ------
    UserError
        If the folder cannot be written or the disk is full.
    """
    target = Path(path)
    temporary = temporary_beside(target)
    try:
        if target.exists():
            require_file(target)  # which would be replaced by a file: /dev/null for all processes
        target.parent.mkdir(parents=True, exist_ok=True)
        if durable:  # caches hold many files; they clean up once, not for each
            remove_dead(target.parent, target.name)
        yield temporary
        if durable:
            with temporary.open("rb") as handle:
                os.fsync(handle.fileno())
        temporary.replace(target)
        if durable:
            sync_folder(target.parent)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):  # the folder may be what is wrong
            temporary.unlink(missing_ok=True)


def write_atomic(path: str | os.PathLike[str], content: bytes | str) -> None:
    """Write `content` to `path` so that a reader sees the old file or the whole new one, never a part.

    Raises
    ------
    UserError
        If the folder cannot be written or the disk is full.
    """
    data = content.encode() if isinstance(content, str) else content
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_sealed(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file of a cache: content, then its digest, by which `read_sealed` knows whether it is whole.

    Raises
    ------
    UserError
        If the folder cannot be written or the disk is full.
    """
    with replacing(path, durable=False) as temporary:
        temporary.write_bytes(content + hashlib.sha256(content).digest())


def read_sealed(path: str | os.PathLike[str]) -> bytes | None:
    """What `write_sealed` wrote; None where there is nothing, or not the whole of it."""
    try:
        sealed = Path(path).read_bytes()
    except OSError:
        return None
    content, digest = sealed[:-_DIGEST_BYTES], sealed[-_DIGEST_BYTES:]
    return content if hashlib.sha256(content).digest() == digest else None


def read_text(path: str | os.PathLike[str], most_bytes: int) -> str:
    """Text of a file in UTF-8, with or without a byte order mark.

    Raises
    ------
    UserError
        If the file cannot be read, is larger than `most_bytes`, or is not text.
    """
    require_file(path)
    try:
        with Path(path).open("rb") as handle:
            data = handle.read(most_bytes + 1)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:  # a name that no file can have
        raise UserError(f"cannot read {str(path)!r}: {error}") from error
    if len(data) > most_bytes:
        raise UserError(f"{path} is larger than {most_bytes >> 20} MiB; is it the right file?")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path} is not a text file (UTF-8)") from None


def sha256(path: str | os.PathLike[str]) -> str:
    """Hex SHA-256 of a file.

    Raises
    ------
    UserError
        If the file cannot be read.
    """
    require_file(path)
    try:
        with Path(path).open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
