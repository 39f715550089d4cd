"""Tables of measured accuracies: CSV files with the column `arch` first, and one of accuracies."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ofa_tvm.errors import UsageError, UserError, shorten, shown
from ofa_tvm.latency.table_file import read_bytes, rows_of, text_of
from ofa_tvm.spaces import Arch
from ofa_tvm.spaces.space import Space

_NAMES = ("accuracy", "top1", "acc")
_SHOWN = 5


@dataclass(frozen=True)
class AccuracyTable:
    """Measured accuracies of distinct subnets.

    Attributes
    ----------
    archs : tuple of Arch
    accuracies : (n,) array
        Shares of 1. The mean where a subnet was measured several times.
    column : str
        Heading that they are from.
    rows : int
        Rows of the file.
    """

    archs: tuple[Arch, ...]
    accuracies: np.ndarray
    column: str
    rows: int


def read_accuracies(path: str | os.PathLike[str], space: Space, column: str | None = None) -> AccuracyTable:
    """Read a table of accuracies (plain or gzip), in shares of 1 or in percent, checking every row.

    Parameters
    ----------
    column : heading; by default the only one that names accuracies

    Raises
    ------
    UserError
        If the file cannot be read, has no rows, or a row is bad: an architecture outside the space, or no
        accuracy from 0 to 1 (0 to 100 in percent). The message carries row numbers; none is ever dropped.
    UsageError
        If the column is missing, or none or several fit.
    """
    path = Path(path)
    (_, header), *rows = rows_of(text_of(read_bytes(path), path), path) or [(0, [""])]
    if header[0] != "arch" or not rows:
        raise UserError(
            f"{path} is no table of accuracies: it needs a heading such as arch,top1 and rows below it"
        )
    at = _column(path, header, column)
    found: dict[Arch, list[float]] = {}
    problems = []
    for number, cells in rows:
        try:
            if len(cells) != len(header):
                raise UserError(f"{len(cells)} cells, the heading has {len(header)}")
            found.setdefault(space.parse(cells[0]), []).append(_accuracy(cells[at]))
        except UserError as error:
            problems.append(f"row {number}: {error}")
    if problems:
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        listed = shorten("; ".join(problems[:_SHOWN]), 260)
        raise UserError(f"{path}: {listed}{more}; correct or delete them")
    values = np.array([np.mean(several) for several in found.values()])
    # Subnets as bad as 1 % would be worse than guessing among 100 classes.
    percent = max(max(several) for several in found.values()) > 1.0
    return AccuracyTable(tuple(found), values / 100 if percent else values, header[at], len(rows))


def _accuracy(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise UserError(f"{shown(text, 30)} is not a number") from None
    if not 0 <= value <= 100:
        raise UserError(f"the accuracy is {value:g}, it must be from 0 to 1, or to 100 in percent")
    return value


def _column(path: Path, header: list[str], name: str | None) -> int:
    fitting = [
        i
        for i, heading in enumerate(header)
        if i and (heading == name if name is not None else heading.lower().startswith(_NAMES))
    ]
    if len(fitting) != 1:
        problem = "has no column" if not fitting else "has several columns"
        what = (
            f"{problem} {shorten(name, 60)}" if name else f"{problem} of accuracies that can be told by name"
        )
        raise UsageError(f"{path} {what}: choose one of {', '.join(header[1:])} with --column")
    return fitting[0]
