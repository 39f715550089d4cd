"""The recorded session: what is folded, and that it is made of commands that exist."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
from documented import ROOT, Command
from test_commands import wrong


@pytest.fixture(scope="module")
def recorder() -> dict[str, object]:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        return runpy.run_path(str(ROOT / "benchmarks" / "first_ten_minutes.py"))
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))


def test_progress_is_folded_and_long_lines_wrap(recorder: dict[str, object]) -> None:
    line, folded = recorder["Line"], recorder["folded"]
    texts = ["start", *(f"train: {i} of 50, about {i} s left" for i in range(9)), "train: 90 s", "x " * 60]
    shown = [*folded([line(10.0 * i, text) for i, text in enumerate(texts)])]  # type: ignore[operator]
    assert shown[:4] == [
        " 0:00  start",
        " 0:10  train: 0 of 50, about 0 s left",
        "       ... 7 lines like this",
        " 1:30  train: 8 of 50, about 8 s left",
    ]
    assert shown[4] == " 1:40  train: 90 s" and len(shown) == 7
    assert max(map(len, shown)) <= 90


def test_what_was_typed_can_be_typed() -> None:
    text = (ROOT / "docs" / "first-ten-minutes.md").read_text()
    typed = [line.partition("$ ")[2] for line in text.splitlines() if line[2:3] == ":" and "  $ " in line]
    words = [line.partition("ofa-tvm ")[2].split() for line in typed]
    assert len(words) >= 7 and [each[0] for each in words][1] == "quickstart"
    assert [wrong(Command(tuple(each))) for each in words] == [None] * len(words)
    assert "first-ten-minutes.md" in (ROOT / "docs" / "getting-started.md").read_text()
    assert Path(ROOT / "mkdocs.yml").read_text().count("first-ten-minutes.md") == 1
