"""Colours and sizes of the report's pictures, and matplotlib figures as SVG that follows the page's theme."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Palette:
    """What each colour is for."""

    ink: str
    soft: str
    line: str
    paper: str
    blue: str
    orange: str
    green: str
    pale: str


# The hues are Okabe and Ito's, which colour-blind readers tell apart, darkened or lightened for contrast.
LIGHT = Palette("#1b1f24", "#5b6570", "#dfe3e8", "#ffffff", "#0b66a8", "#b9500a", "#0a7a55", "#b7c3cf")
DARK = Palette("#e8ebee", "#9aa5b1", "#343b43", "#14181c", "#63b0ea", "#f0924c", "#4fc79b", "#4d5966")

# In SVG each colour is written as a mark of its own, and then replaced by a variable of the page.
_MARKS = Palette(*(f"#0f0a{i:02x}" for i in range(1, 9)))

WIDE_IN, NARROW_IN = 7.4, 3.5
PNG_DPI = 200


@dataclass(frozen=True)
class Style:
    """How one picture is drawn: its colours, and its width in inches."""

    palette: Palette
    width: float

    @property
    def narrow(self) -> bool:
        """Whether it is for a telephone."""
        return self.width < 5

    def figure(self, height: float) -> Figure:
        """An empty picture of this width; `height` in inches."""
        from matplotlib.figure import Figure

        return Figure(figsize=(self.width, height), layout="constrained", facecolor="none")


def css_variables(palette: Palette) -> str:
    """The palette as custom properties."""
    return " ".join(f"--{field.name}: {getattr(palette, field.name)};" for field in fields(palette))


@contextmanager
def drawing(palette: Palette) -> Iterator[None]:
    """matplotlib's settings while a picture is drawn."""
    import matplotlib as mpl

    settings = {
        "svg.fonttype": "none",
        "svg.hashsalt": "ofa-tvm",
        "font.size": 8.5,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": palette.line,
        "axes.labelcolor": palette.soft,
        "axes.facecolor": "none",
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": palette.line,
        "grid.linewidth": 0.6,
        "text.color": palette.ink,
        "xtick.color": palette.line,
        "ytick.color": palette.line,
        "xtick.labelcolor": palette.soft,
        "ytick.labelcolor": palette.soft,
        "legend.frameon": False,
        "lines.solid_capstyle": "round",
    }
    with mpl.rc_context(settings):
        yield


def marked(width: float) -> Style:
    """The style of pictures that go into the page."""
    return Style(_MARKS, width)


def to_svg(figure: Figure, name: str) -> str:
    """A figure drawn with `marked`, for embedding: colours from the page, its fonts, ids of its own."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = svg.replace("<svg ", '<svg aria-hidden="true" focusable="false" ', 1)
    for field in fields(Palette):
        svg = svg.replace(getattr(_MARKS, field.name), f"var(--{field.name})")
    svg = re.sub(r"font(-family)?: ?([^;\"]*?)'DejaVu Sans'[^;\"]*", _inherit_font, svg)
    for identifier in sorted(set(re.findall(r'\bid="([^"]+)"', svg)), key=len, reverse=True):
        own = f"{name}-{identifier}"
        svg = svg.replace(f'id="{identifier}"', f'id="{own}"').replace(f"#{identifier})", f"#{own})")
        svg = svg.replace(f'href="#{identifier}"', f'href="#{own}"')
    return svg.strip()


def _inherit_font(match: re.Match[str]) -> str:
    # "font-family: 'DejaVu Sans', ..." or the shorthand "font: 8.5px 'DejaVu Sans', ...".
    if match[1]:
        return "font-family: inherit"
    return f"font-size: {match[2].strip()}; font-family: inherit"
