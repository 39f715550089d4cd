"""The quickstart killed in the middle, checked against its references, and typed wrongly."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import yaml
from demo_project import DemoProject, tiny_settings

import ofa_tvm
from ofa_tvm.cli.main import invoke
from ofa_tvm.deploy import Artefact
from ofa_tvm.progress import Deadline
from ofa_tvm.search.budget import Budget
from ofa_tvm.training.data import digits
from ofa_tvm.workflow.quickstart import quickstart
from ofa_tvm.workflow.quickstart_plan import quickstart_plan

TESTS = Path(__file__).resolve().parents[1]
_SCRIPT = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(TESTS)!r})
from demo_project import tiny_settings
from ofa_tvm.targets import get_target
from ofa_tvm.workflow.quickstart import quickstart
quickstart(Path(sys.argv[1]), get_target("x86"), settings=tiny_settings())
"""


@pytest.mark.slow
def test_nothing_is_lost_by_a_kill(demo: DemoProject, tmp_path: Path) -> None:
    """Killed while it tunes; the same call, out of time, keeps all trials and epochs of before, and ships."""
    out = tmp_path / "demo"
    out.mkdir()
    process = subprocess.Popen([sys.executable, "-c", _SCRIPT, str(out)], start_new_session=True)
    log: list[str] = []
    while len(log) < 3 and process.poll() is None:
        time.sleep(0.05)
        files = list(out.glob("tuning_logs/*/tuning.jsonl"))
        log = files[0].read_text().splitlines() if files else []
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = log[:-1]  # the last line may have been caught half written
    metrics = (out / "training" / "metrics.jsonl").read_text()
    assert before and metrics and not (out / "deploy").exists()

    deadline = Deadline.after(1.0)
    result = quickstart(out, ofa_tvm.get_target("x86"), settings=tiny_settings(), deadline=deadline)
    (file,) = out.glob("tuning_logs/*/tuning.jsonl")
    assert file.read_text().splitlines()[: len(before)] == before
    assert (out / "training" / "metrics.jsonl").read_text() == metrics, "the training was repeated"
    latency = Artefact.open(result.artefact).manifest.latency
    assert latency.measured <= latency.budget
    assert not list(out.glob("latency-*.model")), "a model of a few subnets is not kept"
    assert yaml.safe_load((out / "settings.yaml").read_text())["training"]["resolutions"] == [32, 40]


@pytest.mark.slow
def test_a_dry_run_times_one_of_each_and_keeps_nothing(demo: DemoProject, tmp_path: Path) -> None:
    out, target, settings = tmp_path / "new", ofa_tvm.get_target("x86"), tiny_settings()
    steps = {step.name: step for step in quickstart_plan(out, [target], settings=settings).steps}
    untimed = ["build and check what ships", "compare with other runtimes"]
    assert [name for name, step in steps.items() if step.seconds is None] == untimed
    units = {name: step.units for name, step in steps.items()}
    assert units.pop("tuning trial for x86") > 100
    assert units == {
        "step of phase full": 1197 // 64,
        "validate a subnet": 2,
        "evaluate a subnet": 4 + 4,
        "measure a subnet on x86": 6,
        "measure a candidate": 2,
        **dict.fromkeys(untimed, 1),
    }
    assert not out.exists()


@pytest.mark.slow
def test_a_run_killed_in_its_first_stage_goes_on_in_the_same_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "demo"
    process = subprocess.Popen([sys.executable, "-c", _SCRIPT, str(out)], start_new_session=True)
    while not (out / "training").exists() and process.poll() is None:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not list(out.glob("training/*.pt")), "killed too late to say anything"
    # What is wrong with these options is found after the folder was looked at, and before it is worked in.
    assert invoke(["quickstart", "-o", str(out), "--compile-only", "--latency", "1ms"]) == 2
    assert "measures nothing" in capsys.readouterr().err


@pytest.mark.slow
def test_the_module_computes_what_its_onnx_says(demo: DemoProject) -> None:
    artefact, data = Artefact.open(demo.folder / "deploy"), digits()
    session = onnxruntime.InferenceSession(str(artefact.onnx_path), providers=["CPUExecutionProvider"])
    resolution = artefact.manifest.inputs[0].shape[-1]
    for index in range(5):
        x = data.batch("test", [index], resolution).numpy()
        want = session.run(None, {"input": x})[0]
        np.testing.assert_allclose(artefact.runner(x), want, rtol=1e-4, atol=1e-4 * np.abs(want).max())


@pytest.mark.slow
def test_the_recorded_accuracy_is_the_modules_on_pictures(demo: DemoProject) -> None:
    """From the scans as pictures to classes, as `ofa-tvm run` goes, not by the training's tensors."""
    artefact, data = Artefact.open(demo.folder / "deploy"), digits()
    targets = data.targets("test")
    x = artefact.classifier.preprocessing.apply([data.image("test", i) for i in range(len(targets))])
    predicted = [best[0].index for best in artefact.classifier.classify_inputs(x)]
    assert np.mean(np.array(predicted) == targets) == pytest.approx(demo.result.shipped.accuracy)


@pytest.mark.slow
def test_run_needs_no_torch(demo: DemoProject) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from ofa_tvm.cli.main import invoke; sys.exit(invoke(sys.argv[1:]))"
    )
    pictures = [str(path) for path in demo.result.images]
    for arguments in (
        ["run", str(demo.folder / "deploy"), *pictures],
        ["bench", str(demo.folder / "deploy")],
    ):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments, "--json"], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        content = json.loads(done.stdout)
        assert content and "error" not in content


@pytest.mark.slow
def test_an_impossible_budget_says_what_is_possible(demo: DemoProject, tmp_path: Path) -> None:
    copy = tmp_path / "demo"
    shutil.copytree(demo.folder, copy)
    digest = ofa_tvm.load(copy / "deploy").metadata
    with pytest.raises(ofa_tvm.UsageError, match="smallest"):
        quickstart(copy, ofa_tvm.get_target("x86"), budget=Budget(1e-5), settings=tiny_settings())
    assert ofa_tvm.load(copy / "deploy").metadata == digest, "what was shipped before must stay"


@pytest.mark.slow
def test_a_tuning_without_one_trial_is_said_to_be_one(demo: DemoProject, tmp_path: Path) -> None:
    """And not as a missing `ofa-tvm tune`, which is what this run has just done."""
    copy = tmp_path / "demo"
    shutil.copytree(demo.folder, copy)
    shutil.rmtree(copy / "tuning_logs")
    with pytest.raises(ofa_tvm.UserError, match="not one kernel was timed in 0 s"):
        quickstart(copy, ofa_tvm.get_target("x86"), settings=replace(tiny_settings(), tuning_seconds=0.0))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--latency", "25"], "unit"),
        (["--latency", "fast"], "25ms"),
        (["--latency", "-5ms"], "above 0"),
        (["--latency", "0ms"], "above 0"),
        (["--latency", "3Minstr"], "ms"),
        (["--target", "x68"], "x86"),
    ],
)
def test_bad_usage_is_one_sentence_and_leaves_nothing(
    arguments: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "demo"
    assert invoke(["quickstart", "-o", str(out), *arguments]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and says in error
    assert not out.exists()


def test_a_foreign_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.tex").write_text("do not touch")
    assert invoke(["quickstart", "-o", str(tmp_path)]) == 2
    assert "not empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
