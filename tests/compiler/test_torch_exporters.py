"""Networks as torch's newer exporter writes them, with a batch whose size is left open."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx_models import reference
from torch import Tensor, nn

import ofa_tvm
from ofa_tvm.targets import get_target


class Block(nn.Module):
    """As in a ConvNeXt: channels are normalised and mixed in the last dimension, by a product."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.wide, self.narrow = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)
        self.scale = nn.Parameter(torch.full((channels,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.narrow(nn.functional.gelu(self.wide(y))) * self.scale
        return x + y.permute(0, 3, 1, 2)


class Tokens(nn.Module):
    """Patches as tokens, a token of the class before them, attention, and the batch in every reshape."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 8, stride=8)
        self.token = nn.Parameter(torch.randn(1, 1, 16))
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, activation="gelu", dropout=0.0)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.patches(x).flatten(2).transpose(1, 2)
        y = torch.cat([self.token.expand(x.shape[0], -1, -1), y], dim=1)
        return self.head(self.layer(y)[:, 0])


NETWORKS = {
    "convolutions": lambda: nn.Sequential(
        nn.Conv2d(3, 24, 4, stride=4), nn.GroupNorm(3, 24), Block(24), Block(24),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 5),
    ),
    "attention": Tokens,
    "inverted residual": lambda: nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.SiLU(), nn.Upsample(scale_factor=2),
        nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.Hardswish(), nn.PixelUnshuffle(2),
        nn.InstanceNorm2d(64), nn.AdaptiveMaxPool2d(2), nn.Flatten(), nn.Linear(256, 5), nn.LogSoftmax(1),
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_a_dynamic_batch_by_the_newer_exporter(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = NETWORKS[name]().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (torch.zeros(2, 3, 32, 32),),
            tmp_path / "m.onnx",
            dynamo=True,
            input_names=["image"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    x = np.random.default_rng(0).standard_normal((3, 3, 32, 32)).astype(np.float32)
    ofa_tvm.compile(tmp_path / "m.onnx", get_target("x86"), tmp_path / "m.so", shape={"image": x.shape})
    got = ofa_tvm.load(tmp_path / "m.so")(x)
    with torch.no_grad():
        np.testing.assert_allclose(got, network(torch.from_numpy(x)).numpy(), rtol=1e-4, atol=1e-5)
    (expected,) = reference(onnx.load(tmp_path / "m.onnx"), [x])
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
