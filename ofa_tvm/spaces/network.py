"""One concrete network described by numbers: what a space's architecture, or a published file, comes down to.

The torch modules, the ONNX graph and the MAC counts are all made from these descriptions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

Activation = Literal["none", "relu", "relu6", "h_swish", "h_sigmoid"]
ACTIVATIONS: tuple[Activation, ...] = ("none", "relu", "relu6", "h_swish", "h_sigmoid")


def make_divisible(value: float, divisor: int = 8) -> int:
    """Nearest multiple of `divisor`, but never more than a tenth below `value` (MobileNetV2's rule)."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


def expanded(channels: int, ratio: float) -> int:
    """Middle channels of a block whose expansion acts on `channels`."""
    return make_divisible(round(channels * ratio))


def se_channels(channels: int) -> int:
    """Middle channels of a squeeze-excite on `channels` (reduction 4)."""
    return make_divisible(channels // 4)


@dataclass(frozen=True)
class Layer:
    """One operator of a network, with the shapes it sees (maps are square).

    Attributes
    ----------
    name
        where it is in the extracted module, e.g. `blocks.3.conv.depth_conv`
    h_in, h_out
        side of the input and output map, in pixels
    residual
        whether the block's input is added to this layer's output
    stage, block
        stage, and position of the block's entries in `Arch.e` (-1 outside the elastic blocks)
    norm, bias
        whether a batch norm follows (before any activation), and whether it has a bias of its own
    groups
        of a convolution's channels
    """

    name: str
    kind: Literal["conv", "depthwise", "linear", "pool"]
    c_in: int
    c_out: int
    kernel: int
    stride: int
    h_in: int
    h_out: int
    activation: Activation = "none"
    residual: bool = False
    stage: int = -1
    block: int = -1
    norm: bool = True
    bias: bool = False
    groups: int = 1

    @property
    def _weights(self) -> int:
        if self.kind == "pool":
            return 0
        return self.kernel**2 * self.c_out * (1 if self.kind == "depthwise" else self.c_in // self.groups)

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one image; batch norm, pooling and activations are not counted."""
        return self._weights * self.h_out**2

    @property
    def params(self) -> int:
        """Trainable values, those of the batch norm included."""
        return self._weights + self.c_out * (2 * self.norm + self.bias)


@dataclass(frozen=True)
class ConvSpec:
    """Convolution, batch norm (unless `norm` is false) and activation, outside the blocks."""

    name: str
    c_in: int
    c_out: int
    kernel: int
    stride: int
    activation: Activation
    norm: bool = True
    residual: bool = False


@dataclass(frozen=True)
class MBConvSpec:
    """Inverted residual: 1x1 expansion (if `expand`), depthwise, squeeze-excite (if `se`), 1x1 projection."""

    c_in: int
    c_mid: int
    c_out: int
    kernel: int
    stride: int
    activation: Activation
    se: bool
    expand: bool
    residual: bool
    stage: int = -1
    block: int = -1


@dataclass(frozen=True)
class BottleneckSpec:
    """ResNet-D bottleneck: 1x1, 3x3 (strided), 1x1, plus the input, pooled and projected if `project`."""

    c_in: int
    c_mid: int
    c_out: int
    stride: int
    project: bool
    stage: int = -1
    block: int = -1


BlockSpec = MBConvSpec | BottleneckSpec


@dataclass(frozen=True)
class NetworkSpec:
    """A whole network: stem, blocks, convolutions before and after the global average pool, classifier.

    `max_pool` is the 3x3 stride-2 pooling that ResNet has after its stem.
    """

    stem: tuple[ConvSpec, ...]
    blocks: tuple[BlockSpec, ...]
    before_pool: tuple[ConvSpec, ...]
    after_pool: tuple[ConvSpec, ...]
    n_classes: int
    bn_eps: float
    bn_momentum: float = 0.1
    max_pool: bool = False

    @property
    def n_features(self) -> int:
        """Width of what the classifier reads."""
        return (*self.blocks, *self.before_pool, *self.after_pool)[-1].c_out


def _smaller(side: int, stride: int) -> int:
    return -(-side // stride)


def conv_layer(spec: ConvSpec, side: int) -> Layer:
    """The layer that a convolution outside the blocks makes of a map of `side` pixels."""
    return Layer(
        spec.name, "conv", spec.c_in, spec.c_out, spec.kernel, spec.stride, side, _smaller(side, spec.stride),
        activation=spec.activation, residual=spec.residual, norm=spec.norm,
    )  # fmt: skip


def _mbconv_layers(spec: MBConvSpec, side: int, name: str) -> Iterator[Layer]:
    at, out, mid = (spec.stage, spec.block), _smaller(side, spec.stride), spec.c_mid
    if spec.expand:
        yield Layer(
            f"{name}.conv.inverted_bottleneck",
            "conv",
            spec.c_in,
            mid,
            1,
            1,
            side,
            side,
            spec.activation,
            False,
            *at,
        )
    depthwise = f"{name}.conv.depth_conv"
    yield Layer(
        depthwise, "depthwise", mid, mid, spec.kernel, spec.stride, side, out, spec.activation, False, *at
    )
    if spec.se:
        fc, squeezed = f"{depthwise}.se", se_channels(mid)
        yield Layer(f"{fc}.pool", "pool", mid, mid, out, out, out, 1, "none", False, *at, norm=False)
        yield Layer(
            f"{fc}.fc.reduce", "conv", mid, squeezed, 1, 1, 1, 1, "relu", False, *at, norm=False, bias=True
        )
        yield Layer(
            f"{fc}.fc.expand",
            "conv",
            squeezed,
            mid,
            1,
            1,
            1,
            1,
            "h_sigmoid",
            False,
            *at,
            norm=False,
            bias=True,
        )
    yield Layer(
        f"{name}.conv.point_linear", "conv", mid, spec.c_out, 1, 1, out, out, "none", spec.residual, *at
    )


def _bottleneck_layers(spec: BottleneckSpec, side: int, name: str) -> Iterator[Layer]:
    at, out, mid, stride = (spec.stage, spec.block), _smaller(side, spec.stride), spec.c_mid, spec.stride
    yield Layer(f"{name}.conv1", "conv", spec.c_in, mid, 1, 1, side, side, "relu", False, *at)
    yield Layer(f"{name}.conv2", "conv", mid, mid, 3, stride, side, out, "relu", False, *at)
    if spec.project:
        if stride > 1:
            yield Layer(
                f"{name}.downsample.pool", "pool", spec.c_in, spec.c_in, stride, stride, side, out,
                "none", False, *at, norm=False,
            )  # fmt: skip
        yield Layer(f"{name}.downsample", "conv", spec.c_in, spec.c_out, 1, 1, out, out, "none", False, *at)
    yield Layer(f"{name}.conv3", "conv", mid, spec.c_out, 1, 1, out, out, "relu", True, *at)


def block_layers(spec: BlockSpec, side: int, name: str = "block") -> tuple[Layer, ...]:
    """Layers of one block on a map of `side` pixels, in execution order."""
    if isinstance(spec, MBConvSpec):
        return tuple(_mbconv_layers(spec, side, name))
    return tuple(_bottleneck_layers(spec, side, name))


def stem_layers(stem: Sequence[ConvSpec], max_pool: bool, resolution: int) -> tuple[Layer, ...]:
    """Layers before the first block, on an input of `resolution` x `resolution` pixels."""
    layers: list[Layer] = []
    side = resolution
    for spec in stem:
        layers.append(conv_layer(spec, side))
        side = layers[-1].h_out
    if max_pool:
        width = stem[-1].c_out
        layers.append(Layer("max_pool", "pool", width, width, 3, 2, side, _smaller(side, 2), norm=False))
    return tuple(layers)


def head_layers(
    before_pool: Sequence[ConvSpec], after_pool: Sequence[ConvSpec], width: int, n_classes: int, side: int
) -> tuple[Layer, ...]:
    """Layers after the last block, whose map has `width` channels and `side` x `side` pixels."""
    layers = [conv_layer(spec, side) for spec in before_pool]
    width = layers[-1].c_out if layers else width
    layers.append(Layer("pool", "pool", width, width, side, side, side, 1, norm=False))
    layers += [conv_layer(spec, 1) for spec in after_pool]
    width = layers[-1].c_out
    layers.append(Layer("classifier", "linear", width, n_classes, 1, 1, 1, 1, norm=False, bias=True))
    return tuple(layers)


def network_layers(network: NetworkSpec, resolution: int) -> tuple[Layer, ...]:
    """Layers of a network on an input of `resolution` x `resolution` pixels, in execution order."""
    layers = list(stem_layers(network.stem, network.max_pool, resolution))
    for index, block in enumerate(network.blocks):
        layers += block_layers(block, layers[-1].h_out, f"blocks.{index}")
    last = layers[-1]
    head = head_layers(network.before_pool, network.after_pool, last.c_out, network.n_classes, last.h_out)
    return (*layers, *head)
