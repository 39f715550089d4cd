"""ofa-tvm report."""

from __future__ import annotations

import json
from pathlib import Path

from small_module import SmallModule
from verbs import Verbs

from ofa_tvm.deploy import Manifest, write_artefact
from ofa_tvm.deploy.manifest import TargetEntry


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
