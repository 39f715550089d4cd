"""ofa-tvm info."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ofa_tvm.cli.console import Console, common_options
from ofa_tvm.cli.options import INPUT_PATH

if TYPE_CHECKING:
    from ofa_tvm.workflow.info import Description

_WIDEST, _NARROWEST = 110, 40
_UNIT = re.compile(r"(?<=\d) (?=(?:%|ms|us|s|Minstr|kB|MB|GB|UTC|bytes|pixels)\b|%)")
_KEPT = "\0"  # a blank at which no line ends


@click.command(short_help="Say what a file or folder is, and what can be done with it.")
@click.argument("path", type=INPUT_PATH)
@common_options
def command(console: Console, path: Path) -> int:
    """Say what PATH is, for what, how it was made, whether it is of use here, and what to do with it next.

    PATH is an artefact folder, a compiled .so, an ONNX file, a checkpoint (own, of an unfinished training, or
    official), a tuning log or a folder of them, a predictor, a table of latencies or accuracies, a list of
    architectures, a target descriptor, or a project's folder. Nothing in it is run.

    Exits with 1 if PATH is damaged; being made for another machine is no failure.
    """
    from ofa_tvm.workflow.info import describe

    found = describe(path)
    console.print(*_lines(found, _width()))
    console.result(found.to_json())
    return 1 if found.damaged else 0


def _width() -> int:
    """Columns of the terminal, or of COLUMNS, else 80."""
    return max(_NARROWEST, min(shutil.get_terminal_size((80, 24)).columns, _WIDEST))


def _lines(found: Description, width: int) -> Iterator[str]:
    """A description for people."""
    yield from _wrapped(f"{found.path}: {found.summary}", width)
    label = max((len(fact.name) for fact in found.facts), default=0) + 2
    for fact in found.facts:
        yield from _wrapped(fact.text, width, f"  {fact.name:<{label}}", " " * (label + 2))
    if found.contents:
        yield "in it:"
        longest = max(len(_inside(found.path, each.path)) for each in found.contents)
        gap = min(longest, width // 2) + 2
        for each in found.contents:
            yield from _wrapped(
                each.what, width, f"  {_inside(found.path, each.path):<{gap}}", " " * (gap + 2)
            )
    for problem in found.problems:
        yield from _wrapped(problem, width, "damaged: " if found.damaged else "not usable here: ", "  ")
    if found.usable and found.facts:
        yield "usable here: yes"
    for note in found.notes:
        yield from _wrapped(note, width, "note: ", "  ")
    if found.steps:
        yield "next:"
    for step in found.steps:
        yield from _wrapped(step.what, width, "  # ", "  # ")
        yield from _command(step.command, width)


def _inside(folder: Path, path: Path) -> str:
    """A path in a folder as it is called there; a folder ends in a slash."""
    name = path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)
    return f"{name}/" if path.is_dir() else name


def _wrapped(text: str, width: int, first: str = "", rest: str = "  ") -> list[str]:
    """Lines of a text; words, as paths, are never cut, and numbers stay with their units."""
    lines = textwrap.wrap(
        _UNIT.sub(_KEPT, text),
        width,
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [line.replace(_KEPT, " ") for line in lines] or [first.rstrip()]


def _command(text: str, width: int) -> Iterator[str]:
    """A command, continued by backslashes before its options where it is too long for a line."""
    line = "  "
    for part in re.split(r" (?=--[a-z]|-[on] |&& )", text):
        if len(line) + len(part) + 2 > width and line.strip():
            yield f"{line.rstrip()} \\"
            line = "      "
        line += f"{part} "
    yield line.rstrip()
