"""Commands that the documentation shows exist, with the options it gives them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from ofa_tvm.cli.main import cli

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "targets" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def commands(text: str) -> Iterator[list[str]]:
    """Words after `ofa-tvm`, of commands in code blocks and of those between backquotes."""
    blocks = re.findall(r"^```(?:sh|console|bash)?\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    for line in (*lines, *re.findall(r"`(ofa-tvm [^`\n]+)`", text)):
        found = re.search(r"(?:^|[\s/])ofa-tvm (.*)", line.partition("   #")[0])
        if found:
            yield [word for word in shlex.split(found[1], comments=True) if word != "..."]


def unknown(words: list[str]) -> str | None:
    """What of a command does not exist."""
    command: click.Command = cli
    context = click.Context(cli, info_name="ofa-tvm")
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        name, *words = words
        if name == "VERB":
            return None
        inner = command.get_command(context, name)
        if inner is None:
            return name
        command = inner
    known = {flag for param in command.get_params(context) for flag in (*param.opts, *param.secondary_opts)}
    return next((w for w in words if re.match(r"--?[a-z]", w) and w.partition("=")[0] not in known), None)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_and_their_options_exist(page: Path) -> None:
    wrong = {" ".join(words): found for words in commands(page.read_text()) if (found := unknown(words))}
    assert not wrong


def test_a_wrong_command_would_be_found() -> None:
    block = "```sh\nofa-tvm tune --trails 3\n.venv/bin/ofa-tvm tnue\nofa-tvm targets list\n```\n"
    text = block + "or `ofa-tvm run x -q`"
    assert [unknown(words) for words in commands(text)] == ["--trails", "tnue", None, "-q"]
