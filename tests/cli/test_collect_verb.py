"""ofa-tvm collect: a table that grows, and what a predictor makes of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from verbs import Verbs

from ofa_tvm.latency.dataset import read_table


@pytest.mark.slow
def test_collect_measures_and_resumes(ofa: Verbs, tmp_path: Path) -> None:
    collect = ("collect", "--space", "ofa_digits", "--resolutions", "32", "-o", "lat.csv", "--seed", 3)
    done = ofa(tmp_path, *collect, "-n", 2, "--json")
    assert done.code == 0, done.err
    assert "random weights: latency does not depend on them" in done.err
    report = json.loads(done.out)
    assert report["rows"] == report["new"] == 2 and report["column"] == "x86_ms"
    first = (tmp_path / "lat.csv").read_text()
    more = json.loads(ofa(tmp_path, *collect, "-n", 3, "--json").out)
    assert more["rows"] == 3 and more["new"] == 1
    assert (tmp_path / "lat.csv").read_text().startswith(first), "rows are added, never written anew"
    table = read_table(tmp_path / "lat.csv")
    assert len(table) == 3 and {arch.r for arch in table.archs} == {32}
    assert {entry["n_classes"] for entry in table.meta} == {1000}
    assert ofa(tmp_path, "predictor", "fit", "--data", "lat.csv", "-o", "p.model").code == 0


def test_what_cannot_be_measured_is_said(ofa: Verbs, tmp_path: Path) -> None:
    space = ("collect", "--space", "ofa_digits", "-n", 1, "-o", "lat.csv")
    (tmp_path / "lat.csv").write_text("something else\n")
    assert "has the heading 'something else'" in ofa(tmp_path, *space).error(1)
