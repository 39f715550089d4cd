"""Files that grow line by line (JSON lines, CSV): what a kill or a full disk tears, the next append heals.

A line counts once its newline is there. An unterminated last line is either torn, and then readers ignore it
and the next append takes its place, or it is whole (an editor left the newline out), and then both keep it.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from ofa_tvm.errors import UserError
from ofa_tvm.files import sync_folder
from ofa_tvm.jsonfile import parse_json

_BLOCK = 1 << 16

Torn = Callable[[bytes], bool]
"""Whether an unterminated last line is the beginning of a line of ours; anything else is never removed."""


class FileBusy(UserError):
    """Another process holds the file."""


def torn_json(tail: bytes) -> bool:
    """`Torn` of JSON lines that hold objects: the beginning of one is never a whole one."""
    text = tail.rstrip(b"\0")  # what a power cut leaves of a block that was not written yet
    if not text:
        return True
    if not text.startswith(b"{"):
        return False
    try:
        parse_json(text, nan=True)
    except ValueError:
        return True
    return text != tail


def whole_lines(content: bytes, torn: Torn = torn_json) -> bytes:
    """What of a file counts: all but a torn last line."""
    start = content.rfind(b"\n") + 1
    return content[:start] if start < len(content) and torn(content[start:]) else content


class LineFile:
    """A file open for appending, a context manager that holds the file's own lock.

    Parameters
    ----------
    path
        Made, with its folder, if absent.
    torn
        What may be healed.
    wait
        Wait for another writer to let go; else refuse.

    Raises
    ------
    FileBusy
        If another process holds the file and `wait` is not set.
    UserError
        If the file cannot be opened.
    """

    def __init__(self, path: str | os.PathLike[str], *, torn: Torn = torn_json, wait: bool = True) -> None:
        self.path = Path(path)
        self._torn, self._wait = torn, wait
        self._descriptor = -1

    def __enter__(self) -> LineFile:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            new = not self.path.exists()
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
            if new:
                sync_folder(self.path.parent)
        except OSError as error:
            raise UserError(f"cannot write {self.path}: {error.strerror}") from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | (0 if self._wait else fcntl.LOCK_NB))
        except BlockingIOError:
            self.close()
            raise FileBusy(f"another process is writing to {self.path}") from None
        except OSError:
            pass  # a file system without locks
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file and its lock."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def heal(self) -> int:
        """Remove a torn last line, end an unterminated whole one; returns the file's size.

        Raises
        ------
        UserError
            If the file cannot be read or written.
        """
        try:
            return self._heal()
        except OSError as error:
            raise UserError(f"cannot write {self.path}: {error.strerror}") from error

    def append(self, line: str) -> None:
        """Append one line and sync it to disk: it is there as a whole, or not at all.

        Raises
        ------
        UserError
            If the file cannot be written or the disk is full.
        """
        data = memoryview(line.rstrip("\n").encode() + b"\n")
        try:
            size = self._heal()
            try:
                while data:
                    data = data[os.write(self._descriptor, data) :]
                os.fsync(self._descriptor)
            except BaseException:
                with suppress(OSError):  # else the next append does it
                    os.ftruncate(self._descriptor, size)
                raise
        except OSError as error:
            raise UserError(f"cannot write {self.path}: {error.strerror}") from error

    def _heal(self) -> int:
        size = os.fstat(self._descriptor).st_size
        tail = self._tail(size)
        if not tail:
            return size
        if self._torn(tail):
            os.ftruncate(self._descriptor, size - len(tail))
            return size - len(tail)
        os.write(self._descriptor, b"\n")
        return size + 1

    def _tail(self, size: int) -> bytes:
        """What follows the last newline."""
        tail = b""
        while size > 0:
            start = max(0, size - _BLOCK)
            block = os.pread(self._descriptor, size - start, start)
            if (newline := block.rfind(b"\n")) >= 0:
                return block[newline + 1 :] + tail
            tail, size = block + tail, start
        return tail


def append_line(path: str | os.PathLike[str], line: str) -> None:
    """Append one JSON line and sync it: after a kill -9 all but the line in flight is there.

    Several processes may append to one file.

    Raises
    ------
    UserError
        If the file cannot be written or the disk is full.
    """
    with LineFile(path) as file:
        file.append(line)
