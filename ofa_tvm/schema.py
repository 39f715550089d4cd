"""Checking plain values by a JSON schema; what is wrong becomes a plain sentence."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from functools import cache
from itertools import islice
from typing import Any

from ofa_tvm.errors import shorten, shown

LARGEST_INTEGER = 2**63 - 1

_KINDS = {
    "object": "a table of keys",
    "array": "a list",
    "string": "text",
    "integer": "a whole number",
    "number": "a finite number",
    "float": "a number",
    "boolean": "true or false",
    "null": "null",
}


# Enough to find the most telling one: a list of 100,000 wrong items has as many problems.
_MOST_PROBLEMS = 100
_MOST_LISTED = 160


def first_problem(content: Any, schema: Mapping[str, Any]) -> tuple[list[str | int], str] | None:
    """Path of the first key that breaks a schema and a plain sentence about it; None if all is well."""
    validator = _validator()(schema)
    found = list(islice(validator.iter_errors(content), _MOST_PROBLEMS))
    # A misspelt key is both unknown and missing, and the first says more.
    found.sort(key=lambda error: (error.validator == "required", list(map(str, error.absolute_path))))
    return _explain(found[0]) if found else None


@cache
def _validator() -> Any:
    """Takes no 64.0 for an integer, as JSON Schema does, and no .inf or .nan for a number."""
    import jsonschema  # takes 0.1 s, and --help needs none of it

    kinds = jsonschema.Draft202012Validator.TYPE_CHECKER.redefine_many(
        {
            "integer": lambda _, value: is_whole(value),
            "float": lambda _, value: is_whole(value) or isinstance(value, float),  # NaN as well
            "number": lambda _, value: is_whole(value) or (isinstance(value, float) and math.isfinite(value)),
        }
    )
    return jsonschema.validators.extend(jsonschema.Draft202012Validator, type_checker=kinds)


def key_path(path: Iterable[str | int]) -> str:
    """Where a value lies, for messages: `phases.0.epochs`."""
    return ".".join(shorten(str(step), 40) for step in path)


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number; True and 64.0 are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def _listed(names: Iterable[Any]) -> str:
    return shorten(", ".join(map(str, names)), _MOST_LISTED)


def _explain(error: Any) -> tuple[list[str | int], str]:
    """Path of the offending key, and a plain sentence about it."""
    path, allowed, value = list(error.absolute_path), error.validator_value, error.instance
    match error.validator:
        case "additionalProperties":
            known = sorted(error.schema["properties"])
            unknown = next(key for key in value if key not in known)
            close = difflib.get_close_matches(str(unknown)[:80], known, n=1)
            hint = f" (did you mean {close[0]}?)" if close else ""
            return [*path, unknown], f"unknown key{hint}; allowed are {_listed(known)}"
        case "required":
            return path, f"the key {next(key for key in allowed if key not in value)!r} is missing"
        case "enum":
            return path, f"{shown(value)} is not one of {_listed(allowed)}"
        case "const":
            return path, f"{shown(value)} is not {allowed!r}"
        case "type":
            kinds = allowed if isinstance(allowed, list) else [allowed]
            names = " or ".join(_KINDS.get(str(kind), str(kind)) for kind in kinds)
            return path, f"{shown(value)} is not {names}"
        case "minimum":
            return path, f"{shown(value)} is below the smallest allowed value, {allowed}"
        case "maximum":
            return path, f"{shown(value)} is above the largest allowed value, {allowed}"
        case "exclusiveMinimum":
            return path, f"{shown(value)} must be more than {allowed}"
        case "pattern" if "propertyNames" in error.absolute_schema_path:
            return [*path, value], "this is no name that is allowed here"
        case "pattern":
            return path, f"{shown(value)} has not the form {allowed}"
        case "minItems" | "maxItems":
            most = "least" if error.validator == "minItems" else "most"
            return path, f"the list has {len(value)} entries; it needs at {most} {allowed}"
        case "minLength":
            return path, "the text is empty"
        case "uniqueItems":
            return path, "an entry of the list is there twice"
        case "not":
            return path, "this key is not allowed here"
        case _:
            return path, shorten(str(error.message), 200)
