"""Integers of 8 bits in float arithmetic: what training and evaluation compute, and what export writes.

Feature maps lie on a grid of 256 values that the whole tensor shares (uint8, a scale and a zero point),
weights on one of 255 values around zero for each output channel (int8, a scale each), which leaves the sum of
two neighbours along the input channels within 8 bits: products with two of them fit 16 bits together, and are
added there by processors without VNNI (`compiler/dots.py`). Layers say where their maps are quantised by
holding a `MapQuantizer` there, which does nothing until the network is quantised.

Subnets share no scales, only how they come about: a weight's follow from the part of it that the subnet uses;
a map's from its values, in training those of the batch itself (as in BatchQuant, arXiv 2105.08952), later
those of the images that batch statistics are estimated on. Gradients pass as if nothing were rounded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ofa_tvm.errors import UserError, shown
from ofa_tvm.number_formats import Arithmetic

Bound = float | Tensor
STEPS = 255  # of a map's grid
LARGEST = 127  # of a weight and of two neighbours' sum, before rounding; so a channel can change its sign
WEIGHTS_GRID = "neighbours together 127"
"""The rule above, part of what accuracies are remembered by: to be changed with it."""

_RANGES = (".low", ".high")  # in state dicts
_LEAST = 1e-12  # a scale, for channels and maps that are all zeros


class _OnGrid(torch.autograd.Function):
    """Multiples of a scale, between two of them: divided, rounded to even and clipped as ONNX does."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, least: Any, most: Any) -> Tensor:
        return torch.div(x, scale).round_().clamp_(least, most).mul_(scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        return gradient, None, None, None


class WeightQuantizer(nn.Module):
    """Puts a weight (c_out, ...) on its channels' grids, once `enabled`."""

    def __init__(self) -> None:
        super().__init__()
        self.enabled = False

    def forward(self, weight: Tensor) -> Tensor:
        if not self.enabled:
            return weight
        return _on_grid(weight, _channel_scales(weight), -LARGEST, LARGEST)


class MapQuantizer(nn.Module):
    """Puts feature maps on one grid, once it is enabled.

    In training mode the grid spans the batch's values, and the range `low` to `high` follows them by
    `momentum`, as the statistics of a batch norm do; in evaluation mode it spans that range.
    """

    low: Tensor
    high: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.enabled = False
        self.momentum: float | None = 0.1

    def enable(self, device: torch.device | None = None) -> None:
        """Quantise from now on; the range is yet to be estimated."""
        if not self.enabled:
            self.enabled = True
            for name in ("low", "high"):
                self.register_buffer(name, torch.zeros((), device=device))

    def disable(self) -> None:
        """Leave maps as they are, and forget their range."""
        if self.enabled:
            self.enabled = False
            del self.low, self.high

    def forward(self, x: Tensor) -> Tensor:
        if not self.enabled:
            return x
        low, high = self.low, self.high
        if self.training:
            low, high = _range(x)
            if self.momentum:
                self.low.lerp_(low, self.momentum)
                self.high.lerp_(high, self.momentum)
        scale, zero = _scheme(low, high)
        # A GPU would wait for a number, a CPU is slow with tensors.
        point = zero if x.is_cuda else float(zero)
        return _on_grid(x, scale, -point, STEPS - point)

    def scheme(self) -> tuple[np.float32, np.uint8]:
        """Scale and zero point of the estimated range, as ONNX has them."""
        scale, zero = _scheme(self.low, self.high)
        return np.float32(scale.item()), np.uint8(zero.item())


def map_schemes(module: nn.Module) -> dict[str, tuple[float, int]]:
    """Scale and zero point of each map of a quantised network, by the name of the layer that makes it."""
    found = {}
    for name, part in module.named_modules():
        if isinstance(part, MapQuantizer) and part.enabled:
            scale, zero = part.scheme()
            found[name] = (float(scale), int(zero))
    return found


def weight_codes(weight: Tensor) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """The integers of a weight (c_out, ...), and the scale of each channel, (c_out,)."""
    scales = _channel_scales(weight)
    codes = torch.div(weight.detach(), scales).round_().clamp_(-LARGEST, LARGEST)
    return codes.to(torch.int8).cpu().numpy(), scales.flatten().cpu().numpy()


def rescaled(
    codes: npt.NDArray[np.int8], scales: npt.NDArray[np.float32], factors: npt.NDArray[np.floating[Any]]
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Integers and scales of a weight whose channels are multiplied by `factors`, (c_out,)."""
    scaled = (scales * np.abs(factors)).astype(np.float32)
    lost = scaled < np.finfo(np.float32).tiny  # a scale of 0 means nothing to those who read it
    signs = np.where(lost, 0, np.sign(factors)).astype(np.int8)
    return codes * signs.reshape(-1, *[1] * (codes.ndim - 1)), np.where(lost, np.float32(1), scaled)


def _on_grid(x: Tensor, scale: Tensor, least: Bound, most: Bound) -> Tensor:
    """In float32, whatever the precision of the training."""
    on_grid: Tensor = _OnGrid.apply(x.float(), scale, least, most)
    return on_grid.to(x.dtype)


def _channel_scales(weight: Tensor) -> Tensor:
    """Shaped to be broadcast over the weight."""
    weight, axes = weight.detach().float(), tuple(range(1, weight.ndim))
    largest = weight.abs().amax(axes, keepdim=True)
    pairs = weight.shape[1] // 2
    if pairs:  # of two signs, the larger one alone is more than the sum
        sums = weight[:, : 2 * pairs : 2] + weight[:, 1 : 2 * pairs : 2]
        largest = torch.maximum(largest, sums.abs_().amax(axes, keepdim=True))
    return largest.div_(LARGEST).clamp_min_(_LEAST)


def _range(x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.detach()
    if x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last):
        x = x.permute(0, 2, 3, 1)  # as it lies in memory: six times as fast
    low, high = torch.aminmax(x)
    return low.float(), high.float()


def _scheme(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and zero point of a grid that spans a range and zero."""
    low, high = low.clamp(max=0), high.clamp(min=0)
    scale = torch.div(high - low, STEPS).clamp_min_(_LEAST)
    return scale, torch.div(-low, scale).round_().clamp_(0, STEPS)


def set_dtype(module: nn.Module, dtype: Arithmetic) -> None:
    """Let a network compute in float32, or from now on with integers of 8 bits.

    The ranges of its maps are then yet to be estimated (`batchnorm.calibrate`).

    Raises
    ------
    UserError
        If it has no layers that can be quantised, as a plugin's may.
    """
    device = next(module.parameters()).device
    if dtype == "int8" and not any(isinstance(part, MapQuantizer) for part in module.modules()):
        raise UserError(
            f"a {type(module).__name__} cannot be quantised: none of its layers has a MapQuantizer "
            "(ofa_tvm/supernet/fake_quantization.py); build it of the layers that ship, or stay at float32"
        )
    for part in module.modules():
        if isinstance(part, MapQuantizer):
            part.enable(device) if dtype == "int8" else part.disable()
        elif isinstance(part, WeightQuantizer):
            part.enabled = dtype == "int8"


def dtype_of(module: nn.Module) -> Arithmetic:
    """What a network computes with."""
    quantized = any(isinstance(part, MapQuantizer) and part.enabled for part in module.modules())
    return "int8" if quantized else "float32"


def without_ranges(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of the same network in float32."""
    return {name: value for name, value in state.items() if not name.endswith(_RANGES)}


def is_range(name: str) -> bool:
    """Whether a tensor of a state dict is the range of a feature map."""
    return name.endswith(_RANGES)


def load_ranges(module: nn.Module, state: Mapping[str, Tensor], dtype: str | None, source: object) -> None:
    """Make a network compute as a checkpoint's did, and have places for the ranges in its state dict.

    Parameters
    ----------
    dtype
        What the file says; None, as in files of float32 and others' wrappers, leaves it to the names.

    Raises
    ------
    UserError
        If the dtype is unknown, or ranges are missing or mean nothing.
    """
    stored = {
        name: float(value) for name, value in state.items() if name.endswith(_RANGES) and not value.ndim
    }
    dtype = dtype or ("int8" if stored else "float32")
    if dtype not in get_args(Arithmetic):
        raise UserError(f"{source} is of dtype {shown(dtype)}, which this version does not know")
    set_dtype(module, cast("Arithmetic", dtype))
    if dtype == "float32":
        return
    needed = [name for name in module.state_dict() if name.endswith(_RANGES)]
    if missing := [name for name in needed if name not in stored]:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(
            f"{source} says that it was trained for int8, but lacks the ranges of feature maps "
            f"({missing[0]}{more}); take the file as training wrote it, or quantise the float32 supernet "
            "again: ofa-tvm train --init SUPERNET --phases quantize -o int8"
        )
    for name in needed:
        if name.endswith("low") and not stored[name] <= stored[name.removesuffix("low") + "high"]:
            raise UserError(
                f"{source} has a range that ends before it begins ({name}): the file is damaged, or that "
                "training diverged; take an earlier one"
            )
