"""The whole loop on the emulated ARM device: tuned over RPC, searched in instructions, shipped, run."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from demo_project import DemoProject, tiny_settings
from emulated import arm_target
from verbs import Verbs
from verbs import ofa as ofa

import ofa_tvm
from ofa_tvm.deploy import Artefact
from ofa_tvm.errors import UsageError
from ofa_tvm.latency.dataset import read_table
from ofa_tvm.runtime import elf_arch
from ofa_tvm.search.budget import Budget
from ofa_tvm.workflow.quickstart import quickstart


@pytest.mark.slow
def test_quickstart_on_the_emulated_device(ofa: Verbs, demo: DemoProject, tmp_path: Path) -> None:
    target = arm_target()
    folder = tmp_path / "demo"
    shutil.copytree(demo.folder, folder)  # trained already
    with pytest.raises(UsageError, match="120Minstr"):
        quickstart(folder, target, budget=Budget(1.0, "ms"), settings=tiny_settings())
    result = quickstart(folder, target, settings=replace(tiny_settings(), tuning_seconds=8.0))
    assert result.budget.unit == "Minstr" and 0.1 < result.budget.value < 100
    assert result.shipped.measurement.cost <= result.budget.value
    assert result.quality["kernels_tuned"] > 0
    assert (folder / "tuning_logs/cortex-a72-emulated/tuning.jsonl").is_file()
    table = read_table(folder / "latency-cortex-a72-emulated.csv")
    assert [column.name for column in table.columns] == ["cortex-a72_minstr"] and len(table) == 6
    assert all(entry["mad_ms"] is None and "emulated" in entry["machine"] for entry in table.meta)

    artefact = Artefact.open(folder / "deploy")
    latency = artefact.manifest.latency
    assert elf_arch(artefact.module_path) == "aarch64" and artefact.manifest.target.name == "cortex-a72"
    assert latency.unit == "Minstr" and latency.how.median_ms is None
    assert latency.how.instructions == round(1e6 * latency.measured)
    runner = ofa_tvm.load(folder / "deploy")
    x = np.random.default_rng(0).standard_normal(runner.inputs[0].shape).astype(np.float32)
    expected = onnxruntime.InferenceSession(str(artefact.onnx_path)).run(None, {"input": x})[0]
    np.testing.assert_allclose(runner(x), expected, rtol=1e-3, atol=1e-4)

    bench = [sys.executable, "-m", "ofa_tvm", "bench", str(folder / "deploy"), "--json"]
    done = subprocess.run(
        bench, capture_output=True, text=True, check=True, cwd=Path(ofa_tvm.__file__).parents[1]
    )
    report = json.loads(done.stdout)
    assert report["instructions"] == latency.how.instructions, "a count is the same another time"

    one_subnet_for_both(ofa, demo, folder, result.budget)


def one_subnet_for_both(ofa: Verbs, demo: DemoProject, folder: Path, arm: Budget) -> None:
    """The same project searched for this machine and the emulated one at once, each in its own unit."""
    x86 = Budget(2 * demo.result.budget.value)
    words = ["search", "-t", "x86", "--latency", f"{x86.value}ms", "-t", "cortex-a72"]
    words += ["--latency", f"{arm.value}Minstr", "--rounds", "2", "--candidates", "2", "-o", "both"]
    done = ofa(folder, *words)
    assert done.code == 0, done.err
    assert "measured Minstr" in done.out and "minstr" not in done.out, "one spelling of the unit"
    found, x = [], np.random.default_rng(1).standard_normal((1, 3, 48, 48)).astype(np.float32)
    for name, budget, code in (("x86", x86, "x86_64"), ("cortex-a72", arm, "aarch64")):
        artefact = Artefact.open(folder / "both" / name)
        latency, candidates = artefact.manifest.latency, artefact.manifest.search.candidates
        assert elf_arch(artefact.module_path) == code and artefact.manifest.target.name == name
        assert latency.unit == budget.unit and latency.budget == budget.value
        assert 0 < latency.measured <= budget.value
        assert f"shipped both/{name}: measured {latency.measured:.4g} {budget.unit}" in done.out
        assert candidates and all(c.measured > 0 for c in candidates)
        side = artefact.manifest.arch.r
        expected = onnxruntime.InferenceSession(str(artefact.onnx_path)).run(
            None, {"input": x[..., :side, :side]}
        )[0]
        logits = ofa_tvm.load(artefact.folder)(x[..., :side, :side])
        np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-4)
        found.append((artefact.manifest.arch, logits))
    (arch, logits), (other, others) = found
    assert arch == other
    np.testing.assert_allclose(logits, others, rtol=1e-3, atol=1e-4)
