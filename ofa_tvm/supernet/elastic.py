"""Elastic layers: they hold the largest shape and compute with the part that a call asks for.

No layer remembers a configuration; channels in follow from the input, the rest are arguments.
Modules are named as in the official code, so that its checkpoints load.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ofa_tvm.spaces import BottleneckSpec, MBConvSpec
from ofa_tvm.spaces.network import Activation
from ofa_tvm.supernet.depthwise import DepthwiseConv2d, depthwise_conv2d
from ofa_tvm.supernet.fake_quantization import MapQuantizer
from ofa_tvm.supernet.layers import Conv2d, Linear, SqueezeExcite, activate, shortcut_pool
from ofa_tvm.supernet.sorting import importance_order, l1_norm, sort_squeeze_excite, take, take_norm

State = dict[str, Tensor]


class ElasticConv2d(nn.Module):
    """Convolution of elastic width: the first channels in and out count."""

    def __init__(self, c_in: int, c_out: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.conv = Conv2d(c_in, c_out, kernel, stride)

    def weight(self, c_in: int, c_out: int) -> Tensor:
        weight = self.conv.weight
        if (c_out, c_in) == weight.shape[:2]:
            return weight
        return weight[:c_out, :c_in]

    def forward(self, x: Tensor, c_out: int) -> Tensor:
        weight = self.conv.quantize_weight(self.weight(x.shape[1], c_out))
        return F.conv2d(x, weight, None, self.conv.stride, self.conv.padding)


class ElasticDepthwise(nn.Module):
    """Depthwise convolution of elastic width and kernel size.

    A smaller kernel is the centre of the next larger one times a matrix that all channels of the layer
    share (Once-for-All, section 3.3): 7 -> 5 -> 3, each an identity at the start.
    """

    def __init__(self, channels: int, kernels: Sequence[int], stride: int = 1) -> None:
        super().__init__()
        self.kernels = tuple(sorted(kernels))
        largest = self.kernels[-1]
        self.conv = DepthwiseConv2d(channels, largest, stride)
        for small, large in pairwise(self.kernels):
            self.register_parameter(f"{large}to{small}_matrix", nn.Parameter(torch.eye(small**2)))

    def weight(self, channels: int, kernel: int) -> Tensor:
        weight = self.conv.weight
        if channels < weight.shape[0]:
            weight = weight[:channels]
        for small, large in reversed(list(pairwise(self.kernels))):
            if kernel >= large:
                break
            edge = (large - small) // 2
            centre = weight[:, :, edge : edge + small, edge : edge + small].reshape(channels, small**2)
            matrix = getattr(self, f"{large}to{small}_matrix")
            weight = F.linear(centre, matrix).view(channels, 1, small, small)
        return weight

    def forward(self, x: Tensor, kernel: int) -> Tensor:
        weight = self.conv.quantize_weight(self.weight(x.shape[1], kernel))
        return depthwise_conv2d(x, weight, self.conv.stride[0])


class ElasticBatchNorm(nn.Module):
    """One batch norm for all widths: each uses the values and statistics of the first channels."""

    def __init__(self, channels: int, eps: float, momentum: float) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels, eps, momentum)

    def state(self, channels: int) -> State:
        bn = self.bn
        named = {
            "weight": bn.weight,
            "bias": bn.bias,
            "running_mean": bn.running_mean,
            "running_var": bn.running_var,
        }
        return {
            **{name: value[:channels] for name, value in named.items() if value is not None},
            **({} if bn.num_batches_tracked is None else {"num_batches_tracked": bn.num_batches_tracked}),
        }

    def forward(self, x: Tensor) -> Tensor:
        bn = self.bn
        values: tuple[Tensor | None, ...] = (bn.running_mean, bn.running_var, bn.weight, bn.bias)
        channels = x.shape[1]
        if channels < bn.num_features:
            values = tuple(None if value is None else value[:channels] for value in values)
        # num_batches_tracked is left alone: with a fixed momentum nothing reads it.
        mean, var, weight, bias = values
        return F.batch_norm(x, mean, var, weight, bias, bn.training, bn.momentum or 0.0, bn.eps)


class ElasticConvLayer(nn.Module):
    """Convolution, batch norm, activation; all of elastic width.

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
        summed: bool = False,
        eps: float,
        momentum: float,
    ) -> None:
        super().__init__()
        self.activation: Activation = activation
        self.conv = ElasticConv2d(c_in, c_out, kernel, stride)
        self.bn = ElasticBatchNorm(c_out, eps, momentum)
        self.quantize = None if summed else MapQuantizer()

    def state(self, c_in: int, c_out: int) -> State:
        """State dict of the fixed layer of this size."""
        return {
            "conv.weight": self.conv.weight(c_in, c_out),
            **_under("bn", self.bn.state(c_out)),
            **_range_of(self.quantize),
        }

    def forward(self, x: Tensor, c_out: int) -> Tensor:
        x = activate(self.bn(self.conv(x, c_out)), self.activation)
        return x if self.quantize is None else self.quantize(x)


class ElasticDepthwiseLayer(nn.Module):
    """Depthwise convolution, batch norm, activation and squeeze-excite; of elastic width and kernel size."""

    def __init__(
        self,
        channels: int,
        kernels: Sequence[int],
        stride: int,
        activation: Activation,
        *,
        se: bool,
        eps: float,
        momentum: float,
    ) -> None:
        super().__init__()
        self.activation: Activation = activation
        self.conv = ElasticDepthwise(channels, kernels, stride)
        self.bn = ElasticBatchNorm(channels, eps, momentum)
        self.quantize = MapQuantizer()
        self.se = SqueezeExcite(channels) if se else None

    def state(self, channels: int, kernel: int) -> State:
        state = {
            "conv.weight": self.conv.weight(channels, kernel),
            **_under("bn", self.bn.state(channels)),
            **_range_of(self.quantize),
        }
        if self.se is not None:
            state |= _under("se", self.se.state(channels))
        return state

    def forward(self, x: Tensor, kernel: int) -> Tensor:
        x = self.quantize(activate(self.bn(self.conv(x, kernel)), self.activation))
        return x if self.se is None else self.se(x)


class ElasticResidual(nn.Module):
    """A layer whose input is added to its output."""

    def __init__(self, conv: ElasticConvLayer) -> None:
        super().__init__()
        self.conv = conv
        self.quantize = MapQuantizer()

    def state(self, c_in: int, c_out: int) -> State:
        return {**_under("conv", self.conv.state(c_in, c_out)), **_range_of(self.quantize)}

    def forward(self, x: Tensor, c_out: int) -> Tensor:
        return self.quantize(self.conv(x, c_out) + x)


class _MBConvLayers(nn.Module):
    def __init__(self, largest: MBConvSpec, kernels: Sequence[int], eps: float, momentum: float) -> None:
        super().__init__()
        c_in, mid, act = largest.c_in, largest.c_mid, largest.activation
        self.inverted_bottleneck = ElasticConvLayer(c_in, mid, activation=act, eps=eps, momentum=momentum)
        self.depth_conv = ElasticDepthwiseLayer(
            mid, kernels, largest.stride, act, se=largest.se, eps=eps, momentum=momentum
        )
        self.point_linear = ElasticConvLayer(mid, largest.c_out, summed=True, eps=eps, momentum=momentum)


class ElasticMBConv(nn.Module):
    """Inverted residual block of elastic kernel size and expansion; `spec` says which part a call uses."""

    def __init__(self, largest: MBConvSpec, kernels: Sequence[int], eps: float, momentum: float) -> None:
        super().__init__()
        self.conv = _MBConvLayers(largest, kernels, eps, momentum)
        self.quantize = MapQuantizer()

    def state(self, spec: MBConvSpec) -> State:
        conv, mid = self.conv, spec.c_mid
        return {
            **_under("conv.inverted_bottleneck", conv.inverted_bottleneck.state(spec.c_in, mid)),
            **_under("conv.depth_conv", conv.depth_conv.state(mid, spec.kernel)),
            **_under("conv.point_linear", conv.point_linear.state(mid, spec.c_out)),
            **_range_of(self.quantize),
        }

    def forward(self, x: Tensor, spec: MBConvSpec) -> Tensor:
        y = self.conv.inverted_bottleneck(x, spec.c_mid)
        y = self.conv.depth_conv(y, spec.kernel)
        y = self.conv.point_linear(y, spec.c_out)
        return self.quantize(y.add_(x) if spec.residual else y)

    def sort_channels(self, bands: Sequence[int]) -> None:
        expand, depth, project = (
            self.conv.inverted_bottleneck,
            self.conv.depth_conv,
            self.conv.point_linear,
        )
        order = importance_order(l1_norm(project.conv.conv.weight, 1), bands)
        take(expand.conv.conv.weight, 0, order)
        take_norm(expand.bn.bn, order)
        take(depth.conv.conv.weight, 0, order)
        take_norm(depth.bn.bn, order)
        take(project.conv.conv.weight, 1, order)
        if depth.se is not None:
            sort_squeeze_excite(depth.se, order, bands)


class ElasticBottleneck(nn.Module):
    """ResNet-D bottleneck of elastic widths; `spec` says which part of it a call uses."""

    def __init__(self, largest: BottleneckSpec, eps: float, momentum: float) -> None:
        super().__init__()
        c_in, mid, c_out = largest.c_in, largest.c_mid, largest.c_out
        self.stride = largest.stride
        self.conv1 = ElasticConvLayer(c_in, mid, activation="relu", eps=eps, momentum=momentum)
        self.conv2 = ElasticConvLayer(mid, mid, 3, largest.stride, "relu", eps=eps, momentum=momentum)
        self.conv3 = ElasticConvLayer(mid, c_out, summed=True, eps=eps, momentum=momentum)
        self.downsample = (
            ElasticConvLayer(c_in, c_out, eps=eps, momentum=momentum) if largest.project else None
        )
        self.quantize_pooled = MapQuantizer() if largest.project and largest.stride > 1 else None
        self.quantize = MapQuantizer()

    def state(self, spec: BottleneckSpec) -> State:
        c_in, mid, c_out = spec.c_in, spec.c_mid, spec.c_out
        state = {
            **_under("conv1", self.conv1.state(c_in, mid)),
            **_under("conv2", self.conv2.state(mid, mid)),
            **_under("conv3", self.conv3.state(mid, c_out)),
        }
        if self.downsample is not None:
            state |= _under("downsample", self.downsample.state(c_in, c_out))
        return {
            **state,
            **_range_of(self.quantize_pooled, "quantize_pooled"),
            **_range_of(self.quantize),
        }

    def forward(self, x: Tensor, spec: BottleneckSpec) -> Tensor:
        y = self.conv3(self.conv2(self.conv1(x, spec.c_mid), spec.c_mid), spec.c_out)
        if self.downsample is not None:
            x = shortcut_pool(x, self.stride)
            x = self.downsample(x if self.quantize_pooled is None else self.quantize_pooled(x), spec.c_out)
        return self.quantize(F.relu(y.add_(x), inplace=True))

    def sort_channels(self, bands: Sequence[int]) -> None:
        # Two middle dimensions: what conv3 reads, then what conv2 reads.
        for before, after in ((self.conv2, self.conv3), (self.conv1, self.conv2)):
            order = importance_order(l1_norm(after.conv.conv.weight, 1), bands)
            take(before.conv.conv.weight, 0, order)
            take_norm(before.bn.bn, order)
            take(after.conv.conv.weight, 1, order)


class ElasticLinear(nn.Module):
    """Classifier that reads the first of its features."""

    def __init__(self, features: int, n_classes: int) -> None:
        super().__init__()
        self.linear = Linear(features, n_classes)

    def state(self, features: int) -> State:
        return {"weight": self.linear.weight[:, :features], "bias": self.linear.bias}

    def forward(self, x: Tensor) -> Tensor:
        weight = self.linear.quantize_weight(self.linear.weight[:, : x.shape[1]])
        return F.linear(x, weight, self.linear.bias)


def _under(prefix: str, state: State) -> State:
    return {f"{prefix}.{name}": value for name, value in state.items()}


def _range_of(quantizer: MapQuantizer | None, name: str = "quantize") -> State:
    return {} if quantizer is None else _under(name, quantizer.state_dict())
