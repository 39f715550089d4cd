"""JSON that others wrote: read safely, refused in one short sentence."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from ofa_tvm.errors import UserError, shown
from ofa_tvm.files import read_text
from ofa_tvm.schema import LARGEST_INTEGER, first_problem

_MOST_DEPTH = 64
_MOST_BYTES = 1 << 26
_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_NO_BRACKET = re.compile(r"[^\[\]{}]+")
_LARGE_NUMBER = re.compile(r"\d{19}|\d[eE]")  # what may be too large; all others are left to json's C code


def parse_json(text: str | bytes, *, nan: bool = False) -> Any:
    """Plain values of one JSON document.

    Parameters
    ----------
    nan
        Take NaN and infinities, which Python writes and JSON lacks.

    Raises
    ------
    ValueError
        In one short line with line and column: if it is not JSON, has a key twice, a number that neither 64
        bits nor a float holds, or lists within lists more than 64 deep.
    """
    try:
        decoded = text.decode("utf-8") if isinstance(text, bytes) else text
    except UnicodeDecodeError:
        raise ValueError("it is not text (UTF-8)") from None
    large = _LARGE_NUMBER.search(decoded) is not None
    try:
        value = json.loads(
            decoded,
            parse_int=_integer if large else None,
            parse_float=_float if large else None,
            parse_constant=float if nan else _refuse_constant,
            object_pairs_hook=_table,
        )
    except json.JSONDecodeError as error:
        raise ValueError(f"line {error.lineno}, column {error.colno}: {error.msg}") from None
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    if decoded.count("[") + decoded.count("{") > _MOST_DEPTH and _is_deep(decoded):
        raise ValueError(_TOO_DEEP)
    return value


_TOO_DEEP = f"its lists or tables lie more than {_MOST_DEPTH} deep in each other"


def read_json(path: str | os.PathLike[str], schema: Mapping[str, Any] | None = None) -> Any:
    """Values of a JSON file, checked by a schema if there is one.

    Raises
    ------
    UserError
        If the file cannot be read, is not JSON (with line and column), or breaks the schema (with the key and
        what is allowed there).
    """
    try:
        content = parse_json(read_text(path, _MOST_BYTES))
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from None
    if schema is not None and (problem := first_problem(content, schema)) is not None:
        where, message = ".".join(map(str, problem[0])), problem[1]
        raise UserError(f"{path}: {where + ': ' if where else ''}{message}")
    return content


def _integer(text: str) -> int:
    # Beyond 64 bits nothing here counts, and float() or numpy would fail on it later.
    if len(text) > 20 or abs(int(text)) > LARGEST_INTEGER:
        raise ValueError(f"the number {shown(text, 20)} is too large")
    return int(text)


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"the number {shown(text, 20)} is too large")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number of JSON")


def _table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {shown(twice)} is there twice")
    return table


def _is_deep(text: str) -> bool:
    """Whether valid JSON is nested too deeply: every round takes the innermost brackets away."""
    brackets = _NO_BRACKET.sub("", _STRING.sub("", text))
    for _ in range(_MOST_DEPTH):
        if not brackets:
            return False
        brackets = brackets.replace("[]", "").replace("{}", "")
    return bool(brackets)
