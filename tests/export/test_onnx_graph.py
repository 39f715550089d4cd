"""Exported graphs compute what PyTorch computes, in ONNX Runtime."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from ofa_tvm import UsageError, UserError, build_supernet, export_onnx, list_spaces
from ofa_tvm.export import to_onnx
from ofa_tvm.supernet import Supernet


def run_onnx(model: onnx.ModelProto | Path, x: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"input": x})[0]


@torch.no_grad()
def assert_same(sub: nn.Module, model: onnx.ModelProto | Path, shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    expected = sub(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(run_onnx(model, x), expected, atol=1e-4 * abs(expected).max())


@pytest.fixture(scope="module", params=list_spaces())
def supernet(request: pytest.FixtureRequest) -> Supernet:
    """Statistics as after training: not 0 and 1, which a forgotten fold would not show."""
    torch.manual_seed(0)
    net = build_supernet(request.param, n_classes=12).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                assert tensor is not None
                nn.init.uniform_(tensor, 0.3, 0.9)
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            nn.init.normal_(module.bias)
    return net


def test_onnx_runtime_agrees(supernet: Supernet) -> None:
    space, rng = supernet.space, np.random.default_rng(1)
    smallest = space.resolutions[1]  # 132 in the large spaces: odd maps
    for arch, batch in ((space.sample(rng), 1), (space.sample(rng), 3), (space.min_arch(), 1)):
        sub = supernet.extract(arch)
        model = to_onnx(sub, smallest, batch)
        onnx.checker.check_model(model, full_check=True)
        assert_same(sub, model, (batch, 3, smallest, smallest))


def test_batch_norm_is_folded_and_operators_are_few(supernet: Supernet) -> None:
    model = to_onnx(supernet.extract(supernet.space.min_arch()), 64)
    kinds = {node.op_type for node in model.graph.node}
    activations = {"Relu", "Clip", "HardSwish", "HardSigmoid"}
    pools = {"GlobalAveragePool", "AveragePool", "MaxPool"}
    assert kinds <= {"Conv", "Mul", "Add", "Flatten", "Gemm"} | activations | pools
    names = [weight.name for weight in model.graph.initializer]
    assert len(set(names)) == len(names)
    assert {opset.domain: opset.version for opset in model.opset_import}[""] >= 18


def test_training_mode_does_not_matter() -> None:
    net = build_supernet("ofa_digits", 10, dropout=0.5).train()
    sub = net.extract(net.space.min_arch())
    model = to_onnx(sub, 32)
    assert sub.training
    assert_same(sub.eval(), model, (1, 3, 32, 32))


def test_metadata(tmp_path: Path) -> None:
    net = build_supernet("ofa_digits", 3)
    arch = net.space.min_arch()
    preprocessing = {"mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]}
    path = tmp_path / "sub" / "m.onnx"
    export_onnx(net.extract(arch), path, 40, batch=2, labels=["a", "b", "ü"], preprocessing=preprocessing)
    model = onnx.load(path)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert metadata["arch"] == arch.replace(r=40).to_json()
    assert metadata["space"] == "ofa_digits"
    assert json.loads(metadata["labels"]) == ["a", "b", "ü"]
    assert json.loads(metadata["preprocessing"]) == {**preprocessing, "resolution": 40}
    assert [value.name for value in (*model.graph.input, *model.graph.output)] == ["input", "logits"]
    dims = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    assert dims == [2, 3, 40, 40]
    assert [file.name for file in path.parent.iterdir()] == ["m.onnx"]


def test_bad_requests(tmp_path: Path) -> None:
    net = build_supernet("ofa_digits", 3)
    sub = net.extract(net.space.min_arch())
    with pytest.raises(UsageError, match=r"extract a subnet first"):
        export_onnx(net, tmp_path / "m.onnx", 32)
    with pytest.raises(UsageError, match="2 labels for a network of 3 classes"):
        export_onnx(sub, tmp_path / "m.onnx", 32, labels=["a", "b"])
    with pytest.raises(UsageError, match="batch 0"):
        export_onnx(sub, tmp_path / "m.onnx", 32, batch=0)
    with pytest.raises(UsageError, match="resolution 8"):
        export_onnx(sub, tmp_path / "m.onnx", 8)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        export_onnx(sub, tmp_path / "file" / "m.onnx", 32)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
