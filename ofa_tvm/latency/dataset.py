"""Latency tables: measured costs of architectures in a CSV file that is never half read.

The first column is `arch` (JSON), then one column a target: `<target>_ms`, `<target>_b<N>_ms` for a batch
other than 1, `<target>_float16_ms` in half precision, `<target>_minstr` for emulated devices. What else is
known of a row lies in `<name>.meta.jsonl` beside it. Row numbers in messages count lines of
the file, so that the header is row 1. Blank lines and a byte order mark are no rows.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ofa_tvm.errors import UsageError, UserError, shorten, shown
from ofa_tvm.latency.table_file import (
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


def _fail(path: Path, problems: Sequence[str]) -> None:
    if problems:
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise UserError(
            f"{path} has {len(problems)} bad row{'s' * (len(problems) > 1)}: "
            f"{shorten('; '.join(problems[:_SHOWN]), 260)}{more}; correct or delete them"
        )


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
    _fail(path, _absurd(values, numbers, header))
    return LatencyTable(tuple(seen), columns, values, numbers, space, str(path), meta)


def _columns(path: Path, header: Sequence[str]) -> tuple[Column, ...]:
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


def _absurd(values: np.ndarray, numbers: np.ndarray, header: Sequence[str]) -> list[str]:
    """Values too far from their column's median."""
    medians = np.median(values, axis=0)
    ratios = values / medians
    return [
        f"row {numbers[i]}, {header[1 + j]}: {values[i, j]:g} is absurd beside the median {medians[j]:g}"
        for i, j in np.argwhere((ratios > _ABSURD_RATIO) | (ratios < 1 / _ABSURD_RATIO))
    ]


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
