"""YAML files that people write: read safely, checked by a JSON schema, errors with file, line and key."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from ofa_tvm.errors import UserError, shorten, shown
from ofa_tvm.files import read_text
from ofa_tvm.schema import LARGEST_INTEGER, first_problem, key_path

_MOST_BYTES = 1 << 24
_MOST_CHARACTERS = 1 << 20  # for which PyYAML takes seconds
_MOST_DEPTH = 64
_MOST_NODES = 500_000  # with every alias written out
_CORE = "tag:yaml.org,2002:"


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
        content, tree = _load(read_text(file, _MOST_BYTES))
    except ValueError as error:
        place, _, problem = (
            str(error).rpartition(": ") if str(error).startswith("line ") else ("", "", str(error))
        )
        raise UserError(f"{file}{', ' + place if place else ''}: not valid YAML: {problem}") from None
    if not isinstance(content, dict):
        raise UserError(f"{file}: its top level must be a table of keys, such as `name: value`")
    if (found := first_problem(content, schema)) is not None:
        where, message = key_path(found[0]), found[1]
        raise UserError(f"{file}, line {_line(tree, found[0])}: {where + ': ' if where else ''}{message}")
    return content


def parse_yaml(text: str) -> Any:
    """Plain values of one YAML document; nothing in it can name a Python object.

    Scalars are YAML 1.2's, with yes and no of 1.1: 3e-2 is a number (PyYAML wants 3.0e-2), 2026-11-28 and
    1_000 are text, 010 is ten.

    Raises
    ------
    ValueError
        In one short line, where possible with line and column: if it is not YAML, has a key twice, a whole
        number beyond 64 bits, lists within lists more than 64 deep, or aliases that unfold without end.
    """
    return _load(text)[0]


def _load(text: str) -> tuple[Any, yaml.Node | None]:
    if len(text) > _MOST_CHARACTERS:
        raise ValueError(f"it has more than {_MOST_CHARACTERS:,} characters; large tables are better JSON")
    loader = _Loader(text)
    try:
        tree = loader.get_single_node()
        return None if tree is None else loader.construct_document(tree), tree
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ValueError(place + shorten(" ".join(problem.split()), 120).replace(": ", " ")) from None
    finally:
        loader.dispose()


def _problem(message: str, node: yaml.Node) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, message, node.start_mark)


class _Loader(yaml.SafeLoader):
    """Knows the plain types alone, no key twice, and no document that unfolds to much more than its text."""

    # PyYAML's way to state them: empty, so that nothing is inherited.
    yaml_implicit_resolvers = {}  # noqa: RUF012
    yaml_constructors = {}  # noqa: RUF012

    def __init__(self, text: str) -> None:
        try:
            super().__init__(text)
        except yaml.YAMLError as error:
            raise ValueError(str(error).splitlines()[0]) from None
        self._depth = 0
        # Of every finished list and table: values in it, and how deep they lie, with aliases written out.
        self._extents: dict[int, tuple[int, int]] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        alias = self.check_event(yaml.AliasEvent)
        self._depth += 1
        if self._depth > _MOST_DEPTH:
            event = self.peek_event()
            raise yaml.composer.ComposerError(
                None,
                None,
                f"its lists or tables lie more than {_MOST_DEPTH} deep in each other",
                event.start_mark,
            )
        node = super().compose_node(parent, index)
        self._depth -= 1
        if isinstance(node, yaml.CollectionNode):
            if alias and id(node) not in self._extents:
                raise _problem("the alias is part of what it stands for", node)
            if not alias:
                self._extents[id(node)] = self._extent(node)
        return node

    def _extent(self, node: yaml.CollectionNode) -> tuple[int, int]:
        pairs = isinstance(node, yaml.MappingNode)
        children = [child for pair in node.value for child in pair] if pairs else node.value
        extents = [self._extents.get(id(child), (1, 0)) for child in children]
        size = 1 + sum(size for size, _ in extents)
        depth = 1 + max((depth for _, depth in extents), default=0)
        if size > _MOST_NODES or depth > _MOST_DEPTH:
            raise _problem("its aliases unfold to too much", node)
        return size, depth

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise _problem(f"the key {shown(key.value)} is there twice", key)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _scalar(pattern: str, read: Callable[[str], Any], kind: str) -> Callable[[_Loader, yaml.ScalarNode], Any]:
    """A constructor; a tag such as `!!int` may stand before anything, so the text is checked here as well."""
    form = re.compile(pattern)

    def construct(loader: _Loader, node: yaml.ScalarNode) -> Any:
        text = str(loader.construct_scalar(node))
        if not form.fullmatch(text):
            raise _problem(f"{shown(text)} is not {kind}", node)
        try:
            return read(text)
        except ValueError:
            raise _problem(f"the number {shown(text, 20)} is too large", node) from None

    return construct


def _integer(text: str) -> int:
    if len(text) > 20:
        raise ValueError
    value = int(text, {"0x": 16, "0o": 8}.get(text[:2], 10))
    if abs(value) > LARGEST_INTEGER:
        raise ValueError
    return value


def _float(text: str) -> float:
    return float(re.sub(r"\.(?=inf|nan)", "", text.lower()))


_TYPES: dict[str, tuple[str, str, Callable[[str], Any], str]] = {
    # tag: pattern, first characters, reader, and what messages call it
    "bool": (
        "yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF",
        "yYnNtTfFoO",
        lambda text: text.lower() in ("yes", "true", "on"),
        "true or false",
    ),
    "int": ("[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789", _integer, "a whole number"),
    "float": (
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
        _float,
        "a number",
    ),
    "null": ("~|null|Null|NULL|", "~nN", lambda text: None, "null"),
}
_RESOLVERS = [
    *((tag, re.compile(f"^(?:{pattern})$"), first) for tag, (pattern, first, _, _) in _TYPES.items()),
    ("merge", re.compile("^<<$"), "<"),
]


class _Dumper(yaml.SafeDumper):
    """Keeps a list of plain values on its own line, and quotes all text that would be read as another."""

    def represent_sequence(
        self, tag: str, sequence: Any, flow_style: bool | None = None
    ) -> yaml.SequenceNode:
        plain = not any(isinstance(item, (list, dict)) for item in sequence)
        return super().represent_sequence(tag, sequence, flow_style=plain or flow_style)

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_text(self, text: str) -> yaml.ScalarNode:
        # Line breaks of other kinds (\x85) and lone surrogates survive as escapes only.
        return self.represent_scalar(_CORE + "str", text, style=None if text.isprintable() else '"')


for _tag, (_pattern, _, _read, _kind) in _TYPES.items():
    _Loader.add_constructor(_CORE + _tag, _scalar(_pattern, _read, _kind))
for _tag in ("str", "seq", "map"):
    _Loader.add_constructor(_CORE + _tag, getattr(yaml.SafeLoader, f"construct_yaml_{_tag}"))
_Loader.add_constructor(None, yaml.SafeLoader.construct_undefined)  # type: ignore[type-var]
for _tag, _form, _first in _RESOLVERS:
    # The dumper keeps YAML 1.1's besides: other programs shall not take text for numbers or dates either.
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(_CORE + _tag, _form, list(_first))
_Loader.add_implicit_resolver(_CORE + "null", re.compile("^$"), [""])
_Dumper.add_representer(str, _Dumper.represent_text)


def write_yaml(content: Mapping[str, Any]) -> str:
    """YAML text of a table of plain values, its keys in their given order."""
    return yaml.dump(dict(content), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


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
