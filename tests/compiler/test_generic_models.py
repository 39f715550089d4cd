"""Models of every kind that users bring compute what ONNX Runtime computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx_models import MODELS, Builder, Graph, mlp, random_inputs, reference, residual_network

import ofa_tvm
from ofa_tvm.errors import UsageError, UserError
from ofa_tvm.targets import Target, get_target

TOLERANCE = 1e-5  # of the largest output


@pytest.fixture(scope="module")
def target() -> Target:
    return get_target("x86")


def assert_equals_onnx_runtime(
    model: onnx.ModelProto, target: Target, folder: Path, shape: dict[str, tuple[int, ...]] | None = None
) -> ofa_tvm.compiler.CompiledModule:
    """Compile, run on random inputs and compare every output."""
    compiled = ofa_tvm.compile(model, target, folder / "m.so", shape=shape)
    arrays = random_inputs(model, shapes=shape)
    got = ofa_tvm.load(folder / "m.so")(*arrays)
    got = got if isinstance(got, tuple) else (got,)
    expected = reference(model, arrays)
    assert len(got) == len(expected)
    for ours, theirs in zip(got, expected, strict=True):
        assert ours.shape == theirs.shape
        assert ours.dtype == theirs.dtype
        assert np.isfinite(theirs).all()
        np.testing.assert_allclose(
            ours, theirs, rtol=0, atol=TOLERANCE * max(1e-6, float(np.abs(theirs).max()))
        )
    return compiled


@pytest.mark.slow
@pytest.mark.parametrize("build", MODELS, ids=lambda build: build.__name__)
def test_equals_onnx_runtime(build: Builder, target: Target, tmp_path: Path) -> None:
    assert_equals_onnx_runtime(build(), target, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["x86-64-v2", "x86-64-v3"])
def test_older_cpus(name: str, tmp_path: Path) -> None:
    assert_equals_onnx_runtime(residual_network(24), get_target(name), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "build", [lambda: residual_network(40, batch=2), lambda: mlp(batch=3)], ids=["cnn", "mlp"]
)
@pytest.mark.usefixtures("all_cpus")
def test_batches_and_threads(build: Builder, target: Target, tmp_path: Path) -> None:
    assert_equals_onnx_runtime(build(), target.with_threads(2), tmp_path)


@pytest.mark.usefixtures("all_cpus")
def test_no_kernel_of_a_convolutional_network_is_left_unscheduled(target: Target, tmp_path: Path) -> None:
    for threads in (1, 2):
        compiled = ofa_tvm.compile(residual_network(), target.with_threads(threads), tmp_path / "m.so")
        assert {use.origin for use in compiled.kernels} == {"default"}
        assert compiled.tuned_fraction == 0


def dynamic_model() -> onnx.ModelProto:
    g = Graph()
    x = g.op("Relu", g.conv(g.input("x", "n", 3, "height", "width"), 3, 8))
    return g.model(g.op("Flatten", g.op("GlobalAveragePool", x)))


def test_dynamic_shapes_with_a_given_size(target: Target, tmp_path: Path) -> None:
    assert_equals_onnx_runtime(dynamic_model(), target, tmp_path, {"x": (2, 3, 9, 7)})


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        (None, r"'x' has the dynamic shape \(\?, 3, \?, \?\)"),
        ({"x": (1, 4, 8, 8)}, r"does not fit input 'x'"),
        ({"x": (1, 3, 8)}, r"does not fit input 'x'"),
        ({"x": (1, 3, 0, 8)}, r"does not fit input 'x'"),
        ({"x": (1, 3, 8, 8), "y": (1,)}, r"no input 'y'"),
    ],
)
def test_dynamic_shapes_without_a_fitting_size(
    shape: dict[str, tuple[int, ...]] | None, said: str, target: Target, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=said):
        ofa_tvm.compile(dynamic_model(), target, tmp_path / "m.so", shape=shape)
    assert not list(tmp_path.iterdir())


def test_unsupported_operator_is_named_with_its_node(target: Target, tmp_path: Path) -> None:
    g = Graph()
    path = tmp_path / "m.onnx"
    onnx.save(g.model(g.op("Det", g.input("x", 7, 5, 5))), path)
    with pytest.raises(UserError, match=r"m\.onnx: operator Det \(node 'node0'\) is not supported"):
        ofa_tvm.compile(path, target, tmp_path / "m.so")
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


def test_custom_operator_is_named_with_its_domain(target: Target, tmp_path: Path) -> None:
    node = onnx.helper.make_node("FusedThing", ["x"], ["y"], name="special", domain="com.acme")
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 2])
    out = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 2])
    opsets = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid("com.acme", 1)]
    graph = onnx.helper.make_graph([node], "g", [value], [out])
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9)
    with pytest.raises(UserError, match=r"FusedThing of domain 'com\.acme' \(node 'special'\)"):
        ofa_tvm.compile(model, target, tmp_path / "m.so")


@pytest.mark.parametrize("content", [b"", b"no model", b"\x08\x09"], ids=["empty", "text", "cut"])
def test_broken_file(content: bytes, target: Target, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"m\.onnx is not a valid ONNX model"):
        ofa_tvm.compile(path, target, tmp_path / "m.so")


def test_truncated_file(target: Target, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(residual_network().SerializeToString()[:-1000])
    with pytest.raises(UserError, match=r"m\.onnx is not a valid ONNX model"):
        ofa_tvm.compile(path, target, tmp_path / "m.so")


def test_missing_file_and_folder(target: Target, tmp_path: Path) -> None:
    for path in (tmp_path / "absent.onnx", tmp_path):
        with pytest.raises(UserError, match="there is no ONNX file"):
            ofa_tvm.compile(path, target, tmp_path / "m.so")


def test_invalid_model_in_memory(target: Target, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the model"):
        ofa_tvm.compile(onnx.ModelProto(), target, tmp_path / "m.so")


def test_weights_of_the_wrong_shape(target: Target, tmp_path: Path) -> None:
    g = Graph()
    g.inputs = [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 4, 8, 8])]
    g.op("Conv", "x", g.weight(8, 3, 3, 3))
    out = onnx.helper.make_tensor_value_info("conv0", onnx.TensorProto.FLOAT, [1, 8, 6, 6])
    graph = onnx.helper.make_graph(g.nodes, "g", g.inputs, [out], g.initializers)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    with pytest.raises(UserError, match=r"operator Conv \(node 'node0'\)"):
        ofa_tvm.compile(model, target, tmp_path / "m.so")


@pytest.mark.slow
def test_a_network_exported_by_torch(target: Target, tmp_path: Path) -> None:
    """Batch norms of their own, a shortcut, dynamic batch and size, flattening by computed shapes."""
    import torch
    from torch import nn

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(3, 12, 5, 2, 2, bias=False), nn.BatchNorm2d(12), nn.SiLU())
            self.body = nn.Sequential(
                nn.Conv2d(12, 12, 3, 1, 1), nn.BatchNorm2d(12), nn.GELU(), nn.MaxPool2d(3, 1, 1)
            )
            self.head = nn.Linear(12 * 4, 7)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x)
            x = torch.cat([x[:, :4], (x + self.body(x))[:, 4:]], dim=1)
            x = nn.functional.adaptive_avg_pool2d(x, 2)
            return torch.log_softmax(self.head(x.reshape(x.shape[0], -1)), dim=1)

    torch.manual_seed(0)
    torch.onnx.export(
        Residual().eval(),
        (torch.zeros(1, 3, 16, 16),),
        tmp_path / "m.onnx",
        input_names=["image"],
        dynamic_axes={"image": {0: "batch"}},
        opset_version=17,
        dynamo=False,
    )
    assert_equals_onnx_runtime(onnx.load(tmp_path / "m.onnx"), target, tmp_path, {"image": (2, 3, 16, 16)})
