"""What long work shows: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from verbs import Verbs

from ofa_tvm.bars import RichProgress
from ofa_tvm.cli.console import Console

WORK = """
from ofa_tvm.bars import RichProgress
progress = RichProgress()
with progress.task("outer", total=2) as outer:
    for epoch in range(2):
        with progress.task(f"inner {epoch}", total=3) as inner:
            for step in range(3):
                inner.advance(note=f"loss {step}")
        outer.advance()
    progress.say("[half] way")
"""


JOB = """
import time
from ofa_tvm import bars
from ofa_tvm.job import Part, in_job
bars._LINE_EVERY_S = 0.2
progress = bars.RichProgress()
parts = [Part("learn", "evaluate", 10, 0.1), Part("search", "look", 5, 0.1)]
with progress.running("verb"), in_job(progress, "the job", parts) as job:
    with job.phase("learn"), job.task("evaluate", 10) as task:
        for step in range(10):
            time.sleep(0.06)
            task.advance(1, f"{step} ms")
    with job.phase("search"), job.task("look", 5) as task:
        for step in range(5):
            time.sleep(0.06)
            task.advance(1)
    job.say("[half] way")
print("a result")
"""


def on_a_terminal(code: str) -> str:
    """What a program writes to it on standard error."""
    parent, child = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "100"}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=child, env=environment
    )
    os.close(child)
    seen = b""
    try:
        while chunk := os.read(parent, 4096):
            seen += chunk
    except OSError:  # Linux reports the closed terminal so
        pass
    assert process.wait() == 0
    os.close(parent)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode())


def test_without_a_terminal_each_task_leaves_one_line() -> None:
    done = subprocess.run([sys.executable, "-c", WORK], capture_output=True, text=True, check=True)
    lines = [line.rsplit(":", 1)[0] for line in done.stderr.splitlines()]
    assert lines == ["inner 0", "inner 1", "[half] way", "outer"]
    assert done.stdout == ""


def test_on_a_terminal_there_are_bars() -> None:
    text = on_a_terminal(WORK)
    assert "inner 0" in text and "━" in text and "[half] way" in text


def test_a_job_is_one_bar_with_one_time_left_and_its_phases_below() -> None:
    text = on_a_terminal(JOB)
    assert "the job ━" in text and "▸ learn" in text and "· search" in text and "✓ learn" in text
    assert re.search(r"the job .*\d+%, about \d s left\s+▸ learn +\d s\s+· search\s+. evaluate .*\d/10", text)
    assert "-:--" not in text, "tasks say no time left of their own"
    lines = text.splitlines()
    assert sum(line.startswith("learn: ") for line in lines) == 1, "a phase leaves one line"
    assert not any(line.startswith("evaluate: ") for line in lines), "a task none"


def test_without_a_terminal_a_job_says_how_far_it_is() -> None:
    done = subprocess.run([sys.executable, "-c", JOB], capture_output=True, text=True, check=True)
    assert done.stdout == "a result\n"
    lines = done.stderr.splitlines()
    pattern = r"the job: \d+%, about \d s left; evaluate: \d of 10, \d ms"
    assert any(re.fullmatch(pattern, line) for line in lines), lines
    rest = [line.rsplit(":", 1)[0] for line in lines if not line.startswith("the job: ")]
    assert rest == ["learn", "search", "[half] way"]


WAITING = """
import time
from ofa_tvm import bars
bars._LINE_EVERY_S = bars._SILENT_S = 0.2
progress = bars.RichProgress()
with progress.running("verb"):
    time.sleep(1)
    progress.wait_for_others()
    print(flush=True)
    time.sleep(0.5)
"""


def test_a_verb_without_bars_is_not_silent_until_it_serves() -> None:
    assert "verb ... " in on_a_terminal(WAITING)
    done = subprocess.run([sys.executable, "-c", WAITING], capture_output=True, text=True, check=True)
    assert set(done.stderr.splitlines()) <= {"verb: 0 s so far", "verb: 1 s so far"} and done.stderr


@pytest.mark.parametrize("before", [True, False])
def test_how_much_is_said_is_an_option_before_and_after_the_verb(
    before: bool, tmp_path: Path, ofa: Verbs
) -> None:
    verb = ["compile", "missing.onnx"]

    def call(option: str) -> str:
        return ofa(tmp_path, *([option, *verb] if before else [*verb, option])).err

    assert len(ofa(tmp_path, *verb).err.splitlines()) > 1
    assert len(call("--quiet").splitlines()) == 1 and "error: " in call("-q")
    assert ofa(tmp_path, "-q", *verb, "--verbose").error(2).endswith("exclude each other")


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
