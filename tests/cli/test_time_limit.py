"""What there is to do and how long it takes, before it starts; and an end in time, with the best so far."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest
from demo_project import DemoProject
from verbs import Verbs

from ofa_tvm import bars
from ofa_tvm.cli.console import Console
from ofa_tvm.deploy import Artefact
from ofa_tvm.progress import NEVER, Deadline


@pytest.fixture
def folder(demo: DemoProject, tmp_path: Path) -> Path:
    copy = tmp_path / "demo"
    shutil.copytree(demo.folder, copy)
    return copy


def state(folder: Path) -> dict[str, int]:
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


@pytest.mark.slow
def test_evaluations_end_in_time_and_go_on(folder: Path, ofa: Verbs) -> None:
    evaluate = ["evaluate", "-n", "30", "--cache", "evaluations.jsonl", "--json"]
    before = state(folder)
    plan = ofa(folder, *evaluate, "--dry-run")
    assert plan.code == 0, plan.err
    (step,) = json.loads(plan.out)["steps"]
    assert step["units"] == 30 and step["unit_seconds"] > 0 and state(folder) == before
    first = ofa(folder, *evaluate, "--time-limit", "1s")
    assert first.code == 0, first.err
    done = len(json.loads(first.out)["subnets"])
    assert done == 30 or f"{30 - done} of 30 subnets are left; the same command goes on" in first.err
    (step,) = json.loads(ofa(folder, *evaluate, "--dry-run").out)["steps"] or [{"units": 0}]
    assert step["units"] == 30 - done
    rest = ofa(folder, *evaluate)
    assert len(json.loads(rest.out)["subnets"]) == 30
    lines = (folder / "evaluations.jsonl").read_text().splitlines()
    assert len(lines) == len(set(lines)) == 30, "none is evaluated twice"


@pytest.mark.slow
def test_tables_end_in_time_and_go_on(folder: Path, ofa: Verbs) -> None:
    collect = ["collect", "-n", "7", "-o", "table.csv", "--json"]
    before = state(folder)
    plan = ofa(folder, *collect, "--dry-run")
    assert plan.code == 0, plan.err
    assert json.loads(plan.out)["steps"][0]["units"] == 7 and state(folder) == before
    first = ofa(folder, *collect, "--time-limit", "0.1s")
    assert first.code == 0, first.err
    assert json.loads(first.out)["rows"] == 4, "the least that a table gets"
    assert json.loads(ofa(folder, *collect, "--dry-run").out)["steps"][0]["units"] == 3
    rest = json.loads(ofa(folder, *collect, "--time-limit", "0.1s").out)
    assert (rest["rows"], rest["new"]) == (7, 3), "each call gets on, however short its time"
    assert json.loads(ofa(folder, *collect, "--dry-run").out)["steps"] == []


@pytest.mark.slow
def test_a_search_ships_the_best_of_its_time(demo: DemoProject, folder: Path, ofa: Verbs) -> None:
    """Nothing is learned yet: a little of everything, and no model of a little is kept."""
    for model in folder.glob("*.model"):
        model.unlink()
    (folder / "accuracy.jsonl").unlink()
    for table in folder.glob("latency-*"):
        table.unlink()
    settings = folder / "ofa-tvm.yaml"
    settings.write_text(
        "".join(line for line in settings.read_text().splitlines(True) if "accuracy_predictor" not in line)
    )
    budget = f"{1.5 * Artefact.open(demo.folder / 'deploy').manifest.latency.budget:.4g}ms"
    search = ["search", "--latency", budget, "-o", "shipped", "--json"]
    before = state(folder)
    plan = json.loads(ofa(folder, *search, "--dry-run").out)
    assert state(folder) == before
    assert [step["units"] for step in plan["steps"]][1:] == [40, 12, 1]
    assert plan["steps"][0]["units"] >= 80 and plan["estimated_seconds"] > 5
    start = time.monotonic()
    done = ofa(folder, *search, "--time-limit", "2s")
    assert done.code == 0, done.err
    assert time.monotonic() - start < 0.8 * plan["estimated_seconds"] + 20
    assert "ends after about 2 s" in done.err
    report = json.loads(done.out)
    assert report["rounds"] <= 1 and Artefact.open(folder / "shipped").manifest.latency.measured
    assert not list(folder.glob("*.model")), "models of a few subnets are not kept"


@pytest.mark.parametrize("typed", ["10", "0s", "-5s", "5 minutes", "nan s", "1e3s", "", "9999999999h"])
def test_times_that_are_none(typed: str, tmp_path: Path, ofa: Verbs) -> None:
    done = ofa(tmp_path, "collect", "--time-limit", typed)
    assert done.code == 2 and "is not a time; type for example 90s, 10m or 2h" in done.err


def test_predictions_have_no_time_limit(tmp_path: Path, ofa: Verbs) -> None:
    search = ["search", "--latency", "20ms", "--no-verify", "--space", "ofa_mbv3_w1.0"]
    for option in (["--dry-run"], ["--time-limit", "10s"]):
        done = ofa(tmp_path, *search, *option)
        assert done.code == 2 and "are of searches that measure" in done.err


def test_parts_of_a_time() -> None:
    assert NEVER.within(0, 0.5) == NEVER == Deadline.after(None) and not NEVER.is_over
    assert Deadline(100.0, 200.0).within(0.5, 1).within(0, 0.4) == Deadline(150.0, 170.0)
    assert Deadline.after(0.0).is_over and not Deadline.after(100.0).is_over
    console = Console(json=False, seed=0)  # as a verb is given one before it imports and enumerates
    time.sleep(0.01)
    assert console.deadline(0.005).is_over and not console.deadline(100.0).is_over
    assert console.deadline(None) == NEVER


def test_the_time_left_is_that_of_what_is_not_known_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(bars.time, "monotonic", lambda: now)
    task = bars._PlainTask("work", 50)
    assert task.state() == "work: 0 of 50"
    task.advance(10)  # what a cache knew
    now = 104.0
    assert task.state() == "work: 10 of 50"
    task.advance(2, note="loss 1")
    assert task.state() == "work: 12 of 50, loss 1, about 76 s left"
    now = 500.0
    assert bars._PlainTask("other", None).state() == "other: 0 s so far"
