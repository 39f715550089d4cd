"""YAML files that people write: read safely, checked by a JSON schema, errors with file, line and key."""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ofa_tvm.errors import UserError

_KINDS = {
    "object": "a table of keys",
    "array": "a list",
    "string": "text",
    "integer": "a whole number",
    "number": "a finite number",
    "boolean": "true or false",
    "null": "null",
}


def read_yaml(path: str | os.PathLike[str], schema: Mapping[str, Any]) -> dict[str, Any]:
    """Read a YAML file whose top level is a table and check it.

    Raises
    ------
    UserError
        If the file cannot be read, is not YAML (with line and column), or breaks the schema (with line, key
        and what is allowed there).
    """
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{file} is not a text file (UTF-8)") from None
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from error
    try:
        content = parse_yaml(text)
        tree = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise UserError(f"{file}{place}: not valid YAML: {problem}") from error
    if not isinstance(content, dict):
        raise UserError(f"{file}: its top level must be a table of keys, such as `name: value`")
    _check(content, tree, file, schema)
    return content


class _Loader(yaml.SafeLoader):
    """Safe, and as YAML 1.2 has it: 3e-2 is a number (PyYAML wants 3.0e-2), and no key comes twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} is there twice", key.start_mark
                )
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else None)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def parse_yaml(text: str) -> Any:
    """Plain values of one YAML document; nothing in it can name a Python object.

    Raises
    ------
    yaml.YAMLError
        If it is not YAML.
    """
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


class _Dumper(yaml.SafeDumper):
    """Keeps a list of plain values on its own line, instead of one value a line."""

    def represent_sequence(
        self, tag: str, sequence: Any, flow_style: bool | None = None
    ) -> yaml.SequenceNode:
        plain = not any(isinstance(item, (list, dict)) for item in sequence)
        return super().represent_sequence(tag, sequence, flow_style=plain or flow_style)


def write_yaml(content: Mapping[str, Any]) -> str:
    """YAML text of a table of plain values, its keys in their given order."""
    return yaml.dump(dict(content), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def first_problem(
    content: Mapping[str, Any], schema: Mapping[str, Any]
) -> tuple[list[str | int], str] | None:
    """Path of the first key that breaks a schema and a plain sentence about it; None if all is well."""
    import jsonschema  # takes 0.1 s, and --help needs none of it

    # JSON Schema takes 64.0 for an integer; range() and indices do not. YAML's .inf and .nan pass any bound.
    kinds = jsonschema.Draft202012Validator.TYPE_CHECKER.redefine_many(
        {
            "integer": lambda _, value: _is_whole(value),
            "number": lambda _, value: (
                _is_whole(value) or (isinstance(value, float) and math.isfinite(value))
            ),
        }
    )
    validator = jsonschema.validators.extend(jsonschema.Draft202012Validator, type_checker=kinds)(schema)
    found = list(validator.iter_errors(content))
    # A misspelt key is both unknown and missing, and the first says more.
    found.sort(key=lambda error: (error.validator == "required", list(map(str, error.absolute_path))))
    return _explain(found[0]) if found else None


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check(content: dict[str, Any], tree: yaml.Node | None, file: Path, schema: Mapping[str, Any]) -> None:
    if (problem := first_problem(content, schema)) is not None:
        path, message = problem
        where = ".".join(map(str, path))
        raise UserError(f"{file}, line {_line(tree, path)}: {where + ': ' if where else ''}{message}")


def _line(tree: yaml.Node | None, path: list[str | int]) -> int:
    """1-based line of the deepest node on `path` that exists."""
    node, line = tree, 1
    for step in path:
        if isinstance(node, yaml.MappingNode):
            pair = next(((key, value) for key, value in node.value if key.value == str(step)), None)
            if pair is None:
                break
            line, node = pair[0].start_mark.line + 1, pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int):
            node = node.value[step]
            line = node.start_mark.line + 1
    return line


def _explain(error: Any) -> tuple[list[str | int], str]:
    """Path of the offending key, and a plain sentence about it."""
    path, allowed, value = list(error.absolute_path), error.validator_value, error.instance
    match error.validator:
        case "additionalProperties":
            known = sorted(error.schema["properties"])
            unknown = next(key for key in value if key not in known)
            close = difflib.get_close_matches(str(unknown), known, n=1)
            hint = f" (did you mean {close[0]}?)" if close else ""
            return [*path, unknown], f"unknown key{hint}; allowed are {', '.join(known)}"
        case "required":
            return path, f"the key {next(key for key in allowed if key not in value)!r} is missing"
        case "enum":
            return path, f"{value!r} is not one of {', '.join(map(str, allowed))}"
        case "const":
            return path, f"{value!r} is not {allowed!r}"
        case "type":
            kinds = allowed if isinstance(allowed, list) else [allowed]
            return path, f"{value!r} is not {' or '.join(_KINDS.get(str(kind), str(kind)) for kind in kinds)}"
        case "minimum":
            return path, f"{value!r} is below the smallest allowed value, {allowed}"
        case "maximum":
            return path, f"{value!r} is above the largest allowed value, {allowed}"
        case "exclusiveMinimum":
            return path, f"{value!r} must be more than {allowed}"
        case "not":
            return path, "this key is not allowed here"
        case _:
            return path, str(error.message)
