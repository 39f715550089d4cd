"""Tables as text: nothing is cut and nothing is left out, however narrow the terminal is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ofa_tvm.cli.tables import TextTable, fold

WORD = st.text("abcxyz", min_size=1, max_size=12)
CELL = st.lists(WORD, min_size=1, max_size=12).map(" ".join)
ARCH = '{"ks":[' + ",".join("3" * 20) + '],"e":[' + ",".join("6" * 20) + '],"d":[4,4,4,4,4],"r":192}'


@st.composite
def tables(draw: st.DrawFn) -> TextTable:
    columns = draw(st.lists(CELL, min_size=1, max_size=6))
    rows = draw(
        st.lists(st.lists(CELL, min_size=len(columns), max_size=len(columns)), min_size=1, max_size=4)
    )
    right = draw(st.lists(st.booleans(), min_size=len(columns), max_size=len(columns)))
    return TextTable(columns, rows, right)


@given(tables(), st.integers(20, 120))
def test_every_word_is_there_in_one_piece(table: TextTable, width: int) -> None:
    header, lines = table.lines(width)
    assert max(map(len, [*header, *lines])) <= width
    words = [word.rstrip(":") for line in lines for word in line.split()]
    for row in table.rows:
        for word in " ".join(row).split():
            assert word in words
            words.remove(word)
    named = [*words, *" ".join(header).split()]  # what is left are headings of cells below their row
    assert {word for name in table.columns for word in name.split()} <= set(named)


@given(tables())
def test_without_a_width_a_row_is_a_line(table: TextTable) -> None:
    header, lines = table.lines(None)
    assert len(header) == 1 and len(lines) == len(table.rows)


def test_a_text_that_would_be_tall_stands_below_its_row() -> None:
    table = TextTable(["subnet", "M MACs", "architecture"], [["first", "12.3", ARCH]], [False, True, False])
    header, lines = table.lines(80)
    assert [line.split() for line in (*header, lines[0])] == [["subnet", "M", "MACs"], ["first", "12.3"]]
    assert "".join(line.strip() for line in lines[1:]) == f"architecture: {ARCH}".replace(": {", ":{")
    assert max(map(len, lines)) <= 80
    assert table.lines(200) == table.lines(None)


def test_where_nothing_fits_side_by_side_each_cell_has_a_line() -> None:
    table = TextTable(["first", "second"], [["a" * 30, "1" * 30], ["b", "2"]], [False, True])
    assert table.lines(40) == ([], ["first: " + "a" * 30, "second: " + "1" * 30, "", "first: b", "second: 2"])


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", [""]),
        ("one two three", ["one two", "three"]),
        ("conv+add+relu g++ c++", ["conv+", "add+", "relu", "g++ c++"]),
        ("/a/path/that/is/long x", ["/a/path/that/is/long", "x"]),
        ("[1,2,3,4,5,6]", ["[1,2,3,", "4,5,6]"]),
        ("a [1,2,3,4,5,6] b", ["a", "[1,2,3,", "4,5,6]", "b"]),
    ],
)
def test_folding(text: str, lines: list[str]) -> None:
    assert fold(text, 7) == lines
