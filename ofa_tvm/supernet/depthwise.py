"""Depthwise convolution whose gradients do not wait for PyTorch's slow ones on a CPU.

PyTorch's weight gradient of 5x5 and 7x7 kernels takes 5 to 20 times as long as its forward pass, a third of a
whole training step; its input gradient takes up to twice as long as the same convolution forward.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ofa_tvm.errors import UserError
from ofa_tvm.native import load_weight_gradient
from ofa_tvm.native.depthwise import WeightGradient
from ofa_tvm.supernet.fake_quantization import WeightQuantizer

_SLOW_KERNEL = 5  # smallest kernel whose weight gradient PyTorch leaves slow


def depthwise_conv2d(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Depthwise convolution with an odd kernel, padded by half of it.

    Values are those of `torch.nn.functional.conv2d`, gradients too but for rounding.

    Parameters
    ----------
    x
        Images, shape (n, c, h, w).
    weight
        Kernels, shape (c, 1, k, k).
    """
    if _is_served(x, weight, stride):
        return _DepthwiseConv2d.apply(x, weight, stride)
    return F.conv2d(x, weight, None, stride, weight.shape[-1] // 2, groups=x.shape[1])


class DepthwiseConv2d(nn.Conv2d):
    """A depthwise `torch.nn.Conv2d` without bias, padded by half its kernel."""

    def __init__(self, channels: int, kernel: int, stride: int = 1) -> None:
        super().__init__(channels, channels, kernel, stride, kernel // 2, groups=channels, bias=False)
        self.quantize_weight = WeightQuantizer()

    def forward(self, x: Tensor) -> Tensor:
        return depthwise_conv2d(x, self.quantize_weight(self.weight), self.stride[0])


@cache
def weight_gradient() -> tuple[WeightGradient | None, str]:
    """The compiled weight gradient, or None and why there is none; then PyTorch's own is used."""
    try:
        return load_weight_gradient(torch.backends.cpu.get_cpu_capability()), ""
    except UserError as error:
        return None, str(error)


def _is_served(x: Tensor, weight: Tensor, stride: int) -> bool:
    return (
        torch.is_grad_enabled()
        and (x.requires_grad or weight.requires_grad)
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and stride in (1, 2)
        and weight.shape[-1] in (3, 5, 7)
        and x.is_contiguous(memory_format=torch.channels_last)
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and weight_gradient()[0] is not None
    )


class _DepthwiseConv2d(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return F.conv2d(x, weight, None, stride, weight.shape[-1] // 2, groups=x.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        stride, kernel, channels = ctx.stride, weight.shape[-1], x.shape[1]
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        of_x, of_weight = None, None
        needs_x, needs_weight = ctx.needs_input_grad[:2]
        if needs_x and stride == 1:
            of_x = F.conv2d(gradient, weight.flip(2, 3), None, 1, kernel // 2, groups=channels)
            needs_x = False
        if needs_weight and kernel >= _SLOW_KERNEL:
            of_weight = _weight_gradient(x, gradient, weight, stride)
            needs_weight = False
        if needs_x or needs_weight:
            padding = [kernel // 2] * 2
            rest = torch.ops.aten.convolution_backward(
                gradient, x, weight, None, [stride] * 2, padding, [1, 1], False, [0, 0], channels,
                [needs_x, needs_weight, False],
            )  # fmt: skip
            of_x, of_weight = rest[0] if needs_x else of_x, rest[1] if needs_weight else of_weight
        return of_x, of_weight, None


def _weight_gradient(x: Tensor, gradient: Tensor, weight: Tensor, stride: int) -> Tensor:
    compute, _ = weight_gradient()
    result = torch.empty_like(weight, memory_format=torch.contiguous_format)
    n, c, h, w = x.shape
    pointers = (x.data_ptr(), gradient.data_ptr(), result.data_ptr())
    if compute is None or compute(*pointers, n, h, w, c, *gradient.shape[2:], weight.shape[-1], stride):
        raise RuntimeError(
            f"no depthwise weight gradient for a kernel of {weight.shape[-1]}, stride {stride}"
        )
    return result
