"""The report's page and pictures."""

from __future__ import annotations

import io
import re
from pathlib import Path

from ofa_tvm import __version__
from ofa_tvm.files import write_atomic
from ofa_tvm.report.content import Content, Deployed
from ofa_tvm.report.sections import Section, sections
from ofa_tvm.report.style import (
    DARK,
    LIGHT,
    NARROW_IN,
    PNG_DPI,
    WIDE_IN,
    Style,
    css_variables,
    drawing,
    marked,
    to_svg,
)
from ofa_tvm.report.units import cost_scale, millions, times

PAGE = "report.html"


def write_report(content: Content, folder: Path) -> list[Path]:
    """Write `report.html` and a PNG of each picture; returns all paths, the page first.

    Raises
    ------
    UserError
        If a file cannot be written.
    """
    made = sections(content)
    page = folder / PAGE
    write_atomic(page, render(content, made))
    paths = [page]
    for section in made:
        if section.draw is None:
            continue
        with drawing(LIGHT):
            buffer = io.BytesIO()
            figure = section.draw(Style(LIGHT, WIDE_IN))
            figure.savefig(
                buffer, format="png", dpi=PNG_DPI, facecolor=LIGHT.paper, metadata={"Software": None}
            )
        path = folder / f"{section.name}.png"
        write_atomic(path, buffer.getvalue())
        paths.append(path)
    return paths


def render(content: Content, made: list[Section]) -> str:
    """The page: one file, nothing loaded from elsewhere."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ofa_tvm.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shipped = content.artefacts[0] if content.artefacts else None
    headline, lead = _headline(content, shipped)
    tiles = [] if shipped is None else _tiles(content, shipped)
    environment.filters["tie"] = _tie
    return environment.get_template("report.html.j2").render(
        title=content.title,
        headline=headline,
        lead=lead,
        tiles=tiles,
        columns=_columns(len(tiles)),
        sections=[(section, _svgs(section)) for section in made],
        light=css_variables(LIGHT),
        dark=css_variables(DARK),
        footer=_footer(shipped),
    )


def _headline(content: Content, shipped: Deployed | None) -> tuple[str, str]:
    if shipped is None:
        return content.title, f"Space {content.space.name}. Nothing has been shipped yet."
    latency, accuracy = shipped.latency, shipped.accuracy.measured
    if latency.measured is None:
        return f"{shipped.name}: for {shipped.target}, not measured", _lead(shipped)
    scale, unit = cost_scale(latency.measured, latency.unit)
    text = f"{scale * latency.measured:.3g} {unit} on {shipped.target}"
    if accuracy is not None:
        text += f", {100 * accuracy:.1f} % right"
    return text, _lead(shipped)


def _lead(shipped: Deployed) -> str:
    latency, accuracy = shipped.latency, shipped.accuracy
    parts = []
    if shipped.space is not None:
        parts.append(f"A subnet of {shipped.space.name}, compiled for {shipped.target}.")
    if latency.budget is not None and latency.measured is not None:
        scale, unit = cost_scale(latency.budget, latency.unit)
        kept = "keeps" if latency.measured <= latency.budget else "breaks"
        what = "count of instructions" if latency.unit == "Minstr" else "measured median"
        parts.append(f"Its {what} {kept} the budget of {scale * latency.budget:.4g} {unit}.")
    if accuracy.data and accuracy.measured is not None:
        parts.append(f"Accuracy was measured through the compiled module: {accuracy.data}.")
    return " ".join(parts)


def _tiles(content: Content, shipped: Deployed) -> list[tuple[str, str]]:
    """A few figures with their names, as many as fill whole rows."""
    latency, accuracy, check = shipped.latency, shipped.accuracy.measured, shipped.manifest.check
    tiles = []
    if latency.measured is not None:
        scale, unit = cost_scale(latency.measured, latency.unit)
        spread = "" if not shipped.spread else f" ± {scale * shipped.spread:.2g}"
        what = "instructions, emulated" if latency.unit == "Minstr" else "measured median"
        tiles.append((f"{scale * latency.measured:.3g}{spread} {unit}", what))
        if latency.budget is not None:
            tiles.append((f"{scale * latency.budget:.3g} {unit}", "budget"))
    if accuracy is not None:
        tiles.append((f"{100 * accuracy:.2f} %", "test accuracy"))
    row = None if content.comparison is None else content.comparison.row_of(shipped.arch, check.dtype)
    if row is not None and row.onnxruntime is not None:
        ratio, how = times(row.onnxruntime, row.measured, "ONNX Runtime").split(" times ")
        tiles.append((f"{ratio} x", how))
    if shipped.arch is not None and shipped.space is not None:
        tiles.append((millions(shipped.space.macs(shipped.arch, shipped.n_classes)), "multiply-adds"))
    if latency.measured is not None and latency.predicted is not None:
        tiles.append((f"{scale * latency.predicted:.3g} {unit}", "predicted"))
    if check.tuned_fraction is not None:
        tiles.append((f"{100 * check.tuned_fraction:.0f} %", "kernel time tuned"))
    if check.max_rel_difference is not None:
        tiles.append((f"{check.max_rel_difference:.0e}", "difference to ONNX Runtime"))
    return tiles[: max(n for n in (0, *_COLUMNS) if n <= len(tiles))]


_COLUMNS = {1: (1, 1), 2: (2, 2), 3: (3, 1), 4: (4, 2), 6: (3, 2), 8: (4, 2)}
"""Tiles -> columns on a wide page and on a telephone, so that no row is left half empty."""


def _columns(tiles: int) -> tuple[int, int]:
    return _COLUMNS.get(tiles, (1, 1))


def _footer(shipped: Deployed | None) -> str:
    how = None if shipped is None else shipped.latency.how
    measured = ""
    if how is not None and how.instructions is not None:
        measured = f"Instructions: counted on {how.machine}, {how.date[:10]}. "
    elif how is not None:
        measured = (
            f"Latency: median of {how.repeats} samples on {how.machine}, {how.threads} "
            f"thread{'s' if how.threads != 1 else ''}, {how.date[:10]}. "
        ) + (f"Meanwhile {how.slow}. " if how.slow else "")
    return f"{measured}Written by ofa-tvm {__version__}."


def _tie(text: str) -> str:
    """No line break between a number and its unit, nor inside names such as cortex-a72."""
    text = re.sub(r"(?<=\d) (?=(?:[µmu]?s|M|Minstr|points|x|±|\d)\b|[%±])|(?<=\d x) (?=\d)", "\u00a0", text)
    return re.sub(r"(?<=[a-z0-9])-(?=[a-z]*\d)", "\u2011", text)


def _svgs(section: Section) -> dict[str, str]:
    if section.draw is None:
        return {}
    made = {}
    for size, width in (("wide", WIDE_IN), ("narrow", NARROW_IN)):
        style = marked(width)
        with drawing(style.palette):
            made[size] = to_svg(section.draw(style), f"{section.name}-{size}")
    return made
