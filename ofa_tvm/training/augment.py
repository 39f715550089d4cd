"""Augmentation of whole batches by one affine resampling: shifts, turns, scales, flips, colour."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Augmentation:
    """Largest random changes; every image draws its own, uniformly. Zeros leave the batch as it is.

    Attributes
    ----------
    shift
        Share of the side.
    turn_deg
        Degrees either way.
    scale
        0.1 means 0.9 to 1.1, the aspect ratio drawn apart.
    flip
        Probability of a left-right mirror image.
    brightness, contrast
        0.2 means factors 0.8 to 1.2.
    """

    shift: float = 0.0
    turn_deg: float = 0.0
    scale: float = 0.0
    flip: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0

    def apply(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        """Augment (n, c, h, w) pixels in 0..1; what comes in from outside the picture is black."""
        n = pixels.shape[0]

        def draw(limit: float, *shape: int) -> Tensor:
            return (torch.rand((n, *shape), generator=generator) * 2 - 1) * limit

        if self.shift or self.turn_deg or self.scale or self.flip:
            angle = draw(math.radians(self.turn_deg))
            grow = 1 + draw(self.scale, 2)
            mirror = torch.where(torch.rand(n, generator=generator) < self.flip, -1.0, 1.0)
            cos, sin = torch.cos(angle), torch.sin(angle)
            # Grid coordinates run from -1 to 1, so a shift by a share of the side counts twice.
            theta = torch.stack(
                [
                    torch.stack([mirror * cos * grow[:, 0], -sin * grow[:, 0]], dim=1),
                    torch.stack([mirror * sin * grow[:, 1], cos * grow[:, 1]], dim=1),
                ],
                dim=1,
            )
            theta = torch.cat([theta, draw(2 * self.shift, 2, 1)], dim=2)
            grid = functional.affine_grid(theta, list(pixels.shape), align_corners=False)
            pixels = functional.grid_sample(pixels, grid, align_corners=False)
        if self.contrast:
            mean = pixels.mean(dim=(1, 2, 3), keepdim=True)
            pixels = mean + (pixels - mean) * (1 + draw(self.contrast, 1, 1, 1))
        if self.brightness:
            pixels = pixels * (1 + draw(self.brightness, 1, 1, 1))
        return pixels.clamp(0, 1) if self.contrast or self.brightness else pixels
