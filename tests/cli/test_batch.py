"""Modules that take several images a call, through the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from demo_project import DemoProject
from small_module import SIZE, write_small_onnx
from verbs import Verbs

import ofa_tvm
from ofa_tvm.deploy import Artefact
from ofa_tvm.latency.bench import SubnetBench
from ofa_tvm.logs import find_records
from ofa_tvm.reference import reference_session
from ofa_tvm.targets import Variant, get_target

BATCH = 3


@pytest.fixture
def dynamic(tmp_path: Path) -> Path:
    """A network for any number of images."""
    model = onnx.load(write_small_onnx(tmp_path / "fixed.onnx"))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "n"
    onnx.save(model, tmp_path / "dynamic.onnx")
    return tmp_path / "dynamic.onnx"


@pytest.mark.slow
def test_a_project_is_searched_for_a_throughput(ofa: Verbs, demo: DemoProject, tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    shutil.copytree(demo.folder, folder)
    search = ["search", "--batch", BATCH, "--throughput", "20/s", "-o", "three", "--rounds", 1]
    search += ["--candidates", 1, "--latency-samples", 4, "--json"]
    message = ofa(folder, *search).error(1)
    assert f"ofa-tvm tune --target x86 --batch {BATCH}" in message, "kernels of one image are others"

    tuned = ofa(folder, "tune", "--batch", BATCH, "--trials", 1, "--seconds", 6)
    assert tuned.code == 0, tuned.err
    done = ofa(folder, *search)
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert (report["batch"], report["budget_ms"]) == (BATCH, 1e3 * BATCH / 20)
    assert report["measured_latency_ms"] <= report["budget_ms"]
    assert report["images_per_s"] == pytest.approx(1e3 * BATCH / report["measured_latency_ms"])

    artefact = Artefact.open(folder / "three")
    assert artefact.manifest.variant == Variant("x86", batch=BATCH)
    assert artefact.runner.inputs[0].shape[0] == BATCH
    header, *rows = (folder / f"latency-x86-b{BATCH}.csv").read_text().splitlines()
    assert header == f"arch,x86_b{BATCH}_ms" and len(rows) == 4
    assert (folder / f"latency-x86-b{BATCH}.model").is_file()
    assert artefact.manifest.accuracy.measured == report["test_accuracy"]
    image, *_ = demo.result.images
    answer = json.loads(ofa(folder, "run", "three", image, "--json").out)
    assert answer["predictions"][0]["top"] == [
        {"label": p.label, "index": p.index, "probability": round(p.probability, 6)}
        for p in artefact.classify([image])[0]
    ]


def test_a_dynamic_first_size_is_the_batch(ofa: Verbs, dynamic: Path, tmp_path: Path) -> None:
    done = ofa(tmp_path, "compile", dynamic, "--batch", 4, "-o", "four.so", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["batch"] == 4 and "4 images a call" in done.err
    x = np.random.default_rng(0).standard_normal((4, 3, SIZE, SIZE)).astype(np.float32)
    run = ofa_tvm.load(tmp_path / "four.so")
    (expected,) = reference_session(dynamic).run(None, {"input": x})
    np.testing.assert_allclose(run(x), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ofa_tvm.errors.UsageError, match=r"\(4, 3, 16, 16\)"):
        run(x[:1])
    measured = ofa(tmp_path, "measure", dynamic, "--batch", 2, "--seconds", 0.2, "--json")
    assert measured.code == 0, measured.err
    (kernel, *_) = json.loads(ofa(tmp_path, "tune", dynamic, "--batch", 5, "--dry-run", "--json").out)[
        "by_kernel"
    ]
    assert "5x" in kernel["name"]


@pytest.mark.slow
def test_subnets_are_measured_in_whole_calls() -> None:
    """Thirty-two images take no less than six times as long as one."""
    space, target = ofa_tvm.get_space("ofa_digits"), get_target("x86")
    net, arch = ofa_tvm.build_supernet(space, 10).eval(), space.max_arch(48)
    with (
        SubnetBench(net, target, find_records(target)) as one,
        SubnetBench(net, target.with_batch(32), find_records(target)) as many,
    ):
        assert many.measure([arch])[0].cost > 6 * one.measure([arch])[0].cost


def test_in_python_it_is_the_targets(dynamic: Path, tmp_path: Path) -> None:
    ofa_tvm.compile(dynamic, get_target("x86").with_batch(2), tmp_path / "two.so")
    assert ofa_tvm.load(tmp_path / "two.so").inputs[0].shape == (2, 3, SIZE, SIZE)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            ["compile", "fixed.onnx", "--batch", 4],
            "has the shape (1, 3, 16, 16); export the model with a dyn",
        ),
        (["compile", "fixed.onnx", "--batch", 0], "'--batch': 0 is not in the range"),
        (["measure", "m.so", "--batch", 2], "a module that is compiled now"),
        (["search", "--throughput", "50/s"], "--throughput needs --batch"),
        (["search", "--batch", 8, "--throughput", "0/s"], "not a number of images above 0 a second"),
        (["search", "--batch", 8, "--throughput", f"{'9' * 400}/s"], "not a number of images above 0"),
        (["search", "--batch", 8, "--throughput", "fast"], "type for example 5000/s"),
        (["search", "--batch", 8, "--throughput", "9/s", "--latency", "1ms"], "not both"),
        (["search", "--batch", 8, "--throughput", "9/s", "-t", "arm"], "in millions of instructions"),
        (["quickstart", "-o", "demo", "--batch", -1], "'--batch': -1 is not in the range"),
    ],
)
def test_usage_errors(ofa: Verbs, dynamic: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    assert message in ofa(tmp_path, *arguments).error(2)
