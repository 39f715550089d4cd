"""Networks from other sources: each tuned, compiled with its log, run, and compared with ONNX Runtime."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
from small_module import SIZE, write_small_onnx

import ofa_tvm
from ofa_tvm.compiler.graph import Shapes
from ofa_tvm.reference import reference_session
from ofa_tvm.targets import get_target
from ofa_tvm.tuning import crew
from ofa_tvm.workflow.tune import model_kernels, tune

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def one_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "allowed_cpus", lambda: {0})


def tuned_equals_onnx_runtime(
    path: Path, inputs: dict[str, np.ndarray], folder: Path, shape: Shapes | None = None
) -> None:
    target = get_target("x86")
    kernels = model_kernels(path, target, shape)
    result = tune(kernels, target, folder, trials=2)
    assert (result.tuned, result.failed) == (len(kernels), 0)
    compiled = ofa_tvm.compile(path, target, folder / "m.so", shape=shape, logs=[folder])
    assert {use.origin for use in compiled.kernels} == {"tuned"}
    assert compiled.tuned_fraction == 1
    got = ofa_tvm.load(folder / "m.so")(*inputs.values())
    expected = reference_session(path).run(None, inputs)
    for ours, theirs in zip(got if isinstance(got, tuple) else (got,), expected, strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5 * max(1.0, np.abs(theirs).max()))


def test_a_classifier_of_scikit_learn(tmp_path: Path) -> None:
    skl2onnx = pytest.importorskip("skl2onnx")
    from sklearn.datasets import load_digits
    from sklearn.neural_network import MLPClassifier

    x, y = load_digits(return_X_y=True)
    x = x.astype(np.float32) / 16
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it does not converge in so few iterations
        mlp = MLPClassifier((48, 32), max_iter=15, random_state=0).fit(x, y)
    model = skl2onnx.to_onnx(mlp, x[:1], options={"zipmap": False}, target_opset=18)
    onnx.save(model, tmp_path / "mlp.onnx")
    tuned_equals_onnx_runtime(tmp_path / "mlp.onnx", {"X": x[:4]}, tmp_path, {"X": (4, 64)})
    labels, probabilities = ofa_tvm.load(tmp_path / "m.so")(x[:4])
    np.testing.assert_array_equal(labels, mlp.predict(x[:4]))
    np.testing.assert_allclose(probabilities, mlp.predict_proba(x[:4]), atol=1e-5)


def test_a_residual_network_exported_by_torch(tmp_path: Path) -> None:
    import torch
    from torch import nn

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Sequential(
                nn.Conv2d(3, 16, 7, 2, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
            )
            self.body = nn.Sequential(
                nn.Conv2d(16, 16, 3, 1, 1, bias=False),
                nn.BatchNorm2d(16),
                nn.ReLU(),
                nn.Conv2d(16, 16, 3, 1, 1),
            )
            self.head = nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16 * 16, 10))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x)
            return self.head(torch.relu(x + self.body(x)))

    torch.manual_seed(0)
    image = torch.randn(1, 3, 32, 32)
    torch.onnx.export(Residual().eval(), (image,), tmp_path / "r.onnx", input_names=["image"], dynamo=False)
    tuned_equals_onnx_runtime(tmp_path / "r.onnx", {"image": image.numpy()}, tmp_path)


def test_a_graph_built_by_hand(tmp_path: Path) -> None:
    """Two inputs, two outputs, a reduction, a batch of three."""
    rng = np.random.default_rng(0)
    node, value = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    weights = {"w": rng.standard_normal((20, 12)), "v": rng.standard_normal((12, 6))}
    graph = onnx.helper.make_graph(
        [
            node("MatMul", ["a", "w"], ["h"]),
            node("Add", ["h", "b"], ["s"]),
            node("Tanh", ["s"], ["t"]),
            node("ReduceMax", ["t"], ["peak"], keepdims=0, axes=[1]),
            node("MatMul", ["t", "v"], ["u"]),
            node("Softmax", ["u"], ["p"], axis=1),
        ],
        "by hand",
        [value("a", onnx.TensorProto.FLOAT, [3, 20]), value("b", onnx.TensorProto.FLOAT, [3, 12])],
        [value("p", onnx.TensorProto.FLOAT, [3, 6]), value("peak", onnx.TensorProto.FLOAT, [3])],
        [onnx.numpy_helper.from_array(v.astype(np.float32), name) for name, v in weights.items()],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, tmp_path / "g.onnx")
    inputs = {
        "a": rng.standard_normal((3, 20)).astype(np.float32),
        "b": rng.standard_normal((3, 12)).astype(np.float32),
    }
    tuned_equals_onnx_runtime(tmp_path / "g.onnx", inputs, tmp_path)


def test_a_quantised_network(tmp_path: Path) -> None:
    """Workers know the operators that integer kernels are made of."""
    path = write_small_onnx(tmp_path / "float.onnx")
    images = np.random.default_rng(0).standard_normal((8, 3, SIZE, SIZE)).astype(np.float32)
    quantised = ofa_tvm.quantize(path, images, tmp_path / "int8.onnx").path
    tuned_equals_onnx_runtime(quantised, {"input": images[:1]}, tmp_path)
