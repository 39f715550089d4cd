"""Well-known image networks in plain PyTorch with random weights, for `any_onnx.py`.

Written from the papers: MobileNetV2 (arXiv 1801.04381), MobileNetV3-large (1905.02244), EfficientNet-B0
(1905.11946), ResNet (1512.03385, stride in the 3x3), ConvNeXt-tiny (2201.03545), ViT-tiny (2010.11929 with
the width of 2012.12877). Only shapes and operators matter for a latency, so nothing is trained.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def _conv(
    c_in: int, c_out: int, k: int = 1, stride: int = 1, groups: int = 1, act: type[nn.Module] | None = None
) -> nn.Sequential:
    layers: list[nn.Module] = [
        nn.Conv2d(c_in, c_out, k, stride, k // 2, groups=groups, bias=False),
        nn.BatchNorm2d(c_out),
    ]
    return nn.Sequential(*layers, *([act()] if act else []))


class Residual(nn.Module):
    """x + f(x), with a projection where the shapes differ, and an activation behind the sum."""

    def __init__(
        self, body: nn.Module, shortcut: nn.Module | None = None, act: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.body, self.shortcut, self.act = body, shortcut or nn.Identity(), act or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.shortcut(x) + self.body(x))


class SqueezeExcite(nn.Module):
    """Channels scaled by a gate that sees the mean of the map."""

    def __init__(self, channels: int, squeezed: int, act: type[nn.Module], gate: type[nn.Module]) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, squeezed, 1),
            act(),
            nn.Conv2d(squeezed, channels, 1),
            gate(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)


def _inverted(
    c_in: int, mid: int, c_out: int, k: int, stride: int, act: type[nn.Module], se: nn.Module | None = None
) -> nn.Module:
    layers = [_conv(c_in, mid, act=act)] if mid != c_in else []
    layers += [_conv(mid, mid, k, stride, mid, act), *([se] if se else []), _conv(mid, c_out)]
    body = nn.Sequential(*layers)
    return Residual(body) if stride == 1 and c_in == c_out else body


def _classifier(*layers: nn.Module) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), *layers]


def mobilenet_v2() -> nn.Module:
    layers: list[nn.Module] = [_conv(3, 32, 3, 2, act=nn.ReLU6)]
    c = 32
    table = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
             (6, 320, 1, 1))  # fmt: skip
    for expand, out, count, stride in table:
        for i in range(count):
            layers.append(_inverted(c, c * expand, out, 3, stride if i == 0 else 1, nn.ReLU6))
            c = out
    return nn.Sequential(*layers, _conv(c, 1280, act=nn.ReLU6), *_classifier(nn.Linear(1280, 1000)))


def mobilenet_v3_large() -> nn.Module:
    layers: list[nn.Module] = [_conv(3, 16, 3, 2, act=nn.Hardswish)]
    c = 16
    table = (
        (3, 16, 16, 0, 0, 1), (3, 64, 24, 0, 0, 2), (3, 72, 24, 0, 0, 1), (5, 72, 40, 24, 0, 2),
        (5, 120, 40, 32, 0, 1), (5, 120, 40, 32, 0, 1), (3, 240, 80, 0, 1, 2), (3, 200, 80, 0, 1, 1),
        (3, 184, 80, 0, 1, 1), (3, 184, 80, 0, 1, 1), (3, 480, 112, 120, 1, 1), (3, 672, 112, 168, 1, 1),
        (5, 672, 160, 168, 1, 2), (5, 960, 160, 240, 1, 1), (5, 960, 160, 240, 1, 1),
    )  # fmt: skip
    for k, mid, out, squeezed, hard, stride in table:
        act = nn.Hardswish if hard else nn.ReLU
        se = SqueezeExcite(mid, squeezed, nn.ReLU, nn.Hardsigmoid) if squeezed else None
        layers.append(_inverted(c, mid, out, k, stride, act, se))
        c = out
    head = _classifier(nn.Linear(960, 1280), nn.Hardswish(), nn.Linear(1280, 1000))
    return nn.Sequential(*layers, _conv(c, 960, act=nn.Hardswish), *head)


def efficientnet_b0() -> nn.Module:
    layers: list[nn.Module] = [_conv(3, 32, 3, 2, act=nn.SiLU)]
    c = 32
    table = ((1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5),
             (6, 192, 4, 2, 5), (6, 320, 1, 1, 3))  # fmt: skip
    for expand, out, count, stride, k in table:
        for i in range(count):
            se = SqueezeExcite(c * expand, max(1, c // 4), nn.SiLU, nn.Sigmoid)
            layers.append(_inverted(c, c * expand, out, k, stride if i == 0 else 1, nn.SiLU, se))
            c = out
    return nn.Sequential(*layers, _conv(c, 1280, act=nn.SiLU), *_classifier(nn.Linear(1280, 1000)))


def _resnet(counts: tuple[int, ...], bottleneck: bool) -> nn.Module:
    layers: list[nn.Module] = [_conv(3, 64, 7, 2, act=nn.ReLU), nn.MaxPool2d(3, 2, 1)]
    c = 64
    for stage, count in enumerate(counts):
        width = 64 << stage
        out = width * 4 if bottleneck else width
        for i in range(count):
            stride = 2 if stage and i == 0 else 1
            if bottleneck:
                parts = [_conv(c, width, act=nn.ReLU), _conv(width, width, 3, stride, act=nn.ReLU),
                         _conv(width, out)]  # fmt: skip
            else:
                parts = [_conv(c, width, 3, stride, act=nn.ReLU), _conv(width, width, 3)]
            shortcut = _conv(c, out, 1, stride) if stride > 1 or c != out else None
            layers.append(Residual(nn.Sequential(*parts), shortcut, nn.ReLU()))
            c = out
    return nn.Sequential(*layers, *_classifier(nn.Linear(c, 1000)))


def resnet18() -> nn.Module:
    return _resnet((2, 2, 2, 2), bottleneck=False)


def resnet50() -> nn.Module:
    return _resnet((3, 4, 6, 3), bottleneck=True)


class ChannelNorm(nn.Module):
    """Layer norm over the channels of an NCHW map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNeXtBlock(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(c, c, 7, padding=3, groups=c)
        self.body = nn.Sequential(
            nn.LayerNorm(c, eps=1e-6), nn.Linear(c, 4 * c), nn.GELU(), nn.Linear(4 * c, c)
        )
        self.scale = nn.Parameter(torch.full((c,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(self.depthwise(x).permute(0, 2, 3, 1)) * self.scale
        return x + y.permute(0, 3, 1, 2)


def convnext_tiny() -> nn.Module:
    widths, counts = (96, 192, 384, 768), (3, 3, 9, 3)
    layers: list[nn.Module] = [nn.Conv2d(3, 96, 4, 4), ChannelNorm(96)]
    for stage, (c, count) in enumerate(zip(widths, counts, strict=True)):
        layers += [ConvNeXtBlock(c) for _ in range(count)]
        if stage < 3:
            layers += [ChannelNorm(c), nn.Conv2d(c, widths[stage + 1], 2, 2)]
    return nn.Sequential(*layers, *_classifier(nn.LayerNorm(768, eps=1e-6), nn.Linear(768, 1000)))


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, width = x.shape
        q, k, v = self.qkv(x).reshape(n, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) * (width // self.heads) ** -0.5).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).reshape(n, tokens, width))


class ViT(nn.Module):
    def __init__(self, width: int = 192, depth: int = 12, heads: int = 3, patch: int = 16) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(torch.randn(1, (224 // patch) ** 2 + 1, width) * 0.02)
        blocks: list[nn.Module] = []
        for _ in range(depth):
            blocks.append(Residual(nn.Sequential(nn.LayerNorm(width), Attention(width, heads))))
            mlp = nn.Sequential(
                nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
            )
            blocks.append(Residual(mlp))
        self.blocks = nn.Sequential(*blocks, nn.LayerNorm(width))
        self.head = nn.Linear(width, 1000)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position
        return self.head(self.blocks(x)[:, 0])


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "mobilenet_v2": mobilenet_v2,
    "mobilenet_v3_large": mobilenet_v3_large,
    "efficientnet_b0": efficientnet_b0,
    "resnet18": resnet18,
    "resnet50": resnet50,
    "convnext_tiny": convnext_tiny,
    "vit_tiny": ViT,
}


def network(name: str) -> nn.Module:
    """A network in inference form, with batch norms that do something."""
    torch.manual_seed(0)
    net = NETWORKS[name]().eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.8, 1.2)
    return net
