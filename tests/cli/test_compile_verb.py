"""ofa-tvm compile and ofa-tvm tune MODEL, in a process without torch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from small_module import SIZE, write_small_onnx
from verbs import Done, without_torch

from ofa_tvm.deploy import load


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_small_onnx(tmp_path / "small.onnx")
    return tmp_path


@pytest.mark.slow
def test_compile_writes_a_module_that_runs(folder: Path) -> None:
    done = without_torch(folder, "compile", "small.onnx", "--target", "x86", "--verbose")
    assert done.code == 0, done.err
    assert "small.so: 4 kernels" in done.out and "conv2d" in done.out and "% of time" in done.out
    assert "target x86" in done.err, "the resolved settings are told before the work"
    y = load(folder / "small.so")(np.zeros((1, 3, SIZE, SIZE), np.float32))
    assert np.asarray(y).shape == (1, 4)


@pytest.mark.slow
def test_a_tuned_models_kernels_have_time_shares(folder: Path) -> None:
    plan = json.loads(without_torch(folder, "tune", "small.onnx", "--trials", 1, "--dry-run", "--json").out)
    assert plan["kernels"] == 4 and plan["logged"] == 0 and plan["trials_left"] == 5
    assert not plan["timed"] and not (folder / "tuning_logs").exists()
    tuned = json.loads(without_torch(folder, "tune", "small.onnx", "--trials", 1, "--json").out)
    assert tuned["tuned"] == 4 and tuned["complete"]
    done = without_torch(folder, "compile", "small.onnx", "-o", "m.so", "--json")
    compiled = json.loads(done.out)
    assert compiled["tuned_fraction"] == 1.0 and "to tune the rest" not in done.err
    assert {kernel["schedule"] for kernel in compiled["kernels"]} == {"tuned"}
    assert sum(kernel["share"] for kernel in compiled["kernels"]) == pytest.approx(1.0)
    again = json.loads(without_torch(folder, "tune", "small.onnx", "--trials", 1, "--dry-run", "--json").out)
    assert again["logged"] == 4 and again["trials_left"] == 0
    assert not again["timed"], "so few trials say little of the pace"


@pytest.mark.slow
def test_schedules_of_another_cpu_are_pointed_out_until_timed_here(folder: Path) -> None:
    def compiled(*more: str) -> Done:
        return without_torch(folder, "compile", "small.onnx", "-o", "m.so", *more)

    assert without_torch(folder, "tune", "small.onnx", "--trials", 1).code == 0
    (log,) = folder.glob("tuning_logs/*/tuning.jsonl")
    header, *records = log.read_text().splitlines()
    elsewhere = {**json.loads(header), "machine": "a CPU of somebody else, 2 cores"}
    log.write_text("\n".join([json.dumps(elsewhere), *records]) + "\n")
    (line,) = (line for line in compiled().out.splitlines() if "never timed on this CPU" in line)
    assert "of 4 of 4 kernels" in line and "tune --retime small.onnx --target x86, about" in line
    plain = compiled("--json")
    found = json.loads(plain.out)["retiming"]
    assert found["kernels"] == 4 and found["estimated_seconds"] > 0 and "never timed" not in plain.err
    retime = found["command"].removeprefix("ofa-tvm ").split()
    short = json.loads(without_torch(folder, *retime, "--seconds", 0, "--json").out)
    assert not short["complete"] and short["trials"] == 0, "a limit holds"
    again = json.loads(without_torch(folder, *retime, "--json").out)
    assert again["complete"] and again["tuned"] == 4 and again["trials"] >= 4
    assert json.loads(without_torch(folder, *retime, "--json").out)["trials"] == 0, "nothing is timed twice"
    assert json.loads(compiled("--json").out)["retiming"] is None


@pytest.mark.slow
def test_a_format_without_instructions_is_said_to_be_slower(folder: Path) -> None:
    words = ("compile", "small.onnx", "--target", "x86-64-v3", "-o", "half.so")
    done = without_torch(folder, *words, "--dtype", "float16")
    assert done.code == 0 and "slower than float32" in done.err
    assert "slower" not in without_torch(folder, *words, "--dtype", "float16-weights").err


@pytest.mark.slow
def test_compile_refuses_what_it_cannot_do(folder: Path) -> None:
    assert "there is no ONNX file" in without_torch(folder, "compile", "none.onnx").error(1)
    model = ("compile", "small.onnx")
    assert "is not a shape" in without_torch(folder, *model, "--shape", "input=1x3xa").error(2)
    assert "no input 'image'" in without_torch(folder, *model, "--shape", "image=1x3x16x16").error(2)
    assert "name a .so file" in without_torch(folder, *model, "-o", ".").error(2)
    assert "unknown target" in without_torch(folder, *model, "--target", "x87").error(2)
    assert not list(folder.glob("*.so"))
