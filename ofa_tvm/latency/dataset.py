"""Latency tables: measured costs of architectures in a CSV file that is never half read.

The first column is `arch` (JSON), then one column a target: `<target>_ms`, `<target>_b<N>_ms` for a batch
other than 1, `<target>_float16_ms` and the like in other number formats, `<target>_minstr` for emulated
devices. What else is known of a row lies in `<name>.meta.jsonl` beside it. Row numbers in messages count
lines of the file, so that the header is row 1. Blank lines and a byte order mark are no rows.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np

from ofa_tvm.errors import UsageError, UserError, shorten, shown
from ofa_tvm.latency.table_file import (
    absurd,
    is_packed,
    latency_of,
    read_bytes,
    read_meta,
    rows_of,
    text_of,
    torn_row,
)
from ofa_tvm.lines import whole_lines
from ofa_tvm.number_formats import DTYPES
from ofa_tvm.spaces import FBNetSpace, LayeredSpace, get_layered_space
from ofa_tvm.targets import DType, Target, Variant

_OTHERS = "|".join(dtype for dtype in DTYPES if dtype != "float32")  # which headings leave out
_COLUMN = re.compile(
    rf"(?P<target>.+?)(?:_(?P<dtype>{_OTHERS}))?(?:_b(?P<batch>[1-9][0-9]{{0,5}}))?_(?P<unit>ms|minstr)"
)
_BATCH = re.compile(r"_b([1-9][0-9]*)(?=_|$)")
_UNITS = {"ms": "ms", "minstr": "Minstr"}

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
        """What measuring on a target gives."""
        return cls(target.name, target.unit, target.batch, target.dtype)

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
        dtype: DType = next((name for name in DTYPES if name == match["dtype"]), "float32")
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
    n_classes : int
        Of the networks that were measured.
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
    n_classes: int = 1000
    path: str = ""
    meta: tuple[dict[str, Any], ...] = field(default=(), repr=False)

    def __len__(self) -> int:
        return len(self.archs)

    @property
    def classes_noted(self) -> bool:
        """Whether the classes are noted beside the table."""
        return _noted_classes(self.meta) is not None

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
        fitting = list(range(len(self.columns)))
        if name is not None:
            readings: tuple[Callable[[Column], bool], ...] = (
                lambda column: column.name == name,
                lambda column: column.series == name,
                lambda column: same_series(column.series, name),
                lambda column: same_series(column.name, name),
                lambda column: column.target == name,
                lambda column: _BATCH.sub(r"_\1", column.series).removeprefix(f"{name}_").isdecimal(),
            )
            every = (list(compress(fitting, map(reading, self.columns))) for reading in readings)
            fitting = next(filter(None, every), [])
        if len(fitting) != 1:
            where, problem = self.path or "the table", f"has {len(fitting)} columns"
            if name is not None:
                meant = shorten(name, 60)
                problem = f"{problem} that {meant} may mean" if fitting else f"has no column {meant}"
            listed = [self.columns[i].name for i in fitting] or [column.name for column in self.columns]
            raise UsageError(f"{where} {problem}: choose one of {', '.join(listed)} with --target-column")
        return self.columns[fitting[0]], self.values[:, fitting[0]]


def same_series(a: str, b: str) -> bool:
    """Whether two names of columns mean the same: the batch may be written `_b64` or `_64`."""
    return _BATCH.sub(r"_\1", a) == _BATCH.sub(r"_\1", b)


def _fail(path: Path, problems: Sequence[str]) -> None:
    if problems:
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise UserError(
            f"{path} has {len(problems)} bad row{'s' * (len(problems) > 1)}: "
            f"{shorten('; '.join(problems[:_SHOWN]), 260)}{more}; correct or delete them"
        )


def read_table(
    path: str | os.PathLike[str], space: LayeredSpace | str | None = None, n_classes: int | None = None
) -> LatencyTable:
    """Read a latency table (plain or gzip), checking every row.

    Parameters
    ----------
    path : path
    space : Space or str, optional
        Space that the architectures must belong to; default the one that the `.meta.jsonl` file names.
    n_classes : int, optional
        Of the networks that were measured; default what the `.meta.jsonl` file says, else as is usual in the
        space.

    Raises
    ------
    UserError
        If the file cannot be read, is empty, or any row is bad: a latency that is missing, no number, NaN,
        infinite, not above zero or absurd beside its column's median; a duplicate; an architecture outside
        the space; an emulated row among real ones. The message carries row numbers; no row is ever dropped.
    UsageError
        If the space is neither given nor recorded, or another number of classes is.
    """
    path = Path(path)
    data = read_bytes(path)
    if data.partition(b"\n")[0].count(b",") == 1 and not is_packed(path):
        data = whole_lines(data, torn_row(path))
    lines = rows_of(text_of(data, path), path)
    if not lines:
        raise UserError(f"{path} is empty: a latency table starts with a heading such as arch,x86_ms")
    header = lines[0][1]
    columns = _columns(path, header)
    meta = read_meta(path)
    space = _resolve_space(path, space, meta, header[0])
    if len(lines) == 1:
        raise UserError(f"{path} has a heading but no rows; measure some subnets first")
    seen, values, problems = _parsed(lines[1:], header, space)
    problems += _other_units(meta, columns[0].unit, seen, space)
    _fail(path, problems)
    numbers = np.array([row for row, _ in lines[1:]])
    _fail(path, absurd(values, numbers, header))
    classes = _resolve_classes(path, n_classes, meta, space)
    return LatencyTable(tuple(seen), columns, values, numbers, space, classes, str(path), meta)


def columns_of(path: str | os.PathLike[str]) -> tuple[Column, ...]:
    """What a table's heading says; raises UserError as `read_table` does."""
    path = Path(path)
    lines = rows_of(text_of(read_bytes(path), path), path)
    return _columns(path, lines[0][1]) if lines else ()


def noted_space(path: str | os.PathLike[str]) -> str | None:
    """The space that a table says it belongs to, by its notes or its heading; None if it does not."""
    path = Path(path)
    noted = next((str(entry["space"]) for entry in read_meta(path) if "space" in entry), None)
    return "fbnet" if noted is None and text_of(read_bytes(path), path).startswith("ops,") else noted


def _columns(path: Path, header: Sequence[str]) -> tuple[Column, ...]:
    if header[0] not in ("arch", "ops") or len(header) < 2:
        raise UserError(
            f"{path} is not a latency table: its heading is {shown(','.join(header))}, "
            "expected arch, then a column a target, separated by commas"
        )
    if len(set(header)) != len(header):
        raise UserError(f"{path} has two columns of the same name in its heading")
    columns = tuple(Column.parse(name) for name in header[1:])
    for i, column in enumerate(columns):
        for other in columns[:i]:
            if same_series(column.series, other.series):
                raise UserError(f"{path}: {other.name} and {column.name} are one column; delete one of them")
    if len({column.unit for column in columns}) > 1:
        raise UserError(
            f"{path} mixes emulated (_minstr) and real (_ms) columns; keep them in separate files"
        )
    return columns


def _parsed(
    lines: Sequence[tuple[int, Sequence[str]]], header: Sequence[str], space: LayeredSpace
) -> tuple[dict[Any, int], np.ndarray, list[str]]:
    """Row number of each architecture, values (n, n_columns), and what is wrong with the rows."""
    problems: list[str] = []
    values = np.full((len(lines), len(header) - 1), np.nan)
    seen: dict[Any, int] = {}
    for i, (row, cells) in enumerate(lines):
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
        for j, text in enumerate(cells[1:]):
            values[i, j], problem = latency_of(text)
            if problem:
                problems.append(f"row {row}, {header[1 + j]}: {problem}")
    return seen, values, problems


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


def _noted_classes(meta: Iterable[dict[str, Any]]) -> int | None:
    return next((int(entry["n_classes"]) for entry in meta if "n_classes" in entry), None)


def _resolve_classes(
    path: Path, given: int | None, meta: Iterable[dict[str, Any]], space: LayeredSpace
) -> int:
    noted = _noted_classes(meta)
    if None not in (given, noted) and given != noted:
        raise UsageError(f"{path} was measured with networks of {noted} classes, not {given}")
    return given or noted or space.usual_classes


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
