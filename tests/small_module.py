"""A small convolutional network as ONNX and as a compiled module, for tests of what follows it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from once import Once

import ofa_tvm
from ofa_tvm.targets import Target, get_target

SIZE = 16
LABELS = ["zero", "one", "two", "three"]
PREPROCESSING = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "resolution": SIZE}


def write_small_onnx(path: Path, width: int = 8, scale: float = 1.0, classes: int = 4) -> Path:
    """conv 3x3 stride 2 + ReLU, global average pooling, linear; weights drawn from seed 0, times `scale`."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    arrays = {
        "w": rng.standard_normal((width, 3, 3, 3)) * 0.2,
        "b": rng.standard_normal(width) * 0.1,
        "fc": rng.standard_normal((width, classes)) * scale,
    }
    nodes = [
        helper.make_node("Conv", ["input", "w", "b"], ["conv"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["conv"], ["act"]),
        helper.make_node("GlobalAveragePool", ["act"], ["pool"]),
        helper.make_node("Flatten", ["pool"], ["flat"]),
        helper.make_node("MatMul", ["flat", "fc"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, classes])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(
        model, {"labels": json.dumps(LABELS[:classes]), "preprocessing": json.dumps(PREPROCESSING)}
    )
    onnx.save(model, path)
    return path


def build_small_module(onnx_path: Path, path: Path, target: Target) -> Path:
    """Compile it; returns `path`."""
    ofa_tvm.compile(onnx_path, target, path)
    return path


@dataclass(frozen=True)
class SmallModule:
    """The network's files and the target that it was compiled for."""

    onnx: Path
    so: Path
    target: Target


@pytest.fixture(scope="session")
def small(once: Once) -> SmallModule:
    """The small network, compiled for this machine."""
    return once.make("small", _small)


def _small(folder: Path) -> SmallModule:
    target = get_target("x86")
    onnx_path = write_small_onnx(folder / "small.onnx")
    return SmallModule(onnx_path, build_small_module(onnx_path, folder / "small.so", target), target)
