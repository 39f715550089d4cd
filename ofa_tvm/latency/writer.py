"""Writing a latency table row by row: what a kill leaves is whole, and the next run goes on from it."""

from __future__ import annotations

import json
import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any

from ofa_tvm.errors import UsageError, UserError, shown
from ofa_tvm.latency.dataset import Column, read_table
from ofa_tvm.latency.table_file import (
    csv_row,
    is_packed,
    latency_of,
    meta_path,
    read_bytes,
    rows_of,
    text_of,
    torn_row,
)
from ofa_tvm.lines import FileBusy, LineFile, append_line, whole_lines
from ofa_tvm.spaces import LayeredSpace


class LatencyWriter:
    """Appends measurements to a table with one column, so that a killed collection goes on where it stopped.

    As a context manager it holds the table's lock, so that no other process measures the same rows.

    Parameters
    ----------
    path : path
        CSV file; created with its heading if absent.
    space : Space
    column : Column

    Attributes
    ----------
    measured : dict of architecture to float
        What the file holds so far, in the column's unit.
    added : int
        Rows that this writer wrote.

    Raises
    ------
    UserError
        If the file exists with another heading, another space, or bad rows.
    """

    def __init__(self, path: str | os.PathLike[str], space: LayeredSpace, column: Column) -> None:
        self.path = Path(path)
        self.space = space
        self.column = column
        self.added = 0
        self._heading = f"arch,{column.name}"
        self._held: LineFile | None = None
        if self.path.suffix == ".gz" or is_packed(self.path):
            raise UsageError(f"cannot append to the compressed table {self.path}; unpack it first")
        self.measured = self._read()

    def __enter__(self) -> LatencyWriter:
        file = self._open(wait=False)
        try:
            self._held = file.__enter__()
        except FileBusy:
            raise UserError(
                f"another process is measuring into {self.path}; wait for it to end, or write to another file"
            ) from None
        try:
            self.measured = self._read()  # the other one may have ended meanwhile
        except BaseException:
            self._held.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._held is not None:
            self._held.close()
            self._held = None

    def append(self, arch: Any, value: float, **meta: Any) -> None:
        """Add one measurement; `meta` (MAD, repeats, versions, date ...) goes to the file beside.

        Raises
        ------
        UserError
            If the latency is not positive and finite, the architecture is there already or outside the space,
            or the file cannot be written.
        """
        self.space.validate(arch)
        if arch in self.measured:
            raise UserError(f"{self.path} already holds {arch.to_json()}")
        if problem := latency_of(repr(float(value)))[1]:
            raise UserError(f"not written to {self.path}: {problem}")
        entry = {
            "space": self.space.name,
            "column": self.column.name,
            "arch": json.loads(arch.to_json()),
            "value": float(value),
            **meta,
        }
        with self._file() as file:
            file.heal()  # what is torn shows by what is not noted yet
            # The row is what counts, so it is written last.
            append_line(meta_path(self.path), json.dumps(entry, separators=(",", ":")))
            file.append(csv_row(arch.to_json(), float(value)))
        self.measured[arch] = float(value)
        self.added += 1

    def _file(self) -> AbstractContextManager[LineFile]:
        return nullcontext(self._held) if self._held is not None else self._open(wait=True)

    def _open(self, *, wait: bool) -> LineFile:
        return LineFile(self.path, torn=torn_row(self.path, self._heading), wait=wait)

    def _read(self) -> dict[Any, float]:
        data = read_bytes(self.path) if self.path.exists() else b""
        rows = rows_of(text_of(whole_lines(data, torn_row(self.path, self._heading)), self.path), self.path)
        if not rows:
            with self._file() as file:
                file.append(self._heading)
            return {}
        if rows[0][1] != self._heading.split(","):
            raise UserError(
                f"{self.path} has the heading {shown(','.join(rows[0][1]))}, not {self._heading!r}; "
                "write to another file"
            )
        if len(rows) == 1:
            return {}
        table = read_table(self.path, self.space)
        return dict(zip(table.archs, table.values[:, 0].tolist(), strict=True))
