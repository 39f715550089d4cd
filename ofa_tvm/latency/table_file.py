"""The files of a latency table, below the meaning of their columns: rows, notes beside them, torn ends."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ofa_tvm.errors import UserError, shown
from ofa_tvm.jsonfile import parse_json
from ofa_tvm.lines import Torn, whole_lines
from ofa_tvm.schema import first_problem, key_path

_NUMBER = re.compile(
    r"[-+]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|inf|infinity|nan)", re.IGNORECASE
)
_MOST_BYTES = 1 << 28
# A value this many times away from its column's median is a unit mix-up or a stuck measurement: the largest
# subnet of a space takes some 20 times the smallest one's time.
_ABSURD_RATIO = 200.0
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


def read_bytes(path: Path) -> bytes:
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


def is_packed(path: Path) -> bool:
    """Whatever it is called."""
    try:
        with path.open("rb") as handle:
            return handle.read(2) == _GZIP
    except OSError:
        return False


def text_of(data: bytes, path: Path) -> str:
    """Content as text, without a byte order mark."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a latency table: it is not UTF-8 text") from error


def rows_of(text: str, path: Path) -> list[tuple[int, list[str]]]:
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


def csv_row(arch: str, value: float) -> str:
    """A row as it is written."""
    cells = io.StringIO()
    csv.writer(cells, lineterminator="").writerow([arch, repr(value)])
    return cells.getvalue()


def torn_row(path: Path, heading: str = "") -> Torn:
    """`Torn` of a table that `LatencyWriter` writes: its heading, and rows that are noted beside it.

    A row cut within its value would be another value. A table of which nothing is noted is somebody's own.
    """

    def torn(tail: bytes) -> bool:
        if heading.encode().startswith(tail):
            return True
        meta = read_meta(path)
        noted = (
            csv_row(json.dumps(entry["arch"], separators=(",", ":")), entry["value"]).encode()
            for entry in meta
            if {"arch", "value"} <= entry.keys()
        )
        return bool(meta) and tail.rstrip(b"\r") not in noted

    return torn


def meta_path(path: Path) -> Path:
    """Where what is known of a table's rows lies."""
    name = path.name.removesuffix(".gz").removesuffix(".csv")
    return path.with_name(f"{name}.meta.jsonl")


def read_meta(path: Path) -> tuple[dict[str, Any], ...]:
    """The lines beside a table; none if there is no such file.

    Raises
    ------
    UserError
        If a line is no JSON, or not of the kind that is written there.
    """
    beside = meta_path(path)
    if not beside.exists():
        return ()
    lines = text_of(whole_lines(read_bytes(beside)), beside).split("\n")
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


def latency_of(text: str) -> tuple[float, str]:
    """What a cell says, and what is wrong with it, "" if nothing is."""
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


def absurd(values: np.ndarray, numbers: np.ndarray, header: Sequence[str]) -> list[str]:
    """Values too far from their column's median."""
    medians = np.median(values, axis=0)
    ratios = values / medians
    return [
        f"row {numbers[i]}, {header[1 + j]}: {values[i, j]:g} is absurd beside the median {medians[j]:g}"
        for i, j in np.argwhere((ratios > _ABSURD_RATIO) | (ratios < 1 / _ABSURD_RATIO))
    ]
