"""ofa-tvm measure of ONNX files with dynamic inputs, and of modules beside ONNX Runtime."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper
from verbs import without_torch

_QUICK = ("--seconds", 0.1, "--repeats", 5)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 8]) for n in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Softmax", ["x"], ["y"])], "g", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "m.onnx")
    return tmp_path


@pytest.mark.slow
def test_dynamic_inputs_take_a_shape(folder: Path) -> None:
    assert "--shape x=1x8" in without_torch(folder, "measure", "m.onnx").error(2)
    done = without_torch(folder, "measure", "m.onnx", "--shape", "x=3x8", "--onnxruntime", *_QUICK, "--json")
    answer = json.loads(done.out)
    assert answer["median_ms"] > 0 and answer["onnxruntime"]["median_ms"] > 0


@pytest.mark.slow
def test_a_module_finds_the_onnx_that_it_was_compiled_from(folder: Path) -> None:
    assert without_torch(folder, "compile", "m.onnx", "--shape", "x=3x8", "-o", "other.so").code == 0
    assert without_torch(folder, "measure", "other.so", "--onnxruntime", *_QUICK).code == 0
    (folder / "m.onnx").rename(folder / "moved.onnx")
    missing = without_torch(folder, "measure", "other.so", "--onnxruntime").error(2)
    assert "m.onnx is not beside it" in missing and "--onnx FILE" in missing
    named = ("measure", "other.so", "--onnxruntime", "--onnx", "moved.onnx", *_QUICK)
    assert without_torch(folder, *named).code == 0
    model = onnx.load(folder / "moved.onnx")
    model.doc_string = "changed"
    onnx.save(model, folder / "moved.onnx")
    assert "was not compiled from moved.onnx as it is now" in without_torch(folder, *named).error(2)
