"""Layers of a fixed network: what a subnet is made of once it is extracted.

Modules are named as in the official code's specialised networks, so that their weights load.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ofa_tvm.errors import UsageError, shown
from ofa_tvm.spaces.network import ACTIVATIONS, Activation, BottleneckSpec, ConvSpec, MBConvSpec, se_channels
from ofa_tvm.supernet.depthwise import DepthwiseConv2d
from ofa_tvm.supernet.fake_quantization import MapQuantizer, WeightQuantizer


def activate(x: Tensor, activation: Activation) -> Tensor:
    """Apply an activation; works in place where the backward pass does not need `x`.

    Raises
    ------
    UsageError
        If there is no such activation, as in a space of one's own.
    """
    match activation:
        case "relu":
            return F.relu(x, inplace=True)
        case "relu6":
            return F.relu6(x, inplace=True)
        case "h_swish":
            return F.hardswish(x, inplace=not torch.is_grad_enabled())
        case "h_sigmoid":
            return F.hardsigmoid(x)
        case "none":
            return x
    raise UsageError(f"unknown activation {shown(activation)}; layers have {', '.join(ACTIVATIONS)}")


class Conv2d(nn.Conv2d):
    """A `torch.nn.Conv2d` without bias, padded by half its kernel, whose weight may be quantised."""

    def __init__(self, c_in: int, c_out: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__(c_in, c_out, kernel, stride, kernel // 2, bias=False)
        self.quantize_weight = WeightQuantizer()

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.quantize_weight(self.weight), None, self.stride, self.padding)


class Linear(nn.Linear):
    """A `torch.nn.Linear` whose weight may be quantised."""

    def __init__(self, features: int, n_classes: int) -> None:
        super().__init__(features, n_classes)
        self.quantize_weight = WeightQuantizer()

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.quantize_weight(self.weight), self.bias)


class _SqueezeExciteConvs(nn.Module):
    def __init__(self, channels: int, middle: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, middle, 1)
        self.expand = nn.Conv2d(middle, channels, 1)


class SqueezeExcite(nn.Module):
    """Channel attention (Hu et al. 2018), reduction 4, h-sigmoid gate; serves the first C of its channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = _SqueezeExciteConvs(channels, se_channels(channels))
        self.quantize_weight = WeightQuantizer()
        self.quantize_pooled = MapQuantizer()
        self.quantize_reduced = MapQuantizer()
        self.quantize = MapQuantizer()

    def state(self, channels: int) -> dict[str, Tensor]:
        """State dict of one on so many channels."""
        ranges = {name: value for name, value in self.state_dict().items() if not name.startswith("fc.")}
        return {**{f"fc.{name}": value for name, value in self.weights(channels).items()}, **ranges}

    def weights(self, channels: int) -> dict[str, Tensor]:
        """Weights and biases of both convolutions, cut to `channels`."""
        state: dict[str, Tensor] = dict(self.fc.named_parameters())
        if channels < self.fc.reduce.in_channels:
            middle = se_channels(channels)
            state["reduce.weight"] = state["reduce.weight"][:middle, :channels]
            state["reduce.bias"] = state["reduce.bias"][:middle]
            state["expand.weight"] = state["expand.weight"][:channels, :middle]
            state["expand.bias"] = state["expand.bias"][:channels]
        return state

    def forward(self, x: Tensor) -> Tensor:
        w = self.weights(x.shape[1])
        gate = self.quantize_pooled(x.mean((2, 3), keepdim=True))
        gate = F.conv2d(gate, self.quantize_weight(w["reduce.weight"]), w["reduce.bias"])
        gate = self.quantize_reduced(F.relu(gate, inplace=True))
        gate = F.conv2d(gate, self.quantize_weight(w["expand.weight"]), w["expand.bias"])
        return self.quantize(x * F.hardsigmoid(gate))


class ConvLayer(nn.Module):
    """Convolution, batch norm, activation, and squeeze-excite where wanted.

    What is `summed` with something is not quantised before.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel: int = 1,
        stride: int = 1,
        activation: Activation = "none",
        *,
        depthwise: bool = False,
        norm: bool = True,
        se: bool = False,
        summed: bool = False,
        eps: float = 1e-5,
        momentum: float = 0.1,
    ) -> None:
        super().__init__()
        self.activation: Activation = activation
        self.conv: nn.Conv2d = (
            DepthwiseConv2d(c_in, kernel, stride) if depthwise else Conv2d(c_in, c_out, kernel, stride)
        )
        self.bn = nn.BatchNorm2d(c_out, eps, momentum) if norm else None
        self.quantize = None if summed else MapQuantizer()
        self.se = SqueezeExcite(c_out) if se else None

    @classmethod
    def of(cls, spec: ConvSpec, eps: float, momentum: float) -> ConvLayer:
        return cls(
            spec.c_in, spec.c_out, spec.kernel, spec.stride, spec.activation,
            norm=spec.norm, summed=spec.residual, eps=eps, momentum=momentum,
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.bn is not None:
            x = self.bn(x)
        x = activate(x, self.activation)
        if self.quantize is not None:
            x = self.quantize(x)
        return x if self.se is None else self.se(x)


class Residual(nn.Module):
    """A layer whose input is added to its output."""

    def __init__(self, conv: ConvLayer) -> None:
        super().__init__()
        self.conv = conv
        self.quantize = MapQuantizer()

    def forward(self, x: Tensor) -> Tensor:
        return self.quantize(self.conv(x) + x)


class MBConvBlock(nn.Module):
    """Inverted residual block (Sandler et al. 2018)."""

    def __init__(self, spec: MBConvSpec, eps: float, momentum: float) -> None:
        super().__init__()
        self.residual = spec.residual
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        if spec.expand:
            layers["inverted_bottleneck"] = ConvLayer(
                spec.c_in, spec.c_mid, activation=spec.activation, eps=eps, momentum=momentum
            )
        layers["depth_conv"] = ConvLayer(
            spec.c_mid, spec.c_mid, spec.kernel, spec.stride, spec.activation,
            depthwise=True, se=spec.se, eps=eps, momentum=momentum,
        )  # fmt: skip
        layers["point_linear"] = ConvLayer(spec.c_mid, spec.c_out, summed=True, eps=eps, momentum=momentum)
        self.conv = nn.Sequential(layers)
        self.quantize = MapQuantizer()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.quantize(y.add_(x) if self.residual else y)


class BottleneckBlock(nn.Module):
    """ResNet-D bottleneck (He et al. 2019, "Bag of tricks"): a strided shortcut pools before it projects."""

    def __init__(self, spec: BottleneckSpec, eps: float, momentum: float) -> None:
        super().__init__()
        mid = spec.c_mid
        self.stride = spec.stride
        self.conv1 = ConvLayer(spec.c_in, mid, activation="relu", eps=eps, momentum=momentum)
        self.conv2 = ConvLayer(mid, mid, 3, spec.stride, "relu", eps=eps, momentum=momentum)
        self.conv3 = ConvLayer(mid, spec.c_out, summed=True, eps=eps, momentum=momentum)
        self.downsample = (
            ConvLayer(spec.c_in, spec.c_out, eps=eps, momentum=momentum) if spec.project else None
        )
        self.quantize_pooled = MapQuantizer() if spec.project and spec.stride > 1 else None
        self.quantize = MapQuantizer()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv3(self.conv2(self.conv1(x)))
        if self.downsample is not None:
            x = shortcut_pool(x, self.stride)
            x = self.downsample(x if self.quantize_pooled is None else self.quantize_pooled(x))
        return self.quantize(F.relu(y.add_(x), inplace=True))


def shortcut_pool(x: Tensor, stride: int) -> Tensor:
    """Average pooling of a strided shortcut; an odd map's last window is averaged over what it covers."""
    return x if stride == 1 else F.avg_pool2d(x, stride, stride, ceil_mode=True)


class Classifier(nn.Module):
    """The last layer, under the name that the official code gives it."""

    def __init__(self, linear: nn.Module) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)
