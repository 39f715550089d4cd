"""Tuning for a GPU-kind target: PoCL is a device like any other to it."""

from __future__ import annotations

from pathlib import Path

import pytest
from opencl_device import needs_opencl
from test_campaign import assert_the_search_spends_its_trials, kernels, network

import ofa_tvm
from ofa_tvm.compiler.templates import templates_of
from ofa_tvm.logs import log_name, read_folder
from ofa_tvm.targets import get_target
from ofa_tvm.tuning import crew, tune_kernels

pytestmark = needs_opencl


@pytest.fixture(autouse=True)
def one_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "allowed_cpus", lambda: {0})


@pytest.mark.slow
def test_a_campaign_on_pocl_tunes_and_resumes(tmp_path: Path) -> None:
    target = get_target("opencl-pocl")
    found = [k for k in kernels(target) if k.name.startswith(("matmul", "depthwise", "softmax"))]
    assert len(found) >= 3
    first = tune_kernels(found[:2], target, tmp_path, trials=2)
    assert (first.tuned, first.failed, first.complete) == (2, 0, True)
    rest = tune_kernels(found, target, tmp_path, trials=2)
    assert (rest.tuned, rest.failed) == (len(found), 0)
    assert rest.trials >= len(found) - 2
    lines = (tmp_path / log_name(target) / "tuning.jsonl").read_text()
    assert tune_kernels(found, target, tmp_path, trials=2).trials == 0
    assert (tmp_path / log_name(target) / "tuning.jsonl").read_text() == lines
    table = read_folder(tmp_path / log_name(target))
    assert not table.problems
    assert max(table.trials(kernel.key) for kernel in found) >= 2

    compiled = ofa_tvm.compile(network(), target, tmp_path / "m.so", logs=[tmp_path])
    assert [use.origin for use in compiled.kernels].count("tuned") == len(found)


@pytest.mark.slow
def test_a_small_kernel_gets_all_its_trials(tmp_path: Path) -> None:
    """The template has fewer schedules for it than trials: MetaSchedule's generic space gives the others."""
    target = get_target("opencl-pocl")
    (kernel,) = (k for k in kernels(target) if k.name.startswith("matmul 1x24"))
    assert len(list(templates_of(target.tvm_target()).ranked(kernel.mod))) < 10
    assert_the_search_spends_its_trials(kernel, target, tmp_path)
