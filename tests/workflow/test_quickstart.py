"""The whole loop at its smallest size."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from demo_project import DemoProject, tiny_settings
from emulated import arm_target

from ofa_tvm.cli.quickstarted import untuned
from ofa_tvm.compiler import nvrtc
from ofa_tvm.deploy import Artefact
from ofa_tvm.runtime import elf_arch
from ofa_tvm.search.budget import Budget
from ofa_tvm.targets import get_target
from ofa_tvm.workflow.compile_only import compile_only
from ofa_tvm.workflow.project import read_project
from ofa_tvm.workflow.quickstart import quickstart
from ofa_tvm.workflow.quickstart_result import summary

pytestmark = pytest.mark.slow


def test_what_ships_was_measured_within_the_budget(demo: DemoProject) -> None:
    result = demo.result
    artefact = Artefact.open(demo.folder / "deploy")
    latency = artefact.manifest.latency
    assert latency.measured == result.shipped.measurement.cost <= result.budget.value
    assert artefact.manifest.accuracy.measured == result.shipped.accuracy
    assert result.shipped.difference.max_rel < 1e-3
    predictions = artefact.classify(result.images)
    assert all(p[0].label in map(str, range(10)) for p in predictions)
    right = [f"-{p[0].label}-" in path.name for p, path in zip(predictions, result.images, strict=True)]
    assert right == sorted(right, reverse=True), "what is tried first is answered right, if anything is"
    assert summary(result)["images_right"] == sum(right)
    assert {row.name for row in result.rows} == {"largest", "smallest", "chosen"}
    assert summary(result)["budget"]["value"] == result.budget.value


def test_kernels_that_the_time_limit_left_are_named(demo: DemoProject) -> None:
    result, out = demo.result, Path("demo")
    some = {**result.quality, "kernels": 242.0, "kernels_tuned": 96.0}
    left = untuned(replace(result, quality=some, tuning_limit_s=120.0), get_target("x86"), out)
    assert "time limit of 120 s left 146 kernels untuned" in left[0]
    assert "ofa-tvm tune --target x86 (in demo)" in left[0]
    assert not untuned(replace(result, quality=some, tuning_limit_s=None), get_target("x86"), out)
    every = {**some, "kernels_tuned": 242.0}
    assert not untuned(replace(result, quality=every, tuning_limit_s=120.0), get_target("x86"), out)
    assert (summary(result)["tuning_limit_s"] is None) == (result.tuning_limit_s is None)


def test_it_leaves_a_project_that_verbs_can_use(demo: DemoProject) -> None:
    project = read_project(demo.folder / "ofa-tvm.yaml")
    assert project.space == "ofa_digits" and project.data == "digits"
    for path in (project.checkpoint, project.accuracy_predictor, project.tuning_logs):
        assert path is not None and not path.is_absolute() and project.path(path).exists()


def test_the_same_call_goes_on_and_repeats_nothing(demo: DemoProject, tmp_path: Path) -> None:
    copy = tmp_path / "demo"
    shutil.copytree(demo.folder, copy)
    before = {name: (copy / name).read_text() for name in ("latency-x86.csv", "budget-x86.json")}
    again = quickstart(copy, get_target("x86"), settings=tiny_settings())
    assert again.budget == demo.result.budget
    assert {name: (copy / name).read_text() for name in before} == before
    added = again.stages["train the supernet"] - demo.result.stages["train the supernet"]
    assert 0 < added < 0.5 * demo.result.stages["train the supernet"]


@pytest.mark.parametrize("name", ["cuda-sm90", "opencl-mali", "cortex-a72"])
def test_for_a_device_that_is_not_here_it_compiles(demo: DemoProject, tmp_path: Path, name: str) -> None:
    target = get_target(name)
    if target.kind == "cuda" and nvrtc.find_nvrtc("sm_90") is None and nvrtc.find_nvcc() is None:
        pytest.skip(f"no compiler for sm_90: {nvrtc.install_hint('sm_90')}")
    if name != "cuda-sm90":
        arm_target()  # skips without a cross compiler
    copy = tmp_path / "demo"
    shutil.copytree(demo.folder, copy, ignore=shutil.ignore_patterns("deploy", "tuning_logs"))
    artefact = compile_only(copy, target, settings=tiny_settings())
    manifest = artefact.manifest
    assert manifest.latency.measured is None and manifest.accuracy.measured is None, "nothing was measured"
    assert 0.1 < manifest.accuracy.float32 <= 1.0 and len(manifest.kernels) > 5
    host = target.tvm if target.host is None else target.host
    assert elf_arch(artefact.module_path) == str(host["mtriple"]).split("-")[0]
    content = artefact.module_path.read_bytes()
    assert nvrtc.binary_kind(content) == ("cubin" if target.kind == "cuda" else "")
    assert (b"__kernel void" in content) == (target.kind == "opencl")


def test_a_budget_in_another_unit_is_refused_before_any_work(tmp_path: Path) -> None:
    from ofa_tvm.errors import UsageError

    with pytest.raises(UsageError, match="measured in ms"):
        quickstart(tmp_path / "demo", get_target("x86"), budget=Budget(120.0, "Minstr"))
    assert not (tmp_path / "demo").exists()
