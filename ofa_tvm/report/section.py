"""One part of the page, as data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ofa_tvm.report.style import Style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Picture:
    """A picture inside the page: a data URI, what it shows, size in pixels, caption lines, and a mark."""

    uri: str
    alt: str
    size: tuple[int, int]
    caption: str
    good: bool


@dataclass(frozen=True)
class Section:
    """One picture with what it says.

    Attributes
    ----------
    name
        Of its PNG file and its anchor.
    title
        The finding, as a sentence.
    text
        How to read it.
    more
        Further paragraphs.
    pictures
        Photographs and the like, as they are.
    code
        What can be typed: what it is for, and the lines.
    draw
        Draws it in a style; None for a section that is a table alone.
    columns, rows
        Its data, for readers who cannot see the picture.
    open
        Whether the table is shown at once.
    """

    name: str
    title: str
    text: str
    draw: Callable[[Style], Figure] | None
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    open: bool = False
    more: tuple[str, ...] = ()
    pictures: tuple[Picture, ...] = ()
    code: tuple[tuple[str, str], ...] = ()
