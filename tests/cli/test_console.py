"""What long work shows: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

from ofa_tvm.cli.console import Console, RichProgress

WORK = """
from ofa_tvm.cli.console import RichProgress
progress = RichProgress()
with progress.task("outer", total=2) as outer:
    for epoch in range(2):
        with progress.task(f"inner {epoch}", total=3) as inner:
            for step in range(3):
                inner.advance(note=f"loss {step}")
        outer.advance()
    progress.say("[half] way")
"""


def test_without_a_terminal_each_task_leaves_one_line() -> None:
    done = subprocess.run([sys.executable, "-c", WORK], capture_output=True, text=True, check=True)
    lines = [line.rsplit(":", 1)[0] for line in done.stderr.splitlines()]
    assert lines == ["inner 0", "inner 1", "[half] way", "outer"]
    assert done.stdout == ""


def test_on_a_terminal_there_are_bars() -> None:
    parent, child = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "100"}
    process = subprocess.Popen([sys.executable, "-c", WORK], stderr=child, env=environment)
    os.close(child)
    seen = b""
    try:
        while chunk := os.read(parent, 4096):
            seen += chunk
    except OSError:  # Linux reports the closed terminal so
        pass
    assert process.wait() == 0
    os.close(parent)
    text = seen.decode()
    assert "inner 0" in text and "━" in text and "[half] way" in text


def test_a_failure_closes_the_bar(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError), RichProgress().task("work"):
        raise ValueError
    assert "work: stopped after" in capfd.readouterr().err


def test_tables_are_for_people_and_json_for_scripts(capfd: pytest.CaptureFixture[str]) -> None:
    Console(json=False, seed=0).table(("name", "ms"), [("a", 1.23456), ("[b]", None)])
    plain = capfd.readouterr()
    assert [line.split() for line in plain.out.splitlines()] == [["name", "ms"], ["a", "1.235"], ["[b]", "-"]]
    console = Console(json=True, seed=0)
    console.table(("name",), [("a",)])
    console.print("text")
    console.result({"x": 1})
    scripted = capfd.readouterr()
    assert scripted.out == '{"x": 1}\n'
    assert scripted.err == ""
    console.say("a note")
    assert capfd.readouterr().err == "a note\n"


def test_a_long_table_is_folded_in_a_pipe_where_columns_says_so(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    row = ("some words " * 9, "other words " * 9)
    Console(json=False, seed=0).table(("a", "b"), [row])
    assert len(capfd.readouterr().out.splitlines()) == 2
    monkeypatch.setenv("COLUMNS", "60")
    Console(json=False, seed=0).table(("a", "b"), [row], title="a title of " * 9)
    out = capfd.readouterr().out
    assert max(map(len, out.splitlines())) <= 60
    assert sorted(out.replace("b:", "b").split()) == sorted(
        " ".join(("a b", *row, "a title of " * 9)).split()
    )
