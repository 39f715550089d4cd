"""ofa-tvm report."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from demo_project import DemoProject
from small_module import SmallModule
from verbs import Verbs

from ofa_tvm.deploy import Artefact, Manifest, write_artefact
from ofa_tvm.deploy.manifest import TargetEntry
from ofa_tvm.report.units import times
from ofa_tvm.workflow.compare_artefact import compare_artefact
from ofa_tvm.workflow.compared import Comparison
from ofa_tvm.workflow.project import find_project


def test_the_verb(ofa: Verbs, small: SmallModule, tmp_path: Path) -> None:
    assert "nothing to report" in ofa(tmp_path, "report").error(2)
    assert "no artefact folder" in ofa(tmp_path, "report", "none").error(1)
    assert not (tmp_path / "report").exists()
    write_artefact(tmp_path / "deploy", small.so, small.onnx, Manifest(TargetEntry.of(small.target)))
    done = ofa(tmp_path, "report", "--json")
    assert done.code == 0, done.err
    assert Path(json.loads(done.out)["report"]).read_text().startswith("<!doctype html>")
    (tmp_path / "file").write_text("")
    assert "is a file" in ofa(tmp_path, "report", "-o", "file").error(2)
    assert "is no subnet" in ofa(tmp_path, "report", "--measure").error(2)


@pytest.mark.slow
def test_it_measures_others_when_asked(ofa: Verbs, demo: DemoProject, tmp_path: Path) -> None:
    project = Path(shutil.copytree(demo.folder, tmp_path / "demo"))
    kept = project / "comparison-x86.json"
    kept.unlink()
    artefact = Artefact.open(project / "deploy")
    found = compare_artefact(find_project(project), artefact)
    assert Comparison.read(kept) == found
    assert [row.name for row in found.rows] == ["largest", "smallest", "chosen"]
    assert found.threads == 1 and {"onnxruntime", "torch"} <= found.versions.keys()
    largest, smallest, chosen = found.rows
    assert all(row.predicted and row.onnxruntime and row.pytorch for row in found.rows)
    assert smallest.measured < largest.measured and smallest.macs < largest.macs
    assert chosen.accuracy == artefact.manifest.accuracy.measured
    # Without the supernet there is the artefact itself, and ONNX Runtime.
    (project / "ofa-tvm.yaml").write_text("space: ofa_digits\n")
    done = ofa(project, "report", "--measure")
    assert done.code == 0 and "only ONNX Runtime is timed" in done.err
    (row,) = Comparison.read(kept).rows
    assert row.arch == chosen.arch and row.onnxruntime is not None and row.pytorch is None
    page = (project / "report" / "report.html").read_text()
    assert times(row.onnxruntime, row.measured, "ONNX Runtime") in page
