"""The session of docs/first-ten-minutes.md, recorded anew: `python benchmarks/first_ten_minutes.py`.

Types what a newcomer would into a shell, in a fresh folder with an empty cache, and writes what was answered,
each line with the time at which it came. Lines of progress that differ in their figures alone are folded.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import tempfile
import textwrap
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from provenance import provenance

PAGE = Path(__file__).resolve().parent.parent / "docs" / "first-ten-minutes.md"
COLUMNS = 80
_FOLDED_FROM = 4  # lines that differ in figures alone


@dataclass(frozen=True)
class Line:
    """What came, and seconds after the session's start."""

    second: float
    text: str


@dataclass(frozen=True)
class Step:
    """A command, why it is typed, and what it answered."""

    title: str
    command: str
    lines: tuple[Line, ...]
    start: float


def steps(folder: Path) -> Iterator[tuple[str, str]]:
    """What is typed, and why; later commands depend on what earlier ones left."""
    yield "What this machine can do", "ofa-tvm doctor"
    yield "The whole loop, from untrained weights to a measured module", "ofa-tvm quickstart"
    yield "Classify pictures: a file's name says the digit", "ofa-tvm run demo/deploy demo/images/*.png"
    yield "How its latency spreads", "ofa-tvm bench demo/deploy --seconds 5"
    yield "What lies in the folder, and what to do with it", "ofa-tvm info demo"
    budget = json.loads((folder / "demo" / "quickstart.json").read_text())["budget"]["value"]
    smaller = f"{800 * budget:.3g}us"
    yield (
        f"A smaller budget, {smaller}: nothing is trained or tuned again",
        f"cd demo && ofa-tvm search --target x86 --latency {smaller} -o faster",
    )
    yield "Both, side by side, as a page", "cd demo && ofa-tvm report deploy faster"


def run(command: str, folder: Path, environment: dict[str, str], start: float) -> tuple[Line, ...]:
    """Type a command into a shell; standard output and standard error as they come.

    Raises
    ------
    SystemExit
        If it fails: a session that goes wrong is not published.
    """
    process = subprocess.Popen(
        ["bash", "-c", command],
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if process.stdout is None:
        raise RuntimeError("a pipe was asked for")
    lines = []
    for text in process.stdout:
        lines.append(Line(time.monotonic() - start, text.rstrip().replace(str(folder), "~")))
        print(clock(lines[-1].second), lines[-1].text, flush=True)
    if process.wait():
        raise SystemExit(f"{command} failed with {process.returncode}")
    return tuple(lines)


def clock(second: float) -> str:
    """Minutes and seconds."""
    return f"{int(second) // 60:2}:{int(second) % 60:02}"


def folded(lines: Sequence[Line]) -> Iterator[str]:
    """Lines with their times, without those in between that differ in their figures alone."""
    for _, group in groupby(lines, lambda line: re.sub(r"[\d.,]+( min| s)?", "#", line.text)):
        alike = list(group)
        if len(alike) < _FOLDED_FROM:
            yield from (shown for line in alike for shown in _wrapped(line))
            continue
        yield from _wrapped(alike[0])
        yield f"       ... {len(alike) - 2} lines like this"
        yield from _wrapped(alike[-1])


def _wrapped(line: Line) -> Iterator[str]:
    parts = textwrap.wrap(line.text, COLUMNS, subsequent_indent="    ", replace_whitespace=False) or [""]
    parts = parts if len(line.text) > COLUMNS else [line.text]
    yield f"{clock(line.second)}  {parts[0]}".rstrip()
    yield from (f"       {part}" for part in parts[1:])


def page(done: Sequence[Step], seconds: float, load: Sequence[float]) -> str:
    """The recorded session as Markdown."""
    found = provenance()
    versions = ", ".join(f"{name} {of}" for name, of in found["versions"].items())
    parts = [
        "# The first ten minutes",
        "One session as it was typed and answered, from an empty folder and an empty cache on; the time "
        "before each line is minutes and seconds since the start. It is recorded by `python "
        "benchmarks/first_ten_minutes.py`, which folds lines of progress that differ in their figures alone.",
        f"{found['machine']}, {found['date'][:10]}; {versions}. {_beside(seconds, load)}",
    ]
    for step in done:
        parts += [
            f"## {step.title}",
            "\n".join(("```text", f"{clock(step.start)}  $ {step.command}", *folded(step.lines), "```")),
        ]
    parts.append(
        "What next: [your own images](own-images.md), [your own device](tune-and-search.md), "
        "[what the report shows](report.md), [questions](faq.md)."
    )
    return "\n\n".join("\n".join(textwrap.wrap(p, 118)) if p[0] not in "#`" else p for p in parts) + "\n"


def _beside(seconds: float, load: Sequence[float]) -> str:
    cores = os.cpu_count() or 1
    text = f"The session took {seconds / 60:.0f} minutes"
    if max(load) > 1.5 * cores:
        text += (
            f"; other work kept the machine busy (load {load[0]:.1f} when it began, {load[1]:.1f} when it "
            f"ended, on {cores} cores), so that on an idle one it takes a fraction of that"
        )
    return text + "."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=PAGE)
    options = parser.parse_args()
    before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="ofa-tvm-session-") as name:
        folder = Path(name)
        environment = os.environ | {
            "COLUMNS": str(COLUMNS),
            "OFA_TVM_CACHE": str(folder / ".cache"),
            "PYTHONUNBUFFERED": "1",
        }
        start, done = time.monotonic(), []
        for title, command in steps(folder):
            began = time.monotonic() - start
            print(clock(began), "$", command, flush=True)
            done.append(Step(title, command, run(command, folder, environment, start), began))
        seconds = time.monotonic() - start
    options.output.write_text(page(done, seconds, (before, os.getloadavg()[0])))


if __name__ == "__main__":
    main()
