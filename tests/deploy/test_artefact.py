"""The artefact folder: whole or not there, checked when opened."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from small_module import LABELS, PREPROCESSING, SIZE, SmallModule, build_small_module, write_small_onnx

import ofa_tvm
from ofa_tvm.deploy import (
    Artefact,
    Classifier,
    Manifest,
    bare_runtime,
    check_against_onnxruntime,
    load,
    write_artefact,
)
from ofa_tvm.deploy.manifest import LatencyEntry, TargetEntry
from ofa_tvm.devices.runtime import runtime_libraries
from ofa_tvm.errors import UsageError, UserError
from ofa_tvm.files import sha256
from ofa_tvm.images import open_image
from ofa_tvm.runtime.module import require_cpu
from ofa_tvm.targets.machine import X86_LEVELS, detect_machine


@pytest.fixture
def artefact(small: SmallModule, tmp_path: Path) -> Artefact:
    manifest = Manifest(
        TargetEntry.of(small.target), space="ofa_digits", latency=LatencyEntry(2.0, None, 1.5, "ms")
    )
    return write_artefact(tmp_path / "deploy", small.so, small.onnx, manifest)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def picture(folder: Path, name: str = "p.png", seed: int = 0) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / name)
    return folder / name


def test_the_manifest_says_what_is_in_the_folder(artefact: Artefact, small: SmallModule) -> None:
    manifest = yaml.safe_load((artefact.folder / "manifest.yaml").read_text())
    assert manifest["labels"] == LABELS
    assert manifest["preprocessing"] == PREPROCESSING
    assert manifest["inputs"] == [{"name": "input", "shape": [1, 3, SIZE, SIZE], "dtype": "float32"}]
    assert manifest["target"]["name"] == "x86" and manifest["target"]["threads"] == 1
    assert manifest["sha256"] == {"model.so": sha256(small.so), "model.onnx": sha256(small.onnx)}
    assert manifest["versions"]["ofa-tvm"] == ofa_tvm.__version__
    assert manifest["versions"]["apache-tvm"]
    assert names(artefact.folder) == ["manifest.yaml", "model.onnx", "model.so"]
    assert names(artefact.folder.parent) == ["deploy"]


def test_same_inputs_give_the_same_manifest_apart_from_the_date(
    artefact: Artefact, small: SmallModule, tmp_path: Path
) -> None:
    given = artefact.manifest
    again = write_artefact(
        tmp_path / "b", small.so, small.onnx, Manifest(given.target, given.space, latency=given.latency)
    )
    assert dataclasses.replace(again.manifest, created="") == dataclasses.replace(given, created="")


def test_the_module_computes_what_its_onnx_says(artefact: Artefact) -> None:
    difference = check_against_onnxruntime(artefact)
    assert 0 <= difference.max_abs < 1e-2 and difference.max_rel < 1e-4
    assert set(difference.by_input) == {"random", "natural", "zeros", "large", "nan"}
    assert difference.max_rel == max(difference.by_input.values())
    images = np.random.default_rng(0).uniform(-2, 2, (5, 3, SIZE, SIZE)).astype(np.float32)
    assert check_against_onnxruntime(artefact, images).by_input["images"] < 1e-4


def test_the_check_sees_a_module_of_another_network(small: SmallModule, tmp_path: Path) -> None:
    other = write_small_onnx(tmp_path / "other.onnx", scale=1.5)
    mixed = write_artefact(tmp_path / "mixed", small.so, other, Manifest(TargetEntry.of(small.target)))
    assert check_against_onnxruntime(mixed).max_rel > 0.1


def pointwise(*nodes: onnx.NodeProto) -> onnx.ModelProto:
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 8, 8]) for name in "xy"]
    bounds = [numpy_helper.from_array(np.array(v, np.float32), n) for n, v in (("low", -20), ("high", 20))]
    zero = numpy_helper.from_array(np.array(0, np.float32), "zero")
    graph = helper.make_graph(nodes, "g", value[:1], value[1:], [*bounds, zero])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.mark.parametrize("kind", ["large", "nan"])
def test_extreme_inputs_find_what_random_ones_do_not(small: SmallModule, tmp_path: Path, kind: str) -> None:
    plain = pointwise(helper.make_node("Neg", ["x"], ["y"]))
    other = {
        "large": pointwise(
            helper.make_node("Clip", ["x", "low", "high"], ["c"]), helper.make_node("Neg", ["c"], ["y"])
        ),
        "nan": pointwise(
            helper.make_node("IsNaN", ["x"], ["bad"]),
            helper.make_node("Where", ["bad", "zero", "x"], ["c"]),
            helper.make_node("Neg", ["c"], ["y"]),
        ),
    }[kind]
    ofa_tvm.compile(other, small.target, tmp_path / "m.so")
    onnx.save(plain, tmp_path / "m.onnx")
    mixed = write_artefact(
        tmp_path / "mixed", tmp_path / "m.so", tmp_path / "m.onnx", Manifest(TargetEntry.of(small.target))
    )
    found = check_against_onnxruntime(mixed).by_input
    assert {name for name, difference in found.items() if difference > 1e-6} == {kind}


def test_pictures_get_classes(artefact: Artefact, small: SmallModule, tmp_path: Path) -> None:
    path = picture(tmp_path)
    (best,) = artefact.classify([path], top_k=4)
    x = artefact.classifier.preprocessing.apply(open_image(path))
    logits = onnxruntime.InferenceSession(str(small.onnx)).run(None, {"input": x})[0][0].astype(float)
    expected = np.exp(logits) / np.exp(logits).sum()
    assert [p.index for p in best] == list(np.argsort(-expected))
    assert [p.label for p in best] == [LABELS[p.index] for p in best]
    np.testing.assert_allclose([p.probability for p in best], np.sort(expected)[::-1], rtol=1e-4)
    # The .so alone carries labels and preprocessing as well.
    assert Classifier.of(load(small.so), "m.so").classify([path], top_k=4) == [best]


@pytest.mark.parametrize("name", ["model.so", "model.onnx"])
def test_a_damaged_file_is_named(artefact: Artefact, name: str) -> None:
    path = artefact.folder / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=rf"{name} is damaged or was changed .*copy the folder again"):
        Artefact.open(artefact.folder)
    with pytest.raises(UserError, match="damaged"):
        ofa_tvm.load(artefact.folder)
    path.unlink()
    with pytest.raises(UserError, match=rf"{name} is missing"):
        Artefact.open(artefact.folder)


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda text: text.replace("format: 1", "format: 2"), r"line 1: format: 2 is not 1"),
        (lambda text: text.replace("threads: 1", "threads: none"), r"target\.threads: 'none' is not a whole"),
        (lambda text: text + "labels: [\n", r"line \d+, column \d+: not valid YAML"),
        (lambda text: text.replace("latency:", "latencies:"), r"unknown key \(did you mean latency\?\)"),
        (lambda text: "", r"top level must be a table"),
        (lambda text: text.replace("threads: 1", "threads: 0"), r"target\.threads: 0 is below"),
        (
            lambda text: text.replace("threads: 1", "threads: 1000000000"),
            r"target\.threads: 1000000000 is above",
        ),
        (lambda text: text.replace("threads: 1", "threads: true"), r"target\.threads: True is not a whole"),
        (
            lambda text: re.sub(r"std: \[.*?\]", "std: [1.0e-300, 1, 1]", text),
            r"preprocessing\.std\.0: 1e-300 is",
        ),
        (
            lambda text: re.sub(r"mean: \[.*?\]", "mean: [.nan, 1, 1]", text),
            r"preprocessing\.mean\.0: nan is not",
        ),
        (
            lambda text: re.sub("resolution: .*", "resolution: 10000000", text),
            r"preprocessing\.resolution: 10",
        ),
        (lambda text: text.replace("  model.so:", "  ../model.so:"), r"sha256"),
        (
            lambda text: text.replace("sha256:", "sha256:\n  ../x: " + "a" * 64),
            r"sha256\.\.\./x: this is no name",
        ),
        (
            lambda text: text.replace("sha256:", "sha256:\n  /etc/passwd: " + "a" * 64),
            r"/etc/passwd: this is no name",
        ),
        (lambda text: text.replace("sha256:", "sha256:\n  x: 12"), r"sha256\.x: 12 is not text"),
    ],
)
def test_a_broken_manifest_names_line_and_key(artefact: Artefact, edit: object, says: str) -> None:
    path = artefact.folder / "manifest.yaml"
    path.write_text(edit(path.read_text()))  # type: ignore[operator]
    with pytest.raises(UserError, match=rf"manifest\.yaml.*{says}"):
        Artefact.open(artefact.folder)


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (
            lambda text: re.sub("resolution: .*", "resolution: 4096", text),
            r"pictures of 4096 x 4096 pixels, but",
        ),
        (lambda text: re.sub("resolution: .*", "resolution: 15", text), r"pictures of 15 x 15 pixels, but"),
        (
            lambda text: re.sub(r"labels: \[.*\]", "labels: [a, b]", text),
            rf"2 labels for {len(LABELS)} classes",
        ),
    ],
)
def test_a_manifest_of_another_network_is_refused_before_memory_is_taken(
    artefact: Artefact, edit: object, says: str
) -> None:
    path = artefact.folder / "manifest.yaml"
    path.write_text(edit(path.read_text()))  # type: ignore[operator]
    with pytest.raises(UserError, match=says):
        _ = Artefact.open(artefact.folder).classifier


def test_what_is_not_an_artefact_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no artefact folder .*none"):
        Artefact.open(tmp_path / "none")
    with pytest.raises(UserError, match=r"holds no manifest\.yaml"):
        Artefact.open(tmp_path)


def test_an_artefact_is_replaced_whole_and_other_files_stay(
    artefact: Artefact, small: SmallModule, tmp_path: Path
) -> None:
    (artefact.folder / "report.html").write_text("mine")
    (artefact.folder / "digits").mkdir()
    (artefact.folder / "digits/3.png").write_text("mine too")
    other = write_small_onnx(tmp_path / "other.onnx", scale=2.0)
    target = Manifest(TargetEntry.of(small.target))
    replaced = write_artefact(artefact.folder, small.so, other, target)
    assert replaced.manifest.sha256["model.onnx"] == sha256(other)
    assert "latency" not in yaml.safe_load((artefact.folder / "manifest.yaml").read_text())
    assert (artefact.folder / "report.html").read_text() == "mine"
    assert (artefact.folder / "digits/3.png").read_text() == "mine too"
    assert names(tmp_path) == ["deploy", "other.onnx"]


def test_a_failed_write_changes_nothing(artefact: Artefact, small: SmallModule, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in artefact.folder.iterdir()}
    target = Manifest(TargetEntry.of(small.target))
    (tmp_path / "text.onnx").write_text("not ONNX, but long enough to be read as something else")
    for so, onnx_path, manifest in (
        (tmp_path / "none.so", small.onnx, target),
        (small.so, tmp_path / "text.onnx", target),
        (small.so, small.onnx, dataclasses.replace(target, target=TargetEntry("x86", "x86", {}, 0))),
        (small.so, small.onnx, dataclasses.replace(target, latency=LatencyEntry(np.inf, None, None, "ms"))),
    ):
        with pytest.raises(UserError):
            write_artefact(artefact.folder, so, onnx_path, manifest)
        assert {path.name: path.read_bytes() for path in artefact.folder.iterdir()} == before
        assert names(tmp_path) == ["deploy", "text.onnx"]


def test_a_folder_with_something_else_is_left_alone(small: SmallModule, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter.txt").write_text("years of work")
    with pytest.raises(UsageError, match="not empty and not an artefact"):
        write_artefact(tmp_path / "thesis", small.so, small.onnx, Manifest(TargetEntry.of(small.target)))
    with pytest.raises(UsageError, match="is a file"):
        write_artefact(small.so, small.so, small.onnx, Manifest(TargetEntry.of(small.target)))
    assert names(tmp_path / "thesis") == ["chapter.txt"]


def test_a_runner_takes_exactly_its_input(small: SmallModule) -> None:
    run = ofa_tvm.load(small.so)
    x = np.random.default_rng(0).standard_normal((1, 3, SIZE, SIZE)).astype(np.float32)
    assert isinstance(run(x), np.ndarray) and run(x).shape == (1, len(LABELS))
    np.testing.assert_array_equal(run(x), run(np.asfortranarray(x)))
    assert run.inputs[0].shape == x.shape and run.outputs[0].name == "logits"
    assert run.metadata["target"]["name"] == "x86"
    with pytest.raises(UsageError, match=r"input input must have shape \(1, 3, 16, 16\), not \(1, 3, 8, 8\)"):
        run(x[:, :, :8, :8])
    with pytest.raises(UsageError, match=r"must be float32, not float64; use \.astype\('float32'\)"):
        run(x.astype(np.float64))
    with pytest.raises(UsageError, match="takes 1 inputs"):
        run(x, x)


def test_any_number_of_examples_goes_through_batches(small: SmallModule, tmp_path: Path) -> None:
    run = ofa_tvm.load(small.so)
    x = np.random.default_rng(0).standard_normal((5, 3, SIZE, SIZE)).astype(np.float32)
    one_by_one = np.concatenate([run(example[None]) for example in x])
    np.testing.assert_array_equal(run.batch(x), one_by_one)
    with pytest.raises(UsageError, match="takes examples of shape"):
        run.batch(x[:, :, :4])


@pytest.mark.usefixtures("all_cpus")
def test_loading_does_not_pin_the_caller(small: SmallModule) -> None:
    before = os.sched_getaffinity(0)
    run = ofa_tvm.load(small.so)
    run(np.zeros((1, 3, SIZE, SIZE), np.float32))
    assert os.sched_getaffinity(0) == before


def test_the_runtime_alone_is_enough(artefact: Artefact, tmp_path: Path) -> None:
    code = """
import json, sys
sys.modules["torch"] = None
from ofa_tvm.process import use_runtime_only
use_runtime_only()
from ofa_tvm.deploy import Artefact
best = Artefact.open(sys.argv[1]).classify([sys.argv[2]])[0][0]
maps = open("/proc/self/maps").read()
assert "libtvm_runtime.so" in maps and "libtvm_compiler" not in maps and "libtorch" not in maps
print(json.dumps([best.label, best.probability]))
"""
    path = picture(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", code, artefact.folder, path], capture_output=True, text=True, check=True
    )
    best = artefact.classify([path])[0][0]
    assert json.loads(done.stdout) == [best.label, pytest.approx(best.probability)]


def test_a_new_module_at_the_same_path_is_loaded_anew(small: SmallModule, tmp_path: Path) -> None:
    x = np.ones((1, 3, SIZE, SIZE), np.float32)
    folder = tmp_path / "deploy"
    target = Manifest(TargetEntry.of(small.target))
    runner = write_artefact(folder, small.so, small.onnx, target).runner  # stays loaded
    first = runner(x)
    other = write_small_onnx(tmp_path / "other.onnx", scale=2.0)
    so = build_small_module(other, tmp_path / "other.so", small.target)
    second = write_artefact(folder, so, other, target).runner(x)
    np.testing.assert_allclose(second, 2 * first, rtol=1e-4)
    np.testing.assert_array_equal(runner(x), first)


def test_the_runtime_travels_with_the_folder(small: SmallModule, tmp_path: Path) -> None:
    target = Manifest(TargetEntry.of(small.target))
    runtime = bare_runtime(small.target)
    made = write_artefact(tmp_path / "deploy", small.so, small.onnx, target, runtime=runtime)
    brought = ["classify", "libtvm_ffi.so", "libtvm_runtime.so"]
    files = {"model.so", "model.onnx", "run.sh", *(f"runtime/{name}" for name in brought)}
    assert set(made.manifest.sha256) == files
    assert names(made.folder / "runtime") == brought
    (made.folder / "runtime/libtvm_ffi.so").write_bytes(b"other")
    with pytest.raises(UserError, match=r"runtime/libtvm_ffi\.so is damaged"):
        Artefact.open(made.folder)
    again = write_artefact(made.folder, small.so, small.onnx, target)
    assert names(again.folder) == ["manifest.yaml", "model.onnx", "model.so"]
    with pytest.raises(UserError, match="no opencl runtime"):
        runtime_libraries("x86_64", "opencl")


def test_the_same_network_and_log_give_the_same_module(small: SmallModule, tmp_path: Path) -> None:
    again = build_small_module(small.onnx, tmp_path / "again.so", small.target)
    assert sha256(again) == sha256(small.so)


def test_code_for_a_cpu_with_more_instructions_is_refused() -> None:
    """Without the check the process would die of an illegal instruction."""
    old = dataclasses.replace(detect_machine(), arch="x86_64", model="Old CPU", flags=X86_LEVELS["x86-64-v3"])
    for target in ({"name": "x86", "tvm": {"mcpu": "znver4"}}, {"tvm": {"host": {"mcpu": "x86-64-v4"}}}):
        with pytest.raises(UserError, match=r"compiled for .*4 \(target .*\), but .*Old CPU.* lacks avx512"):
            require_cpu(target, old, Path("model.so"))
    for cpu in ("x86-64-v3", "haswell", "unheard-of"):
        require_cpu({"tvm": {"mcpu": cpu}}, old, Path("model.so"))
    require_cpu({"tvm": {"mcpu": "cortex-a72"}}, dataclasses.replace(old, arch="aarch64"), Path("model.so"))
