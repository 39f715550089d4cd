"""Quantised subnets and the QDQ files made of them compute the same, every map on the same integers."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import ofa_tvm
from ofa_tvm import Arch, build_supernet
from ofa_tvm.compiler.dots import has_short_sums
from ofa_tvm.compiler.graph.quantized import canonical
from ofa_tvm.export import export_onnx, to_onnx
from ofa_tvm.supernet import Network, Supernet, calibrate, set_dtype
from ofa_tvm.supernet.fake_quantization import MapQuantizer

SPACES = ["ofa_digits", "ofa_mbv3_w1.0", "ofa_proxyless_w1.3", "ofa_resnet50"]


@pytest.fixture(scope="module", params=SPACES)
def supernet(request: pytest.FixtureRequest) -> Supernet:
    """Batch norms with factors of either sign, and some of 0."""
    torch.manual_seed(0)
    net = build_supernet(request.param, n_classes=12).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, -1, 1)
            nn.init.normal_(module.bias)
            module.weight.data[3] = 0
    return net


def quantized(net: Supernet, arch: Arch, resolution: int) -> Network:
    sub = net.extract(arch)
    set_dtype(sub, "int8")
    generator = torch.Generator().manual_seed(1)
    calibrate(sub, [torch.randn(4, 3, resolution, resolution, generator=generator) for _ in range(2)])
    return sub.eval()


def feature_maps(model: onnx.ModelProto) -> list[str]:
    """Names of all dequantised feature maps, in execution order."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [
        node.output[0]
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] not in weights
    ]


def weights_in_fours(model: onnx.ModelProto) -> Iterator[np.ndarray]:
    """Of all layers but depthwise ones, as the compiler puts them together."""
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    made = {node.output[0]: node for node in model.graph.node}
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm", "MatMul"):
            codes = arrays[made[node.input[1]].input[0]]
            transposed = node.op_type == "Conv" or any(a.name == "transB" and a.i for a in node.attribute)
            codes = np.moveaxis(codes if transposed else codes.T, 1, -1)
            if codes.shape[-1] > 1:
                fours = np.pad(codes, [*[(0, 0)] * (codes.ndim - 1), (0, -codes.shape[-1] % 4)])
                yield fours.reshape(*fours.shape[:-1], -1, 4)


def outputs(model: onnx.ModelProto, x: np.ndarray) -> list[np.ndarray]:
    """All dequantised feature maps, and the logits."""
    model = copy.deepcopy(model)
    names = feature_maps(model)
    for name in names:
        model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return session.run([*names, "logits"], {"input": x})


@contextmanager
def rounded_as(
    sub: Network, maps: list[np.ndarray], seen: list[tuple[MapQuantizer, Tensor]]
) -> Iterator[None]:
    """Let every quantiser give the map that another runtime has there; `seen` gets what it was given."""
    given = iter(maps)

    def replace(module: nn.Module, arguments: tuple[Tensor], output: Tensor) -> Tensor:
        assert isinstance(module, MapQuantizer)
        seen.append((module, arguments[0]))
        value = torch.from_numpy(next(given))
        assert value.shape == output.shape
        return value.contiguous(memory_format=torch.channels_last) if value.ndim == 4 else value

    hooks = [m.register_forward_hook(replace) for m in sub.modules() if isinstance(m, MapQuantizer)]
    yield
    for hook in hooks:
        hook.remove()
    assert next(given, None) is None


@torch.no_grad()
def test_every_map_has_the_same_integers(supernet: Supernet) -> None:
    """Values next to a tie may be rounded either way, since sums are of floats; nothing else may differ.

    So that one such value does not hide what comes after it, each layer is given ONNX Runtime's maps.
    """
    space, rng = supernet.space, np.random.default_rng(1)
    resolution = 68  # whose maps have odd sides further in
    for arch in (space.sample(rng), space.sample(rng)):
        sub = quantized(supernet, arch, resolution)
        model = to_onnx(sub, resolution)
        onnx.checker.check_model(model, full_check=True)
        x = rng.standard_normal((1, 3, resolution, resolution)).astype(np.float32)
        *maps, logits = outputs(model, x)
        seen: list[tuple[MapQuantizer, Tensor]] = []
        with rounded_as(sub, maps, seen):
            expected = sub(torch.from_numpy(x)).numpy()
        np.testing.assert_allclose(logits, expected, atol=2e-6 * abs(expected).max())
        ties = values = 0
        for (quantizer, before), after in zip(seen, maps, strict=True):
            scale, zero = quantizer.scheme()
            exact = before.numpy().astype(np.float64) / scale
            codes = np.rint(after.astype(np.float64) / scale)
            inside = np.clip(np.rint(exact), -float(zero), 255 - float(zero))
            off = codes != inside
            assert (abs(abs(exact - np.floor(exact)) - 0.5)[off] < 1e-3).all()
            ties, values = ties + int(off.sum()), values + off.size
            assert len(np.unique(codes)) > 1
        assert ties < 1e-3 * values


def test_the_form_is_what_the_compiler_makes_integer_kernels_of(supernet: Supernet) -> None:
    """Every product is of integers; maps lie between kernels as bytes, and are rounded once."""
    sub = quantized(supernet, supernet.space.median_arch(), 64)
    model = onnx.shape_inference.infer_shapes(to_onnx(sub, 64))
    scales = [tensor for tensor in model.graph.initializer if tensor.name.endswith("scale")]
    for value in map(onnx.numpy_helper.to_array, scales):  # 0 is refused by those who read it
        assert value.dtype == np.float32
        assert (value > 0).all() and np.isfinite(value).all()
    assert all(map(has_short_sums, weights_in_fours(model)))
    canonical(model)
    made = {name: node for node in model.graph.node for name in node.output}
    products = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    assert len(products) == sum(isinstance(m, nn.Conv2d | nn.Linear) for m in sub.modules())
    for node in products:
        assert [made[name].op_type for name in node.input[:2]] == ["DequantizeLinear"] * 2
    quantizers = sum(isinstance(m, MapQuantizer) for m in sub.modules())
    assert sum(node.op_type == "QuantizeLinear" for node in model.graph.node) == quantizers


@pytest.mark.slow
def test_a_compiled_module_agrees(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = build_supernet("ofa_digits", n_classes=12).eval()
    sub = quantized(net, net.space.median_arch(), 32)
    export_onnx(sub, tmp_path / "m.onnx", 32)
    module = ofa_tvm.compile(tmp_path / "m.onnx", ofa_tvm.get_target("x86"), tmp_path / "m.so")
    products = [use.signature for use in module.kernels if use.signature.has_product]
    assert products and all(signature.in_integers for signature in products)
    run, x = ofa_tvm.load(tmp_path / "m.so"), torch.randn(20, 1, 3, 32, 32)
    with torch.no_grad():
        expected = [sub(image).numpy() for image in x]
    differences = [
        abs(run(image.numpy()) - e).max() / abs(e).max() for image, e in zip(x, expected, strict=True)
    ]
    assert np.median(differences) < 0.05
