"""Tables of text that fit a terminal without cutting a word and without leaving anything out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from rich.cells import cell_len

_GAP = "  "
_MOST_LINES = 3  # of a cell beside others; a longer text goes below its row


@dataclass(frozen=True)
class TextTable:
    """Cells as text; `right` says which columns are aligned to the right."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    right: Sequence[bool]

    def lines(self, width: int | None) -> tuple[list[str], list[str]]:
        """The heading's lines and those of the rows.

        Texts that do not fit beside the others are folded between words, at most three lines high; longer
        ones stand below their row, named by their heading. Where even single words do not fit beside each
        other, every cell has a line.

        Parameters
        ----------
        width
            Columns of the terminal; None folds nothing.
        """
        beside = list(range(len(self.columns)))
        if width is None:
            return self._folded(beside, [self._natural[i] for i in beside], [], 0)
        while True:
            widths = self._widths(beside, width)
            if widths is not None and self._low(beside, widths):
                below = [i for i in range(len(self.columns)) if i not in beside]
                return self._folded(beside, widths, below, width)
            texts = [i for i in beside[1:] if not self.right[i]]
            if not texts:
                break
            beside.remove(max(texts, key=lambda i: self._natural[i]))
        if widths is None:
            return [], self._stacked(width)
        return self._folded(beside, widths, [i for i in range(len(self.columns)) if i not in beside], width)

    @cached_property
    def _natural(self) -> list[int]:
        return [max(map(cell_len, cells)) for cells in self._by_column]

    @cached_property
    def _least(self) -> list[int]:
        # The first column cannot go below its row, so its long words may be folded after commas.
        parts = [_pieces if index == 0 else _words for index in range(len(self.columns))]
        return [
            max(cell_len(word.rstrip()) for cell in cells for word in [*parts_of(cell), ""])
            for parts_of, cells in zip(parts, self._by_column, strict=True)
        ]

    @property
    def _by_column(self) -> list[list[str]]:
        return [[name, *(row[i] for row in self.rows)] for i, name in enumerate(self.columns)]

    def _widths(self, beside: Sequence[int], width: int) -> list[int] | None:
        """Of the columns, the widest of them shrunk until they fit; None if words would have to be cut."""
        room = width - len(_GAP) * (len(beside) - 1)
        widths = {i: self._natural[i] for i in beside}
        while sum(widths.values()) > room:
            able = [i for i in beside if widths[i] > self._least[i]]
            if not able:
                return None
            widths[max(able, key=lambda i: widths[i])] -= 1
        return list(widths.values())

    def _low(self, beside: Sequence[int], widths: Sequence[int]) -> bool:
        return all(
            len(fold(row[i], width)) <= _MOST_LINES
            for i, width in list(zip(beside, widths, strict=True))[1:]
            for row in self.rows
        )

    def _folded(
        self, beside: Sequence[int], widths: Sequence[int], below: Sequence[int], width: int
    ) -> tuple[list[str], list[str]]:
        right = [self.right[i] for i in beside]

        def line_up(cells: Sequence[str]) -> list[str]:
            return _line_up([fold(cells[i], w) for i, w in zip(beside, widths, strict=True)], widths, right)

        lines = []
        for row in self.rows:
            lines += line_up(row)
            lines += [line for i in below for line in _named(self.columns[i], row[i], width, "  ")]
        return line_up(self.columns), lines

    def _stacked(self, width: int) -> list[str]:
        lines: list[str] = []
        for row in self.rows:
            lines += [""] if lines else []
            for name, cell in zip(self.columns, row, strict=True):
                lines += _named(name, cell, width, "")
        return lines


def fold(text: str, width: int) -> list[str]:
    """Lines of a text of at most `width`, between words (or a word's parts, joined by +).

    A longer word goes on after a comma in it. What has none stays in one piece: a path that is cut cannot be
    copied.
    """
    lines, line = [], ""
    for word in _words(text):
        if cell_len(line + word.rstrip()) <= width:
            line += word
            continue
        lines += [line.rstrip()] if line else []
        line = ""
        for piece in _cut(word) if cell_len(word.rstrip()) > width else [word]:
            if line and cell_len(line + piece.rstrip()) > width:
                lines.append(line.rstrip())
                line = ""
            line += piece
    return [*lines, line.rstrip()]


def _words(text: str) -> list[str]:
    """What is not cut, each with the spaces behind it."""
    return re.findall(r"\S+?(?:\s+|(?<=\w\+)(?=\w)|$)", text.strip())


def _pieces(text: str) -> list[str]:
    """The words, each cut after its commas."""
    return [piece for word in _words(text) for piece in _cut(word)]


def _cut(word: str) -> list[str]:
    return re.split(r"(?<=,)(?=\S)", word)


def _line_up(cells: Sequence[Sequence[str]], widths: Sequence[int], right: Sequence[bool]) -> list[str]:
    lines = []
    for number in range(max(map(len, cells))):
        parts = []
        for texts, width, to_the_right in zip(cells, widths, right, strict=True):
            text = texts[number] if number < len(texts) else ""
            padding = " " * (width - cell_len(text))
            parts.append(padding + text if to_the_right else text + padding)
        lines.append(_GAP.join(parts).rstrip())
    return lines


def _named(name: str, cell: str, width: int, indent: str) -> list[str]:
    """A cell below its row, after its heading; nothing of an empty one."""
    if cell in ("", "-"):
        return []
    first, *rest = fold(f"{name}: {cell}" if name else cell, width - len(indent) - 2)
    return [indent + first, *(indent + "  " + line for line in rest)]
