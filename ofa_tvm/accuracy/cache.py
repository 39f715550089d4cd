"""Finished evaluations: JSON lines that several processes read and extend."""

from __future__ import annotations

import json
from pathlib import Path

from ofa_tvm.errors import UserError
from ofa_tvm.jsonfile import parse_json
from ofa_tvm.lines import append_line
from ofa_tvm.spaces import Arch


class AccuracyCache:
    """Accuracies of subnets under one evaluation key, in a file that other processes may extend meanwhile.

    Parameters
    ----------
    path
        Of the file, made by the first `add`; None keeps nothing.
    key
        Only its lines count.

    Attributes
    ----------
    known
        Accuracies (0..1) as of the last `refresh` or `add`.

    Raises
    ------
    UserError
        If the file cannot be read.
    """

    def __init__(self, path: str | Path | None, key: str) -> None:
        self.known: dict[Arch, float] = {}
        self._path = None if path is None else Path(path)
        self._key = key
        self._read = 0  # bytes that end with a newline: nobody changes these any more
        self.refresh()

    def refresh(self) -> None:
        """Learn what others have written since.

        Raises
        ------
        UserError
            If the file cannot be read.
        """
        if self._path is None:
            return
        try:
            # Opened anew each time: that is when a network file system looks for what others wrote.
            with self._path.open("rb") as file:
                file.seek(self._read)
                content = file.read()
        except FileNotFoundError:
            return
        except OSError as error:
            raise UserError(f"cannot read {self._path}: {error.strerror}") from error
        for line in content.split(b"\n"):
            self._take(line)
        self._read += content.rfind(b"\n") + 1

    def add(self, arch: Arch, accuracy: float) -> None:
        """Note an evaluation.

        Raises
        ------
        UserError
            If the file cannot be written.
        """
        if self._path is not None:
            line = {"key": self._key, "arch": arch.to_dict(), "accuracy": accuracy}
            append_line(self._path, json.dumps(line))
        self.known[arch] = accuracy

    def _take(self, line: bytes) -> None:
        try:
            record = parse_json(line)
            if record["key"] == self._key:
                value = record["accuracy"]
                if type(value) in (int, float) and 0 <= value <= 1:
                    self.known[Arch.from_dict(record["arch"])] = float(value)
        except (ValueError, KeyError, TypeError, UserError):
            pass  # cut short or no line of ours: evaluated again
