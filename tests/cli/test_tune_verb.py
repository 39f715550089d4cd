"""ofa-tvm tune over the kernels of a space; a single model's are in test_compile."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from demo_project import DemoProject
from verbs import Verbs


def test_usage_errors(ofa: Verbs, tmp_path: Path) -> None:
    both = ("tune", "m.onnx", "--space", "ofa_digits")
    assert "leave --space" in ofa(tmp_path, *both).error(2)
    assert "belongs to an ONNX model" in ofa(tmp_path, "tune", "--shape", "x=1").error(2)
    assert "not a list of resolutions" in ofa(tmp_path, "tune", "--resolutions", "big").error(2)
    assert "resolution 33 is not in" in ofa(tmp_path, "tune", "--resolutions", "33").error(2)
    assert "no search space 'ofa_nothing'" in ofa(tmp_path, "tune", "--space", "ofa_nothing").error(2)


@pytest.mark.slow
def test_dry_run_takes_the_rest_from_the_project(ofa: Verbs, demo: DemoProject) -> None:
    before = sorted(demo.folder.rglob("*"))
    done = ofa(demo.folder, "tune", "--target", "x86", "--trials", 2, "--dry-run", "--json")
    assert done.code == 0, done.err
    assert "space ofa_digits" in done.err and "ofa-tvm.yaml" in done.err and "10 classes" in done.err
    plan = json.loads(done.out)
    assert 0 < plan["logged"] < plan["kernels"] == len(plan["by_kernel"])
    # At least one for each kernel that has none; sqrt(share) is 1 on average at most, rounded up.
    assert plan["kernels"] - plan["logged"] <= plan["trials_left"] <= 3 * plan["kernels"]
    assert plan["trials_left"] > 0
    assert plan["estimated_seconds"] > 0 and plan["logged"] + plan["in_other_logs"] <= plan["kernels"]
    kinds = {kind["kind"]: kind for kind in plan["kinds"]}
    assert any(kind.startswith("depthwise-conv2d") for kind in kinds)
    assert sum(kind["calls"] for kind in plan["kinds"]) == sum(k["calls"] for k in plan["by_kernel"])
    assert sorted(demo.folder.rglob("*")) == before, "a dry run writes nothing"
