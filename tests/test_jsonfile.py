"""JSON that others wrote: the right value, or one short sentence."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ofa_tvm.errors import UserError, shown
from ofa_tvm.jsonfile import parse_json, read_json

REFUSED = {
    "nested lists": "[" * 50_000,
    "nested and whole": "[" * 500 + "]" * 500,
    "nested tables": '{"a":' * 200 + "1" + "}" * 200,
    "nested in turns": '[{"a":' * 100 + "1" + "}]" * 100,
    "a time of 400 digits": f'{{"t": 1{"0" * 400}}}',
    "5,000 digits": "1" * 5000,
    "20 digits": "92233720368547758080",
    "an exponent": "1e999",
    "NaN": "[NaN]",
    "infinity": "[-Infinity]",
    "a key twice": '{"a": 1, "a": 1}',
    "a long key twice": f'{{"{"a" * 900}": 1, "{"a" * 900}": 1}}',
    "nothing": "",
    "more": "1 2",
    "cut": '{"a": "b',
    "quotes": '"' + '\\"' * 200_000,
    "a byte order mark": "\ufeff1",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_taken_is_refused_in_a_sentence(name: str) -> None:
    start = time.monotonic()
    with pytest.raises(ValueError) as caught:
        parse_json(REFUSED[name])
    assert len(str(caught.value)) < 200 and "\n" not in str(caught.value)
    assert time.monotonic() - start < 5


def test_brackets_in_text_do_not_count() -> None:
    for value in (["[" * 900, '"' * 99 + "]" * 900], [[]] * 900, [{"a": [1, "\\"]}] * 200):
        assert parse_json(json.dumps(value)) == value
    deep: Any = 1
    for _ in range(60):
        deep = [deep]
    assert parse_json(json.dumps(deep)) == deep


def test_what_python_writes_is_read_where_it_is_said() -> None:
    text = json.dumps([float("inf"), -float("inf"), 1.5])
    assert parse_json(text, nan=True) == [float("inf"), -float("inf"), 1.5]
    nan = parse_json(b"NaN", nan=True)
    assert nan != nan


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63) + 1, 2**63 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(PLAIN)
def test_valid_json_is_read_as_json_reads_it(value: Any) -> None:
    assert parse_json(json.dumps(value), nan=True) == value


def test_files(tmp_path: Path) -> None:
    file = tmp_path / "f.json"
    file.write_text('\ufeff{"n": 1}', encoding="utf-8")  # as some editors save it
    schema = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1}}, "required": ["n"]}
    assert read_json(file, schema) == {"n": 1}
    for text, says in {
        '{"n": 0}': "f.json: n: 0 is below",
        "{}": "f.json: the key 'n' is missing",
        "5": "f.json: 5 is not a table",
        "null": "None is not a table",
        '{"n": 1': "f.json is not valid JSON: line 1, column 8",
    }.items():
        file.write_text(text)
        with pytest.raises(UserError, match=says):
            read_json(file, schema)
    file.write_bytes(b"\xff")
    with pytest.raises(UserError, match="is not a text file"):
        read_json(file)
    with pytest.raises(UserError, match="cannot read"):
        read_json("a\0b")
    with pytest.raises(UserError, match="cannot read"):
        read_json(tmp_path)


def test_shown_values_are_short() -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    for value in ("x" * 10**6, b"\0" * 10**6, list(range(10**5)), 10**6000, deep, "\udcff" * 99, "short"):
        assert len(shown(value)) <= 60
    assert (
        shown("short") == "'short'" and shown("a" * 99).startswith("'aaa") and shown("a" * 99).endswith("a'")
    )
    while deep:  # else its end would be a recursion without bounds
        deep = deep.pop()
