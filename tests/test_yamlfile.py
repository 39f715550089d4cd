"""YAML that people write and that we write: the right value, or one short sentence."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ofa_tvm.errors import UserError
from ofa_tvm.yamlfile import parse_yaml, read_yaml, write_yaml

ANY = {"type": "object"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3e-2", 0.03),
        ("1e3", 1000.0),
        ("-.5", -0.5),
        ("007", 7),
        ("010", 10),
        ("0x1F", 31),
        ("0o17", 15),
        ("-12", -12),
        ("yes", True),
        ("Off", False),
        ("~", None),
        ("", None),
        ("-.INF", -math.inf),
        # text: what YAML 1.1 takes for numbers and dates, and what only looks like one
        ("2026-11-28", "2026-11-28"),
        ("2026-99-99", "2026-99-99"),
        ("1_000", "1_000"),
        ("0x_", "0x_"),
        ("1:30", "1:30"),
        ("1e", "1e"),
        ("0b11", "0b11"),
        ("=", "="),
        ("!!str 12", "12"),
        ("!!float 12", 12.0),
        ("[*a, 1]", None),
        ("- &a [1]\n- *a\n", [[1], [1]]),
        ("a: &x {k: 1}\nb: {<<: *x, l: 2}\n", {"a": {"k": 1}, "b": {"k": 1, "l": 2}}),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: Any) -> None:
    if text == "[*a, 1]":
        with pytest.raises(ValueError, match="found undefined alias"):
            parse_yaml(text)
        return
    found = parse_yaml(text)
    assert found == value and type(found) is type(value)


BOMB = (
    "a: &a ["
    + ",".join(["x"] * 9)
    + "]\n"
    + "".join(
        f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n"
        for old, new in zip("abcdefgh", "bcdefghi", strict=True)
    )
)
CHAIN = "a0: &a0 [1]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 2000))
REFUSED = {
    "alias bomb": BOMB,
    "merge bomb": BOMB.replace("[", "{<<: [").replace("]", "]}").replace("[x,x,x,x,x,x,x,x,x]", "{k: 1}"),
    "chain of aliases": CHAIN,
    "an alias of itself": "a: &a [*a]",
    "nested lists": "a: " + "[" * 800,
    "nested tables": "a: " + "{a: " * 5000,
    "nested blocks": "".join("  " * i + "a:\n" for i in range(400)),
    "dashes": "- " * 5000,
    "question marks": "? " * 5000,
    "5,000 digits": "a: " + "1" * 5000,
    "20 digits": "a: 92233720368547758080",
    "hexadecimal digits": "a: 0x" + "f" * 500,
    "tagged text": "a: !!int abc",
    "tagged float": "a: !!float abc",
    "tagged bool": "a: !!bool abc",
    "tagged null": "a: !!null abc",
    "tagged list": "a: !!int [1]",
    "tagged table": "a: !!map [1]",
    "python": "a: !!python/object/apply:os.system [ls]",
    "a long tag": "a: !" + "x" * 9000 + " 1",
    "binary": "a: !!binary aGk=",
    "dates": "a: !!timestamp 2026-99-99",
    "a set": "a: !!set {b}",
    "key twice": "a: 1\na: 2",
    "a long key twice": f"{'a' * 900}: 1\n{'a' * 900}: 2",
    "a list as a key": "? [1]\n: 2",
    "control character": "a: \x01",
    "a tab": "a:\n\t- 1",
    "two documents": "a: 1\n---\nb: 2",
    "unclosed": 'a: "text',
    "a long anchor": "a: *" + "x" * 9000,
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_taken_is_refused_in_a_sentence(name: str, tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_text(REFUSED[name])
    start = time.monotonic()
    with pytest.raises(UserError) as caught:
        read_yaml(tmp_path / "f.yaml", ANY)
    message = str(caught.value).replace(str(tmp_path), "")
    assert len(message) < 300 and "\n" not in message
    assert time.monotonic() - start < 10
    with pytest.raises(ValueError) as plain:
        parse_yaml(REFUSED[name])
    assert len(str(plain.value)) < 200


def test_files_that_hold_no_text(tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="is not a text file"):
        read_yaml(file, ANY)
    file.write_text("#" * (2 << 20))
    with pytest.raises(UserError, match="more than 1,048,576 characters"):
        read_yaml(file, ANY)
    file.write_text("#" * (17 << 20))
    with pytest.raises(UserError, match="larger than 16 MiB"):
        read_yaml(file, ANY)
    with pytest.raises(UserError, match="No such file"):
        read_yaml(tmp_path / "absent.yaml", ANY)
    file.write_text("\ufeffa: 1\n", encoding="utf-8")
    assert read_yaml(file, ANY) == {"a": 1}


def test_values_in_messages_are_short(tmp_path: Path) -> None:
    schema = {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "text": {"type": "string", "pattern": "^a$"},
            "list": {"type": "array", "minItems": 1, "uniqueItems": True},
            "one": {"enum": ["a"]},
            "n": {"type": "integer", "minimum": 1, "maximum": 8},
        },
    }
    for text, says in {
        f"text: {'b' * 9000}": "has not the form",
        f"text: [{'b, ' * 9000}b]": "is not text",
        f"one: {'b' * 9000}": "is not one of a",
        f"{'k' * 1000}: 1": "unknown key",
        "list: []": "needs at least 1",
        f"list: [{'a, ' * 9000}a]": "twice",
        "n: true": "True is not a whole number",
        "n: 1.0": "1.0 is not a whole number",
        "n: 0": "below the smallest",
        "n: 9": "above the largest",
    }.items():
        (tmp_path / "f.yaml").write_text("one: a\n" + text if not text.startswith("one") else text)
        with pytest.raises(UserError, match=says) as caught:
            read_yaml(tmp_path / "f.yaml", schema)
        assert len(str(caught.value).replace(str(tmp_path), "")) < 300


def test_numbers_are_finite_where_a_schema_asks_for_numbers(tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"x": {"type": "number"}}}
    for text in (".inf", "-.inf", ".nan", "1e999", "true"):
        (tmp_path / "f.yaml").write_text(f"x: {text}\n")
        with pytest.raises(UserError, match=r"line 1: x: .* is not a finite number"):
            read_yaml(tmp_path / "f.yaml", schema)


NAMES = [
    "1e3",
    "12e4",
    "\x85x",
    "no",
    "null",
    "~",
    "0x1F",
    "1_0",
    "2026-11-28",
    "1:30",
    "",
    " ",
    "- a",
    "a: b",
]
NAMES += [
    "#x",
    "=",
    "<<",
    "*a",
    "&a",
    "!a",
    "\ufeffx",
    "\u2028",
    "\udcff",
    "a\nb",
    "\t",
    "0o7",
    ".5",
    "1.",
    "%a",
]


@pytest.mark.parametrize("name", NAMES)
def test_class_names_survive(name: str) -> None:
    text = write_yaml({"labels": [name], "as a value": name, name: 1})
    assert parse_yaml(text) == {"labels": [name], "as a value": name, name: 1}


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63) + 1, 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=()), max_size=120)
    | st.from_regex(r"[-+]?[0-9._eExo:]{1,8}", fullmatch=True),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(st.characters(exclude_categories=()), max_size=200), PLAIN, max_size=4))
def test_what_is_written_is_read_back(content: dict[str, Any]) -> None:
    assert parse_yaml(write_yaml(content)) == content


@given(st.text(max_size=30))
def test_other_readers_do_not_take_our_text_for_something_else(text: str) -> None:
    assert yaml.safe_load(write_yaml({"key": text})) == {"key": text}
