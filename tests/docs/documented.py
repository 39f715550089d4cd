"""The commands that the documentation shows, as words."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "targets" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
_SHELL = ("", "sh", "bash", "console")


@dataclass(frozen=True)
class Command:
    """Words after `ofa-tvm`.

    Attributes
    ----------
    mention
        Between backquotes in a sentence, where what goes without saying may be left out.
    """

    words: tuple[str, ...]
    mention: bool = False

    def __str__(self) -> str:
        return shlex.join(("ofa-tvm", *self.words))


def blocks(text: str) -> Iterator[tuple[str, list[str]]]:
    """Language and lines of each code block, also of those that are indented under a list's item."""
    language, lines = None, list[str]()
    for line in text.splitlines():
        fence = re.match(r"\s*```(.*)", line)
        if fence is None:
            lines.append(line)
        elif language is None:
            language, lines = fence[1].strip().partition(" ")[0], []
        else:
            yield language, lines
            language = None


def commands(text: str) -> Iterator[Command]:
    """Those in blocks of shell commands (of a session only what was typed), then those between backquotes."""
    for language, lines in blocks(text):
        if language not in _SHELL:
            continue
        joined = "\n".join(lines).replace("\\\n", " ").splitlines()
        typed = [line.strip()[2:] for line in joined if line.lstrip().startswith("$ ")]
        for line in typed or joined:
            yield from map(Command, _of_a_line(line))
    prose = re.sub(r"^\s*```.*?^\s*```", "", text, flags=re.DOTALL | re.MULTILINE)
    for paragraph in prose.split("\n\n"):
        for _, found in re.findall(r"(`+)(.+?)\1", " ".join(paragraph.split())):
            for words in _of_a_line(found):
                yield Command(words, mention=True)


def _of_a_line(line: str) -> Iterator[tuple[str, ...]]:
    reader = shlex.shlex(line if "ofa-tvm" in line else "", posix=True, punctuation_chars=True)
    reader.whitespace_split = True
    try:
        words = [*reader]
    except ValueError:
        return  # output, with an apostrophe
    chain: list[str] = []
    for word in (*words, ";"):
        if not re.fullmatch(r"[;&|()<>]+", word):
            chain.append(word)
            continue
        if chain[:2] == ["docker", "build"]:
            chain = []
        starts = [i for i, each in enumerate(chain) if re.fullmatch(r"(.*/)?ofa-tvm", each)]
        if starts and len(chain) > starts[0] + 1:
            yield tuple(chain[starts[0] + 1 :])
        chain = []
