"""Every command that the documentation shows can be typed: verbs, options, choices and what is required."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest
from documented import PAGES, ROOT, Command, blocks, commands

from ofa_tvm.cli.main import cli
from ofa_tvm.errors import UserError

MOST_COLUMNS = 100  # what fits beside the menu without scrolling sideways


def wrong(command: Command) -> str | None:
    """What click says against a command, which is parsed and not run, or the verb against its values."""
    verb: click.Command = cli
    context = click.Context(cli, info_name="ofa-tvm")
    words = list(command.words)
    while isinstance(verb, click.Group) and words and not words[0].startswith("-"):
        name, *words = words
        if name == "VERB":
            return None
        inner = verb.get_command(context, name)
        if inner is None:
            return f"there is no {name}"
        verb, context = inner, click.Context(inner, info_name=name, parent=context)
    if command.mention and (not words or isinstance(verb, click.Group)):
        return None  # a verb's name
    try:
        left_out = [i for i, word in enumerate(words) if word == "..." and not words[i - 1].startswith("-")]
        words = [word for i, word in enumerate(words) if i not in left_out]
        parsed = verb.make_context(verb.name, words).params
        _check_values(parsed, generalized="predictor" in command.words)
    except click.MissingParameter as error:
        return None if command.mention else error.format_message()
    except click.ClickException as error:
        return error.format_message()
    except UserError as error:
        return str(error)
    return None


def _check_values(parsed: dict[str, object], *, generalized: bool) -> None:
    """Names and quantities that verbs read for themselves; a predictor's target may be any device."""
    from ofa_tvm.search.budget import parse_budget, parse_throughput
    from ofa_tvm.spaces import get_space
    from ofa_tvm.targets import get_target

    names = [parsed.get("target"), parsed.get("target_name"), *_several(parsed.get("targets"))]
    for name in () if generalized else filter(None, names):
        if not str(name).endswith(".yaml") and name not in ("NAME", "..."):
            get_target(str(name))
    for text in (parsed.get("latency"), *_several(parsed.get("latencies"))):
        if isinstance(text, str) and text != "...":
            parse_budget(text)
    for text in _several(parsed.get("rates")):
        parse_throughput(str(text), 1)
    if isinstance(space := parsed.get("space"), str) and space != "ofa_pico":  # which its page registers
        sides = parsed.get("resolutions")
        assert isinstance(sides, tuple | None)
        assert set(sides or ()) <= set(get_space(space).resolutions)


def _several(value: object) -> tuple[object, ...]:
    return value if isinstance(value, tuple) else ()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_can_be_typed(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = {str(each): said for each in commands(page.read_text()) if (said := wrong(each))}
    assert not found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_code_needs_no_scrolling_sideways(page: Path) -> None:
    lines = [line for _, block in blocks(page.read_text()) for line in block]
    assert not [line for line in lines if len(line) > MOST_COLUMNS]


def test_a_wrong_command_would_be_found() -> None:
    text = """\
```yaml
space: ofa_digits
```
1. In a list

    ```sh
    ofa-tvm tune --trails 3
    cd demo && .venv/bin/ofa-tvm tnue \\
        --trials 3
    torchrun --no-python ofa-tvm targets list  # a comment
    ofa-tvm compile --target x86
    ofa-tvm compile m.onnx --dtype float17
    ofa-tvm tune --target my-phone
    ofa-tvm search --latency 25
    ```

```console
$ ofa-tvm run a b --top 3
to tune the rest: ofa-tvm nothing
```
or `ofa-tvm run x -y`, `ofa-tvm run`, `ofa-tvm targets`
"""
    said = [wrong(each) for each in commands(text)]
    hints = ["--trails", "no tnue", None, "MODEL", "float17", "my-phone", "25", "--top", "-y", None, None]
    for one, hint in zip(said, hints, strict=True):
        assert (hint in one) if hint and one else one == hint


def test_no_page_was_overlooked() -> None:
    """All of them together show more than this; a parser that loses some would be noticed."""
    shown = [each for page in PAGES for each in commands(page.read_text())]
    assert len(shown) > 150
    text = "".join(page.read_text() for page in PAGES)
    assert len(shown) >= 0.8 * len(re.findall(r"(?<![\w`/-])ofa-tvm [a-z]", text))
