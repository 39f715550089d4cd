"""Temporary files and folders named after their process, so that those of a dead one can be told and removed.

A process that is killed cannot clean up. Whoever makes a temporary therefore removes those of dead processes
in the same folder first: the same command, started again, leaves nothing over.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import secrets
import shutil
import sys
import tempfile
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

from ofa_tvm.errors import UserError, shorten

_OLD = ".old"
_UNKNOWN_S = 24 * 3600.0  # what another machine made is dropped after a day: its processes cannot be seen
_NAME_BYTES = 150  # of 255, so that what is added has room
_OWNED = re.compile(
    r"(?:\.(?P<name>.+)\.|ofa-tvm-.+-)(?P<pid>\d+)-(?P<host>[0-9a-f]{6})(?P<start>[0-9a-f]{6})[0-9a-f]{8}"
    r"[a-z0-9_]*(?P<suffix>\.[^.]+)?"
)
_FIRST_VERSIONS = r"\.{name}\.(?P<pid>\d+)-[0-9a-f]{{8}}(?P<suffix>\.[^.]+)?"  # knew no host and no start
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def temporary_beside(path: Path) -> Path:
    """A free name in the same folder, hidden and with the same suffix."""
    name = os.fsencode(path.name)[:_NAME_BYTES].decode(errors="ignore")
    return path.with_name(f".{name}.{_owner()}{path.suffix[:20]}")


def scratch_folder(label: str, parent: Path | None = None) -> tempfile.TemporaryDirectory[str]:
    """A temporary folder, by default in the system's place; those that dead processes left go first.

    Raises
    ------
    UserError
        If none can be made, as on a full disk.
    """
    try:
        remove_dead(Path(tempfile.gettempdir()) if parent is None else parent)
        return tempfile.TemporaryDirectory(prefix=f"ofa-tvm-{label}-{_owner()}", dir=parent)
    except OSError as error:
        raise UserError(
            f"no temporary folder can be made ({shorten(error.strerror or str(error), 150)}); is the disk "
            "full? TMPDIR names another place"
        ) from error


def remove_dead(folder: Path, name: str | None = None) -> None:
    """Remove the temporaries of dead processes in a folder; what cannot be read or removed stays.

    What stood in a folder's place before a kill is put back if nothing took its place.

    Parameters
    ----------
    folder
        Where to look, not deeper.
    name
        Of a file or folder there, of which what the first versions of ofa-tvm left is removed as well.
    """
    first = None if name is None else re.compile(_FIRST_VERSIONS.format(name=re.escape(name)))
    with suppress(OSError):
        for entry in list(os.scandir(folder)):
            if found := _OWNED.fullmatch(entry.name):
                alive = _is_alive(int(found["pid"]), found["host"], found["start"], entry)
            elif first is not None and (found := first.fullmatch(entry.name)):
                alive = _start(int(found["pid"])) is not None
            else:
                continue
            if not alive:
                _remove(Path(entry.path), name if found.re is first else found["name"], found["suffix"])


def exchange(new: Path, place: Path) -> Path:
    """Put a finished folder in place of another, at once where the system can; returns where that one is now.

    Raises
    ------
    OSError
        If it cannot be done; `place` is then as before.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None, use_errno=True), "renameat2"):
        names = (_AT_FDCWD, os.fsencode(new), _AT_FDCWD, os.fsencode(place))
        if libc.renameat2(*names, _RENAME_EXCHANGE) == 0:
            return new
    # Not every file system exchanges. A kill between the two is mended by `remove_dead`.
    old = new.with_name(new.name + _OLD)
    place.rename(old)
    try:
        new.rename(place)
    except OSError:
        old.rename(place)
        raise
    return old


def _remove(path: Path, name: str | None, suffix: str | None) -> None:
    with suppress(OSError):
        if suffix == _OLD and name is not None and not path.with_name(name).exists():
            path.rename(path.with_name(name))
        elif path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _owner() -> str:
    """This process, and a number that makes names differ."""
    pid = os.getpid()
    return f"{pid}-{_host()}{_start(pid) or '000000'}{secrets.token_hex(4)}"


@cache
def _host() -> str:
    """Where process numbers mean the same: a machine, or a container on it."""
    namespace = 0
    with suppress(OSError):
        namespace = Path("/proc/self/ns/pid").stat().st_ino
    return _digest(f"{os.uname().nodename} {namespace}")


def _start(pid: int) -> str | None:
    """A digest of when a process started, None if there is none (or only its exit code is left)."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return None if state in "ZX" else _digest(fields[18])
    except (OSError, IndexError, ValueError):
        pass
    if Path("/proc/self/stat").exists():
        return None
    try:  # no Linux: process numbers that were given again are not noticed
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return None
    except PermissionError:
        pass
    return "000000"


def _is_alive(pid: int, host: str, start: str, entry: os.DirEntry[str]) -> bool:
    if host == _host():
        return _start(pid) == start
    return time.time() - entry.stat(follow_symlinks=False).st_mtime < _UNKNOWN_S


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:6]
