"""Fake quantisation as PyTorch's two exporters write it."""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from test_quantized_form import assert_canonical, canonical, inputs, share_apart, unoptimised
from torch import Tensor, nn


class Fake(nn.Module):
    """One scale for the whole tensor."""

    def __init__(self, scale: float, zero: int, dtype: type | str = "uint8") -> None:
        super().__init__()
        self.settings = (scale, zero, *((0, 255) if dtype == "uint8" else (-128, 127)))

    def forward(self, x: Tensor) -> Tensor:
        return torch.fake_quantize_per_tensor_affine(x, *self.settings)


class Convolution(nn.Conv2d):
    """A scale each output channel."""

    def forward(self, x: Tensor) -> Tensor:
        scales = torch.full((self.out_channels,), 0.002)
        zeros = torch.zeros(self.out_channels, dtype=torch.int32)
        weight = torch.fake_quantize_per_channel_affine(self.weight, scales, zeros, 0, -128, 127)
        return self._conv_forward(x, weight, self.bias)


class Product(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        weight = torch.fake_quantize_per_tensor_affine(self.weight, 0.0011, 0, -128, 127)
        return nn.functional.linear(x, weight, self.bias)


def network() -> nn.Module:
    torch.manual_seed(0)
    layers: list[Any] = [
        Fake(0.03, 128),
        Convolution(3, 16, 3, 2, 1),
        nn.ReLU(),
        Fake(0.02, 0),
        Convolution(16, 16, 3, 1, 1, groups=16),
        nn.Hardswish(),
        Fake(0.03, -100, "int8"),
        Convolution(16, 24, 1),
        nn.ReLU6(),
        Fake(6 / 255, 0),
        nn.MaxPool2d(2),
        nn.Flatten(),
        Product(24 * 9, 10),
        Fake(0.05, 128),
    ]
    return nn.Sequential(*layers).eval()


@pytest.mark.slow
@pytest.mark.parametrize("newer", [False, True])
def test_an_exported_network(newer: bool, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        opset = 18 if newer else 17
        torch.onnx.export(
            network(),
            (torch.zeros(1, 3, 12, 12),),
            str(path),
            opset_version=opset,
            dynamo=newer,
            verbose=False,
        )
    model = onnx.load(path)
    same = canonical(model)
    assert_canonical(same)
    kinds = Counter(node.op_type for node in same.graph.node)
    assert (kinds["Conv"], kinds["Gemm"], kinds["HardSwish"]) == (3, 1, 1)
    assert not kinds["Relu"] + kinds["Clip"] + kinds["Transpose"]
    constant = {tensor.name for tensor in same.graph.initializer}
    assert not any(n.input[1] in constant for n in same.graph.node if n.op_type in ("Conv", "Gemm"))
    for seed in range(4):
        arrays = inputs(model, seed)
        assert share_apart(same, unoptimised(model, arrays), unoptimised(same, arrays)) <= 0.001
