"""Latency tables: a CSV of architectures and measured times that is appended row by row and never half read.

The first column is `arch` (JSON), then one column a target: `<target>_ms`, `<target>_b<N>_ms` for a batch
other than 1, `<target>_float16_ms` in half precision, `<target>_minstr` for emulated devices. What else is
known of a row lies in `<name>.meta.jsonl` beside it. Row numbers in messages count lines of
the file, so that the header is row 1. Blank lines and a byte order mark are no rows.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from ofa_tvm.errors import UsageError, UserError, shorten, shown
from ofa_tvm.jsonfile import parse_json
from ofa_tvm.lines import FileBusy, LineFile, Torn, append_line, whole_lines
from ofa_tvm.schema import first_problem, key_path
from ofa_tvm.spaces import FBNetSpace, LayeredSpace, get_layered_space
from ofa_tvm.targets import DType, Target, Variant

_COLUMN = re.compile(
    r"(?P<target>.+?)(?:_(?P<dtype>float16))?(?:_b(?P<batch>[1-9][0-9]{0,5}))?_(?P<unit>ms|minstr)"
)
_NUMBER = re.compile(
    r"[-+]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|inf|infinity|nan)", re.IGNORECASE
)
_MOST_BYTES = 1 << 28
_GZIP = b"\x1f\x8b"
_META_SCHEMA = {
    "items": {
        "type": "object",
        "properties": {
            "space": {"type": "string"},
            "column": {"type": "string"},
            "arch": {"type": ["object", "array"]},
            "value": {"type": "number"},
            "n_classes": {"type": "integer", "minimum": 1, "maximum": 10**6},
        },
    }
}
_UNITS = {"ms": "ms", "minstr": "Minstr"}

# A value this many times away from its column's median is a unit mix-up or a stuck measurement: the largest
# subnet of a space takes some 20 times the smallest one's time.
_ABSURD_RATIO = 200.0
_SHOWN = 5


@dataclass(frozen=True)
class Column:
    """Meaning of one column of a latency table.

    Attributes
    ----------
    target : str
        Name of the target that was measured.
    unit : str
        "ms", or "Minstr" (millions of guest instructions) where the device was emulated.
    batch : int
    dtype : str
        Of weights and feature maps.
    """

    target: str
    unit: str = "ms"
    batch: int = 1
    dtype: DType = "float32"

    @classmethod
    def of(cls, target: Target) -> Column:
        """What measuring single images on a target gives."""
        return cls(target.name, target.unit, dtype=target.dtype)

    @property
    def series(self) -> str:
        """Heading without the unit: the target, the dtype unless float32, and the batch unless 1."""
        return self.variant.series

    @property
    def name(self) -> str:
        """Heading in the file."""
        return self.variant.column

    @property
    def variant(self) -> Variant:
        """Of the modules that were measured, as far as a heading tells: not their threads."""
        return Variant(self.target, dtype=self.dtype, batch=self.batch, emulated=self.unit == "Minstr")

    @classmethod
    def parse(cls, name: str) -> Column:
        """Read a heading.

        Raises
        ------
        UserError
            If the heading has neither `_ms` nor `_minstr` at its end.
        """
        match = _COLUMN.fullmatch(name)
        if match is None:
            raise UserError(
                f"column {shown(name)} is no latency: a heading ends in _ms or _minstr, as in x86_ms"
            )
        dtype: DType = "float16" if match["dtype"] else "float32"
        return cls(match["target"], _UNITS[match["unit"]], int(match["batch"] or 1), dtype)


@dataclass(frozen=True)
class LatencyTable:
    """Measured latencies of distinct architectures of one space.

    Attributes
    ----------
    archs : tuple of architectures
        n distinct architectures.
    columns : tuple of Column
    values : (n, n_columns) float64 array
        In the unit of each column; positive and finite.
    rows : (n,) int array
        Row of the file that each entry came from.
    space : LayeredSpace
        That the architectures belong to.
    path : str
        Where it was read, for messages.
    meta : tuple of dict
        The lines of the `.meta.jsonl` file beside the table, empty if there is none.
    """

    archs: tuple[Any, ...]
    columns: tuple[Column, ...]
    values: np.ndarray
    rows: np.ndarray
    space: LayeredSpace
    path: str = ""
    meta: tuple[dict[str, Any], ...] = field(default=(), repr=False)

    def __len__(self) -> int:
        return len(self.archs)

    @property
    def n_classes(self) -> int:
        """Of the networks that were measured; 1000 where it is not recorded."""
        return int(next((entry["n_classes"] for entry in self.meta if "n_classes" in entry), 1000))

    def column(self, name: str | None = None) -> tuple[Column, np.ndarray]:
        """Pick a column by its heading (its unit may be left out) or target; without a name, the only one.

        Returns
        -------
        column : Column
        values : (n,) float64 array
            In the column's unit.

        Raises
        ------
        UsageError
            If no column or several fit.
        """
        names = [column.name for column in self.columns]
        fitting = [i for i, column in enumerate(self.columns) if name in (None, column.name)]
        for same in ("series", "target"):
            if name is not None and not fitting:
                fitting = [i for i, column in enumerate(self.columns) if getattr(column, same) == name]
        if len(fitting) != 1:
            problem = "has no column" if not fitting else "has several columns that fit"
            raise UsageError(
                f"{self.path or 'the table'} {problem} {name or ''}: choose one of {', '.join(names)}"
            )
        return self.columns[fitting[0]], self.values[:, fitting[0]]


def _read_bytes(path: Path) -> bytes:
    """Content of a table, unpacked if it is packed."""
    try:
        with path.open("rb") as handle:
            data = handle.read(_MOST_BYTES + 1)
        if data[:2] == _GZIP:
            with gzip.open(io.BytesIO(data)) as packed:
                data = packed.read(_MOST_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    if len(data) > _MOST_BYTES:
        raise UserError(f"{path} is larger than {_MOST_BYTES >> 20} MiB; is it the right file?")
    return data


def _is_packed(path: Path) -> bool:
    """Whatever it is called."""
    try:
        with path.open("rb") as handle:
            return handle.read(2) == _GZIP
    except OSError:
        return False


def _text(data: bytes, path: Path) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a latency table: it is not UTF-8 text") from error


def _rows(text: str, path: Path) -> list[tuple[int, list[str]]]:
    """Rows that are not blank, each with its number in the file."""
    reader = csv.reader(io.StringIO(text, newline=""))
    try:
        return [
            (reader.line_num, [cell.strip() for cell in cells])
            for cells in reader
            if len(cells) > 1 or any(cell.strip() for cell in cells)
        ]
    except csv.Error as error:
        raise UserError(
            f"{path} row {reader.line_num} cannot be read: {error}; correct or delete it"
        ) from error


def _csv_row(arch: str, value: float) -> str:
    cells = io.StringIO()
    csv.writer(cells, lineterminator="").writerow([arch, repr(value)])
    return cells.getvalue()


def _torn_row(path: Path, heading: str = "") -> Torn:
    """`Torn` of a table that `LatencyWriter` writes: its heading, and rows that are noted beside it.

    A row cut within its value would be another value. A table of which nothing is noted is somebody's own.
    """

    def torn(tail: bytes) -> bool:
        if heading.encode().startswith(tail):
            return True
        meta = _read_meta(path)
        noted = (
            _csv_row(json.dumps(entry["arch"], separators=(",", ":")), entry["value"]).encode()
            for entry in meta
            if {"arch", "value"} <= entry.keys()
        )
        return bool(meta) and tail.rstrip(b"\r") not in noted

    return torn


def _meta_path(path: Path) -> Path:
    name = path.name.removesuffix(".gz").removesuffix(".csv")
    return path.with_name(f"{name}.meta.jsonl")


def _read_meta(path: Path) -> tuple[dict[str, Any], ...]:
    beside = _meta_path(path)
    if not beside.exists():
        return ()
    lines = _text(whole_lines(_read_bytes(beside)), beside).split("\n")
    entries: dict[int, Any] = {}
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                entries[number] = parse_json(line)
            except ValueError as error:
                raise UserError(
                    f"{beside} row {number} is not JSON ({error}); repair or delete that line"
                ) from None
    if (problem := first_problem(list(entries.values()), _META_SCHEMA)) is not None:
        (index, *keys), message = problem
        where = f"{beside} row {list(entries)[int(index)]}" + (f", {key_path(keys)}" if keys else "")
        raise UserError(f"{where}: {message}; repair or delete that line")
    return tuple(entries.values())


def _fail(path: Path, problems: Sequence[str]) -> None:
    if problems:
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise UserError(
            f"{path} has {len(problems)} bad row{'s' * (len(problems) > 1)}: "
            f"{shorten('; '.join(problems[:_SHOWN]), 260)}{more}; correct or delete them"
        )


def _value(text: str) -> tuple[float, str]:
    if not _NUMBER.fullmatch(text):
        return np.nan, f"{shown(text, 30)} is not a number"
    value = float(text)
    if np.isnan(value):
        return value, "the latency is NaN"
    if np.isinf(value):
        return value, "the latency is infinite"
    if value <= 0:
        return value, f"the latency is {value:g}, it must be above 0"
    return value, ""


def read_table(path: str | os.PathLike[str], space: LayeredSpace | str | None = None) -> LatencyTable:
    """Read a latency table (plain or gzip), checking every row.

    Parameters
    ----------
    path : path
    space : Space or str, optional
        Space that the architectures must belong to; default the one that the `.meta.jsonl` file names.

    Raises
    ------
    UserError
        If the file cannot be read, is empty, or any row is bad: a latency that is missing, no number, NaN,
        infinite, not above zero or absurd beside its column's median; a duplicate; an architecture outside
        the space; an emulated row among real ones. The message carries row numbers; no row is ever dropped.
    UsageError
        If the space is neither given nor recorded.
    """
    path = Path(path)
    data = _read_bytes(path)
    if data.partition(b"\n")[0].count(b",") == 1 and not _is_packed(path):
        data = whole_lines(data, _torn_row(path))
    lines = _rows(_text(data, path), path)
    if not lines:
        raise UserError(f"{path} is empty: a latency table starts with a heading such as arch,x86_ms")
    header = lines[0][1]
    if header[0] not in ("arch", "ops") or len(header) < 2:
        raise UserError(
            f"{path} is not a latency table: its heading is {shown(','.join(header))}, "
            "expected arch, then a column a target, separated by commas"
        )
    if len(set(header)) != len(header):
        raise UserError(f"{path} has two columns of the same name in its heading")
    columns = tuple(Column.parse(name) for name in header[1:])
    if len({column.unit for column in columns}) > 1:
        raise UserError(
            f"{path} mixes emulated (_minstr) and real (_ms) columns; keep them in separate files"
        )
    meta = _read_meta(path)
    space = _resolve_space(path, space, meta, header[0])
    if len(lines) == 1:
        raise UserError(f"{path} has a heading but no rows; measure some subnets first")

    problems: list[str] = []
    archs: list[Any] = []
    values = np.full((len(lines) - 1, len(columns)), np.nan)
    seen: dict[Any, int] = {}
    numbers = np.array([row for row, _ in lines[1:]])
    for i, (row, cells) in enumerate(lines[1:]):
        if len(cells) != len(header):
            problems.append(f"row {row} has {len(cells)} cells, the heading has {len(header)}")
            continue
        try:
            arch = space.parse(cells[0])
        except UserError as error:
            problems.append(f"row {row}: {error}")
            continue
        if arch in seen:
            problems.append(f"row {row} repeats the architecture of row {seen[arch]}")
            continue
        seen[arch] = row
        archs.append(arch)
        for j, text in enumerate(cells[1:]):
            values[i, j], problem = _value(text)
            if problem:
                problems.append(f"row {row}, {header[1 + j]}: {problem}")
    problems += _other_units(meta, columns[0].unit, seen, space)
    _fail(path, problems)
    medians = np.median(values, axis=0)
    ratios = values / medians
    for i, j in np.argwhere((ratios > _ABSURD_RATIO) | (ratios < 1 / _ABSURD_RATIO)):
        problems.append(
            f"row {numbers[i]}, {header[1 + j]}: {values[i, j]:g} is absurd beside the median {medians[j]:g}"
        )
    _fail(path, problems)
    return LatencyTable(tuple(archs), columns, values, numbers, space, str(path), meta)


def _other_units(
    meta: Iterable[dict[str, Any]], unit: str, rows: Mapping[Any, int], space: LayeredSpace
) -> list[str]:
    """Emulated rows in a table of real ones, or real ones among emulated, as far as `meta` tells."""
    problems = []
    for entry in meta:
        if "column" in entry and "arch" in entry and Column.parse(entry["column"]).unit != unit:
            try:
                row = rows.get(space.parse(json.dumps(entry["arch"])))
            except UserError:  # of another space, so of none of the rows
                continue
            if row is not None:
                problems.append(
                    f"row {row} was measured as {entry['column']}, and the table's unit is {unit}"
                )
    return problems


def _resolve_space(
    path: Path, space: LayeredSpace | str | None, meta: Iterable[dict[str, Any]], heading: str
) -> LayeredSpace:
    recorded = next((entry["space"] for entry in meta if "space" in entry), None)
    if space is None:
        if recorded is None and heading == "ops":
            recorded = "fbnet"
        if recorded is None:
            raise UsageError(f"{path} does not say which space it belongs to; name it with --space")
        space = str(recorded)
    if isinstance(space, str):
        space = get_layered_space(space)
    if recorded is not None and recorded != space.name:
        raise UserError(f"{path} was measured in the space {shorten(recorded, 60)}, not {space.name}")
    if (heading == "ops") != isinstance(space, FBNetSpace):
        raise UserError(f"{path} belongs to another space than {space.name}: its first column is {heading!r}")
    return space


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
        if self.path.suffix == ".gz" or _is_packed(self.path):
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
        if problem := _value(repr(float(value)))[1]:
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
            append_line(_meta_path(self.path), json.dumps(entry, separators=(",", ":")))
            file.append(_csv_row(arch.to_json(), float(value)))
        self.measured[arch] = float(value)
        self.added += 1

    def _file(self) -> AbstractContextManager[LineFile]:
        return nullcontext(self._held) if self._held is not None else self._open(wait=True)

    def _open(self, *, wait: bool) -> LineFile:
        return LineFile(self.path, torn=_torn_row(self.path, self._heading), wait=wait)

    def _read(self) -> dict[Any, float]:
        data = _read_bytes(self.path) if self.path.exists() else b""
        rows = _rows(_text(whole_lines(data, _torn_row(self.path, self._heading)), self.path), self.path)
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
