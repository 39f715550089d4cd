"""train, evaluate and export as a user meets them: real trainings of a few steps."""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import yaml
from PIL import Image

from ofa_tvm import Arch, build_supernet, get_space
from ofa_tvm.accuracy.predictor import AccuracyPredictor
from ofa_tvm.cli.main import invoke
from ofa_tvm.deploy import Artefact
from ofa_tvm.latency.regression import LatencyRegressor
from ofa_tvm.supernet import dtype_of
from ofa_tvm.workflow.settings import resolve

QUICK = """
phases:
- {name: full, epochs: 1, learning_rate: 5e-2}
- {name: all, open: {ks: 0, d: 0, e: 0}, epochs: 1, learning_rate: 1e-2, subnets: 2, sort_channels: true}
resolutions: [32]
batch_size: 400
micro_batch_size: 200
calibration_images: 50
checkpoint_every_s: 0
threads: 1
"""


def ofa(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The verb in this process, which saves loading torch for each."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = invoke(list(map(str, arguments)))
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def ofa_process(
    *arguments: object, cwd: Path, limit: Callable[[], None] | None = None, launcher: Sequence[str] = ()
) -> subprocess.Popen[str]:
    """The verb in a process of its own, which can be killed or limited."""
    return subprocess.Popen(
        [sys.executable, *(launcher or ["-m", "ofa_tvm.cli.main"]), *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=limit,
    )


def finished(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    out, err = process.communicate(timeout=120)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def error(done: subprocess.CompletedProcess[str], code: int) -> str:
    """The last line, which is the error in plain words."""
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: "), done.stderr
    return last


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As `threads: 1` for the verbs that have no such setting: cores may be busy with other tests."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("project")
    (folder / "quick.yaml").write_text(QUICK)
    done = ofa("train", "--data", "digits", "--config", "quick.yaml", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    # What the run does is said before it is done, in three lines.
    said = [line for line in done.stderr.splitlines() if not line.startswith("train: ")]  # of a busy machine
    first, second, third, *rest = said
    assert first.startswith("training ofa_digits on digits (1197 train, 300 val, 300 test; 10 classes)")
    assert second == "to do: 4 steps of 400 images in 2 epochs (full 2, all 2)"
    assert "learning rate 0.05" in third and third.endswith("training/settings.yaml")
    assert [line.split(":")[0] for line in rest] == ["warning", "full", "all"]
    return folder, json.loads(done.stdout)


def test_train_leaves_a_project_for_the_other_verbs(project: tuple[Path, dict]) -> None:
    folder, result = project
    assert [phase["name"] for phase in result["phases"]] == ["full", "all"]
    written = yaml.safe_load((folder / "ofa-tvm.yaml").read_text())
    assert written == {
        "space": "ofa_digits",
        "checkpoint": "training/supernet.pt",
        "data": "digits",
        "bad_images": "refuse",
        "resolutions": [32],
        "tuning_logs": "tuning_logs",
        "calibration_images": 2000,
    }
    build_supernet("ofa_digits", 10).load_checkpoint(folder / "training" / "supernet.pt")


def test_the_same_command_again_does_nothing_and_other_settings_are_refused(
    project: tuple[Path, dict],
) -> None:
    folder, result = project
    command = ("train", "--data", "digits", "--config", "quick.yaml")
    before = (folder / "training" / "supernet.pt").stat().st_mtime_ns
    assert json.loads(ofa(*command, "--json", cwd=folder).stdout) == result
    assert (folder / "training" / "supernet.pt").stat().st_mtime_ns == before
    message = error(ofa(*command, "--set", "momentum=0.5", cwd=folder), 2)
    assert "holds a training with other settings" in message


@pytest.mark.slow
def test_a_dry_run_times_a_step_of_each_phase_and_a_time_limit_ends_it(tmp_path: Path) -> None:
    (tmp_path / "quick.yaml").write_text(QUICK)
    command = ("train", "--data", "digits", "--config", "quick.yaml", "--json")

    def plan() -> list[tuple[str, int]]:
        done = ofa(*command, "--dry-run", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout)
        assert all(step["unit_seconds"] > 0 for step in answer["steps"])
        return [(step["name"], step["units"]) for step in answer["steps"]]

    steps = [("step of phase full", 2), ("step of phase all", 2), ("validate a subnet", 9)]
    assert plan() == steps
    assert [path.name for path in tmp_path.iterdir()] == ["quick.yaml"], "nothing is kept"
    done = ofa(*command, "--time-limit", "0.1s", "-v", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps_left"] == 3 and "ends after about 0 s" in done.stderr
    assert "label_smoothing: 0.1" in done.stderr, "--verbose prints all settings"
    assert plan() == [(steps[0][0], 1), *steps[1:]]


@pytest.mark.slow
def test_a_killed_command_goes_on(project: tuple[Path, dict], tmp_path: Path) -> None:
    (tmp_path / "quick.yaml").write_text(QUICK)
    command = ["train", "--data", "digits", "--config", "quick.yaml"]
    process = ofa_process(*command, cwd=tmp_path)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("training/checkpoints/state-*.pt")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    finished(process)
    done = ofa(*command, "--json", cwd=tmp_path)
    assert "continuing phase" in done.stderr
    assert json.loads(done.stdout)["phases"] == project[1]["phases"]


@pytest.mark.slow
@pytest.mark.usefixtures("all_cpus")
def test_torchrun_shares_the_work_and_one_process_talks(project: tuple[Path, dict], tmp_path: Path) -> None:
    (tmp_path / "quick.yaml").write_text(QUICK)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "ofa_tvm.cli.main"]
    command = ("train", "--data", "digits", "--config", "quick.yaml", "--json")
    done = finished(ofa_process(*command, cwd=tmp_path, launcher=torchrun))
    assert done.returncode == 0, done.stderr
    shared = json.loads(done.stdout)
    assert done.stderr.count("training ofa_digits on digits") == 1 and "2 processes" in done.stderr
    for ours, alone in zip(shared["phases"], project[1]["phases"], strict=True):
        assert ours["accuracies"] == pytest.approx(alone["accuracies"], abs=0.02)


def test_init_starts_from_a_supernet_and_replaces_a_classifier_that_does_not_fit(tmp_path: Path) -> None:
    other = build_supernet("ofa_digits", n_classes=7)
    other.save_checkpoint(tmp_path / "seven.pt")
    (tmp_path / "quick.yaml").write_text(QUICK)
    # No learning to speak of, so that the weights can be recognised; no full phase, so that init would teach.
    words = ("train", "--data", "digits", "--init", "seven.pt", "--config", "quick.yaml", "--set",
             "phases=[{name: p, open: {ks: 0}, epochs: 1, learning_rate: 1e-9}]")  # fmt: skip
    assert "it cannot teach phase p" in error(ofa(*words, cwd=tmp_path), 2)  # by a fresh classifier
    done = ofa(*words, "--set", "distillation=0", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "seven.pt has 7 classes and digits has 10" in done.stderr
    trained = build_supernet("ofa_digits", 10)
    trained.load_checkpoint(tmp_path / "training" / "supernet.pt")
    weight = "blocks.3.conv.point_linear.conv.conv.weight"
    torch.testing.assert_close(trained.state_dict()[weight], other.state_dict()[weight], atol=1e-4, rtol=0)
    other.save_checkpoint(tmp_path / "training" / "x.pt")
    message = error(ofa("train", "--data", "digits", "--space", "ofa_mbv3_w1.0", "--init", "seven.pt",
                        "-o", "new", cwd=tmp_path), 1)  # fmt: skip
    assert "seven.pt was trained with space ofa_digits, this supernet has ofa_mbv3_w1.0" in message


@pytest.mark.slow
def test_a_trained_supernet_is_quantised(project: tuple[Path, dict], tmp_path: Path) -> None:
    """The phase is there without a word of it in the file of settings, and opens what the last one does."""
    init, config = project[0] / "training" / "supernet.pt", project[0] / "quick.yaml"
    done = ofa(
        "train", "--data", "digits", "--config", config, "--init", init, "--phases", "quantize",
        "--set", "phases.quantize.epochs=1", "--json", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (phase,) = json.loads(done.stdout)["phases"]
    assert phase["name"] == "quantize" and "ks=min d=max e=min @32" in phase["accuracies"]
    done = ofa("export", "median", "--dtype", "int8", "--resolution", 32, "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["trained_dtype"] == "int8"
    assert "was not trained for int8" not in done.stderr
    assert dtype_of(resolve("x86", start=tmp_path).supernet()) == "float32"  # what is searched unless told
    told = resolve("x86", dtype="int8", start=project[0])
    assert told.checkpoint is not None and told.checkpoint.samefile(tmp_path / "training" / "supernet.pt")


def test_finetune_trains_one_subnet_and_its_file_is_exported(project: tuple[Path, dict]) -> None:
    folder, _ = project
    arch = get_space("ofa_digits").min_arch(32)
    (folder / "arch.json").write_text(arch.to_json())
    done = ofa(
        "train", "--finetune", "arch.json", "--epochs-scale", "0.04",
        "--set", "calibration_images=50", "--json", cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert list(result["phases"][0]["accuracies"]) == ["subnet @32"]
    done = ofa("export", result["checkpoint"], "-o", "fine.onnx", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["weights"] == result["checkpoint"]
    assert "error" not in done.stderr
    done = ofa("evaluate", "min", "--checkpoint", result["checkpoint"], cwd=folder)
    assert "holds a single subnet" in error(done, 1)
    assert "no choices" in error(ofa("train", "--finetune", "min", "--config", "quick.yaml", cwd=folder), 2)


def test_evaluate_prints_accuracies_and_remembers_them(project: tuple[Path, dict]) -> None:
    folder, _ = project
    command = ("evaluate", "min", '{"ks":[3,3,3,3,3,3,3,3],"e":[6,6,6,6,6,6,6,6],"d":[2,2],"r":40}', "-n", 2,
               "--calibration-images", 50, "--cache", "seen.jsonl", "--split", "test")  # fmt: skip
    done = ofa(*command, "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["subnets"]
    assert [row["subnet"] for row in rows] == ["min", "json", "random", "random"]
    assert all(0 <= row["accuracy"] <= 1 for row in rows)
    assert [row["arch"]["r"] for row in rows] == [
        32,
        40,
        32,
        32,
    ]  # the project's resolution, or the stated one
    assert len((folder / "seen.jsonl").read_text().splitlines()) == 4
    people = ofa(*command, cwd=folder)
    assert f"{rows[0]['accuracy']:.2%}" in people.stdout
    assert len((folder / "seen.jsonl").read_text().splitlines()) == 4


@pytest.mark.slow
def test_evaluate_in_int8_says_what_it_costs_and_checks_a_module(
    project: tuple[Path, dict], tmp_path: Path
) -> None:
    folder, _ = project
    common = (
        "evaluate",
        "max",
        "min",
        "--checkpoint",
        "training/supernet.pt",
        "--cache",
        tmp_path / "cache.jsonl",
        "--calibration-images",
        100,
        "--json",
    )
    done = ofa(*common, "--dtype", "int8", "--compiled", "x86", cwd=folder)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["dtype"], result["trained_dtype"]) == ("int8", "float32")
    assert "was not trained for int8" in done.stderr and "--phases quantize" in done.stderr
    checked = result["compiled"]
    assert checked["images"] == 300 and checked["same"] > 0.97
    assert checked["pytorch"] == pytest.approx(result["subnets"][0]["accuracy"], abs=0.01)
    assert checked["accuracy"] == pytest.approx(checked["pytorch"], abs=0.03)
    # Accuracies of both dtypes are kept apart: min was evaluated in both, max in one.
    again = json.loads(ofa(*common, "--dtype", "int8", cwd=folder).stdout)
    assert again["subnets"] == result["subnets"]
    in_float32 = json.loads(ofa(*common, cwd=folder).stdout)["subnets"]
    assert len((tmp_path / "cache.jsonl").read_text().splitlines()) == 4
    assert in_float32[0]["accuracy"] == pytest.approx(result["subnets"][0]["accuracy"], abs=0.05)


def test_export_writes_labels_and_preprocessing(project: tuple[Path, dict]) -> None:
    folder, _ = project
    done = ofa("export", "max", "--resolution", 40, "--batch", 3, "--calibration-images", 50, "-o", "m.onnx",
               "--json", cwd=folder)  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["calibrated"] is True and result["max_rel_difference_to_pytorch"] < 1e-4
    metadata = {entry.key: entry.value for entry in onnx.load(folder / "m.onnx").metadata_props}
    assert json.loads(metadata["labels"]) == list("0123456789")
    preprocessing = json.loads(metadata["preprocessing"])
    assert preprocessing["resolution"] == 40 and len(preprocessing["mean"]) == 3
    assert json.loads(metadata["arch"])["r"] == 40


def test_export_without_a_project_says_what_is_missing(tmp_path: Path) -> None:
    done = ofa("export", "min", "--space", "ofa_digits", "--json", cwd=tmp_path)
    assert done.returncode == 0 and "random weights" in done.stderr
    result = json.loads(done.stdout)
    assert result["calibrated"] is False
    space = get_space("ofa_digits")
    assert Arch.from_dict(result["arch"]) == space.min_arch(space.median_resolution)
    build_supernet("ofa_digits", 10).save_checkpoint(tmp_path / "s.pt")
    done = ofa("export", "min", "--space", "ofa_digits", "--checkpoint", "s.pt", cwd=tmp_path)
    assert done.returncode == 0 and "not estimated for this subnet" in done.stderr


def test_export_in_int8_says_what_it_costs(project: tuple[Path, dict], tmp_path: Path) -> None:
    folder, _ = project
    output = tmp_path / "m.onnx"
    done = ofa(
        "export", "max", "--checkpoint", "training/supernet.pt", "--dtype", "int8", "-o", output,
        "--resolution", 32, "--json", cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["dtype"], result["trained_dtype"]) == ("int8", "float32")
    assert result["accuracies"].keys() == {"float32", "int8"}
    assert "was not trained for int8" in done.stderr
    assert "train --init" in done.stderr
    kinds = {node.op_type for node in onnx.load(output).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds


def test_export_in_int8_without_images(tmp_path: Path) -> None:
    """Random weights, for a latency, get ranges of noise; trained ones need images."""
    common = ("export", "min", "--space", "ofa_digits", "--dtype", "int8")
    assert ofa(*common, cwd=tmp_path).returncode == 0
    build_supernet("ofa_digits", 10).save_checkpoint(tmp_path / "s.pt")
    refused = error(ofa(*common, "--checkpoint", "s.pt", cwd=tmp_path), 2)
    assert "s.pt was not trained for int8" in refused and "--data" in refused


def test_export_of_a_published_network(shared_data: Path, tmp_path: Path) -> None:
    folder = sorted((shared_data / "ofa_specialized").iterdir())[0]
    done = ofa("export", folder, "-o", "m.onnx", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    size = json.loads((folder / "run.config").read_text())["image_size"]
    assert result["resolution"] == size and result["classes"] == 1000


def test_bad_requests_in_plain_words(project: tuple[Path, dict], tmp_path: Path) -> None:
    folder, _ = project
    assert "say which images" in error(ofa("train", cwd=tmp_path), 2)
    (tmp_path / "empty").mkdir()
    assert "holds no images" in error(ofa("train", "--data", "empty", cwd=tmp_path), 1)
    assert "choose one of" in error(ofa("train", "--data", "digits", "--space", "mbv3", cwd=tmp_path), 2)
    for setting, message in (
        ("resolutions=[33]", "has no resolution 33; it has 32, 40, 48"),
        ("epochs=3", "unknown training setting 'epochs'"),
        ("batch_size=many", "batch_size: 'many' is not a whole number"),
        ("phases.warm.epochs=3", "there is no setting 'phases.warm.epochs'; phases are full, kernel"),
        ("batch_size", "a setting reads name=value"),
    ):
        assert message in error(ofa("train", "--data", "digits", "--set", setting, cwd=tmp_path), 2)
    for words, message in (
        (("--epochs", 75), "--epochs is of --finetune"),
        (("--checkpoint", "x.pt"), "give it as --init"),
        (("--seed", 2**32), "is not in the range"),
        (("--phases", "full,int8"), "there is no phase 'int8'; there are full, kernel"),
        (("--phases", "quantize"), "phase quantize quantises a trained supernet"),
    ):
        assert message in error(ofa("train", "--data", "digits", *words, cwd=tmp_path), 2)
    (tmp_path / "bad.yaml").write_text("batch_size: 64\ndropout: 0\nbatch_size: 32\n")
    message = error(ofa("train", "--data", "digits", "--config", "bad.yaml", cwd=tmp_path), 1)
    assert "bad.yaml, line 3" in message and "'batch_size' is there twice" in message
    (tmp_path / "bad.yaml").write_text("phases:\n- {name: full, lr: 3}\n")
    message = error(ofa("train", "--data", "digits", "--config", "bad.yaml", cwd=tmp_path), 1)
    assert "bad.yaml, line 2" in message and "unknown key" in message
    assert "r = 33 is not in space ofa_digits" in error(
        ofa("export", "min", "--resolution", 33, cwd=folder), 2
    )
    assert "is no subnet" in error(ofa("export", "biggest", cwd=folder), 2)
    assert "give --checkpoint" in error(ofa("evaluate", cwd=tmp_path), 2)


def test_other_classes_than_the_supernets_are_refused(project: tuple[Path, dict], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        for i in range(12):
            pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / label / f"{i}.png")
    for verb in (("evaluate", "min"), ("export", "min"), ("train", "--finetune", "min")):
        message = error(ofa(*verb, "--data", tmp_path, cwd=project[0]), 2)
        assert "has 10 classes" in message and "have 2" in message


@pytest.mark.slow
def test_own_pictures_of_which_some_are_bad_are_trained_on_and_searched_for(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for value, label in enumerate(("cat", "dog")):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for i in range(30):
            pixels = rng.integers(0, 128, (40, 32, 3), dtype=np.uint8) + np.uint8(127 * value)
            Image.fromarray(pixels).save(tmp_path / "photos" / label / f"{i}.png")
    (tmp_path / "photos" / "dog" / "torn.png").write_text("no picture")
    (tmp_path / "quick.yaml").write_text(QUICK.replace("400", "24").replace("200", "24"))
    words = ["train", "--data", "photos", "--space", "ofa_digits", "--config", "quick.yaml", "-o", "project"]
    assert "torn.png" in error(ofa(*words, cwd=tmp_path), 1)
    done = ofa(*words, "--bad-images", "skip", cwd=tmp_path)
    assert done.returncode == 0 and "skipped: " in done.stderr, done.stderr

    # The other verbs are not told again.
    folder, space = tmp_path / "project", get_space("ofa_digits")
    assert yaml.safe_load((folder / "ofa-tvm.yaml").read_text())["bad_images"] == "skip"
    assert ofa("evaluate", "min", "--calibration-images", 20, cwd=folder).returncode == 0
    genes = space.sample_genes(np.random.default_rng(0), 8, [32])
    LatencyRegressor(space, target="x86", n_classes=2).fit(genes, space.macs_batch(genes) / 1e8).save(
        folder / "x86.model"
    )
    AccuracyPredictor(space).fit(genes, space.macs_batch(genes) / 1e10).save(folder / "accuracy.model")
    words = ["search", "--latency", "50ms", "--latency-predictor", "x86.model", "--rounds", 1]
    words += ["--accuracy-predictor", "accuracy.model", "--candidates", 1, "-o", "deploy"]
    done = ofa(*words, cwd=folder)
    assert done.returncode == 0, done.stderr
    best = Artefact.open(folder / "deploy").classify([tmp_path / "photos" / "cat" / "0.png"], top_k=2)[0]
    assert {prediction.label for prediction in best} == {"cat", "dog"}

    (folder / "ofa-tvm.yaml").write_text(
        (folder / "ofa-tvm.yaml").read_text().replace(str(tmp_path / "photos"), "digits")
    )
    message = error(ofa(*words, cwd=folder), 2)
    assert "has 2 classes, the images in digits have 10" in message


@pytest.mark.slow
def test_a_loss_that_is_not_finite_names_phase_and_step(tmp_path: Path) -> None:
    (tmp_path / "quick.yaml").write_text(QUICK)
    wild = ("--set", "phases.all.learning_rate=1e30", "--set", "label_smoothing=0")
    done = ofa("train", "--data", "digits", "--config", "quick.yaml", *wild, cwd=tmp_path)
    message = error(done, 1)
    assert "in phase all at step" in message and "last good checkpoint" in message


@pytest.mark.slow
def test_a_killed_decoding_process_is_explained(tmp_path: Path) -> None:
    for label, value in (("cat", 10), ("dog", 200)):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for i in range(20):
            Image.new("RGB", (32, 32), (value, i, 0)).save(tmp_path / "photos" / label / f"{i}.png")
    (tmp_path / "quick.yaml").write_text(QUICK)
    words = ("train", "--data", "photos", "--space", "ofa_digits", "--config", "quick.yaml", "--workers", 2)
    long = ("--set", "batch_size=4", "--set", "phases.full.epochs=10000")
    process = ofa_process(*words, *long, cwd=tmp_path)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    until = time.monotonic() + 60
    while not list(tmp_path.rglob("state-*.pt")) and time.monotonic() < until:
        time.sleep(0.1)
    os.kill(int(children.read_text().split()[0]), signal.SIGKILL)
    message = error(finished(process), 1)
    assert "a decoding process was killed" in message and "--workers" in message


@pytest.mark.slow
def test_a_full_disk_stops_training_and_keeps_the_last_checkpoints(tmp_path: Path) -> None:
    (tmp_path / "quick.yaml").write_text(QUICK)
    command = ("train", "--data", "digits", "--config", "quick.yaml")

    def no_room() -> None:
        # Writing past this fails as on a full disk: the weights alone fit, weights with momentum do not.
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    message = error(finished(ofa_process(*command, cwd=tmp_path, limit=no_room)), 1)
    assert "cannot write" in message and "state-" in message
    assert not list(tmp_path.rglob(".*.pt")), "no half-written file is left"
    done = ofa(*command, "--json", cwd=tmp_path)
    assert done.returncode == 0 and json.loads(done.stdout)["phases"]


def test_evaluate_keeps_what_it_measured_and_fits_a_predictor(project: tuple[Path, dict]) -> None:
    folder, _ = project
    command = ("evaluate", "-n", 6, "--calibration-images", 20, "--fit", "fitted.model", "--json")
    done = ofa(*command, cwd=folder)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert Path(report["cache"]).name == "accuracy.jsonl" and (folder / "accuracy.jsonl").is_file()
    assert report["predictor"]["kind"] == "Gaussian process" and report["predictor"]["held_out"] == 6
    before = (folder / "accuracy.jsonl").read_text()
    again = json.loads(ofa(*command, cwd=folder).stdout)
    assert again["subnets"] == report["subnets"]
    assert (folder / "accuracy.jsonl").read_text() == before
    assert "at least 20" in error(ofa(*command, "--model", "mlp", cwd=folder), 1)
    corrected = ("--dtype", "int8", "--from", "fitted.model", "--fit", "int8.model")
    done = ofa("evaluate", "min", "--calibration-images", 20, *corrected, "--json", cwd=folder)
    assert json.loads(done.stdout)["predictor"]["held_out"] == 7
    assert AccuracyPredictor.load(folder / "int8.model").dtype == "int8"
    assert "name that file" in error(ofa("evaluate", "--from", "fitted.model", cwd=folder), 2)
    assert "unknown device" in error(ofa(*command, "--device", "abacus", cwd=folder), 2)


def test_the_papers_number_of_subnets_is_for_large_data() -> None:
    from ofa_tvm.cli.evaluate import _default_count
    from ofa_tvm.training import digits

    class ImageNet:
        def size(self, split: str) -> int:
            return 1_271_167

    assert _default_count(digits()) == 20
    assert _default_count(ImageNet()) == 16_000  # type: ignore[arg-type]
