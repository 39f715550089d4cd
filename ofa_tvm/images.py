"""From an image file to a network's input, alike in training, evaluation and deployment; no torch."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from ofa_tvm.errors import UsageError, UserError, shown
from ofa_tvm.files import require_file
from ofa_tvm.schema import first_problem, key_path

MAX_PIXELS = 50_000_000
# No EPS, PDF and the like: those plug-ins start other programs.
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")
SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}

# Of pixels that were scaled to 0..1; a network that takes 0..255 has a std of 1/255.
_MOST_MEAN, _LEAST_STD, _MOST_STD = 100.0, 1e-6, 1e6
_MOST_SIDE = 4096


def _three(least: float, most: float) -> dict[str, Any]:
    channel = {"type": "number", "minimum": least, "maximum": most}
    return {"type": "array", "minItems": 3, "maxItems": 3, "items": channel}


PREPROCESSING_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["mean", "std", "resolution"],
    "properties": {
        "mean": _three(-_MOST_MEAN, _MOST_MEAN),
        "std": _three(_LEAST_STD, _MOST_STD),
        "resolution": {"type": "integer", "minimum": 1, "maximum": _MOST_SIDE},
        "interpolation": {"enum": list(_FILTERS)},
        "crop": {"type": ["number", "null"], "exclusiveMinimum": 0, "maximum": 1},
    },
}
"""Of what `Preprocessing.to_dict` writes; other keys are ignored."""


def to_rgb(image: Image.Image) -> Image.Image:
    """Any picture as 8-bit RGB: grey is replicated, 16-bit grey is scaled, transparency is laid on white.

    Raises
    ------
    UserError
        If the pixels are floating point numbers, whose range nothing states.
    """
    if image.mode == "RGB":
        return image
    if image.mode == "F":
        raise UserError("holds floating-point pixels of unknown range; save it with 8 or 16 bits a channel")
    if image.mode.startswith("I"):  # 16-bit grey; older pillow calls it "I"
        grey = np.asarray(image).astype(np.int64).clip(0, 65535)
        image = Image.fromarray(((grey + 128) // 257).astype(np.uint8))
    if "A" in image.mode or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def open_image(source: str | os.PathLike[str] | bytes, name: str | None = None) -> Image.Image:
    """Decode a picture to 8-bit RGB, turned upright by its EXIF orientation.

    Parameters
    ----------
    source
        Path, or the encoded bytes.
    name
        What messages call it; the path by default.

    Raises
    ------
    UserError
        If it is missing, not an image, truncated, or has more than 50 million pixels.
    """
    label = name or ("the image" if isinstance(source, bytes) else os.fspath(source))
    if not isinstance(source, bytes):
        require_file(source)
    try:
        opened = Image.open(BytesIO(source) if isinstance(source, bytes) else Path(source), formats=FORMATS)
        with opened as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise Image.DecompressionBombError(f"{width} x {height}")
            return to_rgb(ImageOps.exif_transpose(image))
    except FileNotFoundError:
        raise UserError(f"no such image: {label}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):  # the latter under python -W error
        raise UserError(
            f"{label} has more than {MAX_PIXELS // 1_000_000} million pixels; scale it down first"
        ) from None
    except UnidentifiedImageError:
        raise UserError(f"{label} is not an image that can be read ({', '.join(FORMATS)})") from None
    except UserError as error:
        raise UserError(f"{label} {error}") from None
    except (
        Exception
    ) as error:  # pillow's decoders, and what reads the EXIF data, raise whatever bad bytes cause
        raise UserError(f"{label} cannot be decoded: {error}") from error


@dataclass(frozen=True)
class Preprocessing:
    """How pixels become a network's input, as data: it travels in the ONNX metadata and in the manifest.

    Attributes
    ----------
    mean, std
        Per RGB channel, of pixels scaled to 0..1.
    resolution
        Side of the square input, in pixels.
    interpolation
        "bilinear", "bicubic" or "nearest", by pillow's `Image.resize` on 8-bit RGB. Pillow widens the filter
        when it scales down, so nothing aliases.
    crop
        None stretches the whole picture to the square. A fraction takes the centred square of that share of
        the short side (0.875 is ImageNet's custom).
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resolution: int
    interpolation: str = "bilinear"
    crop: float | None = None

    def __post_init__(self) -> None:
        if len(self.mean) != 3 or len(self.std) != 3 or not all(s > 0 for s in self.std):
            raise UsageError("preprocessing needs three means and three positive standard deviations")
        if not all(abs(m) <= _MOST_MEAN for m in self.mean) or not all(
            _LEAST_STD <= s <= _MOST_STD for s in self.std
        ):
            raise UsageError(
                f"preprocessing means lie within {_MOST_MEAN:g} of 0 and standard deviations from "
                f"{_LEAST_STD:g} to {_MOST_STD:g}: pixels are scaled to 0..1 before"
            )
        if self.interpolation not in _FILTERS:
            raise UsageError(
                f"unknown interpolation {shown(self.interpolation)}; use one of {', '.join(_FILTERS)}"
            )
        if not 1 <= self.resolution <= _MOST_SIDE:
            raise UsageError(
                f"preprocessing resolution must be from 1 to {_MOST_SIDE}, not {shown(self.resolution)}"
            )
        if self.crop is not None and not 0 < self.crop <= 1:
            raise UsageError(f"preprocessing crop must be a fraction in (0, 1], not {self.crop}")

    def at(self, resolution: int) -> Preprocessing:
        """The same at another resolution."""
        return replace(self, resolution=resolution)

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON and YAML."""
        return {**asdict(self), "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Preprocessing:
        """Read what `to_dict` wrote; keys it does not know are ignored.

        Raises
        ------
        UserError
            If a field is missing, of the wrong type, or outside what makes sense.
        """
        if (problem := first_problem(data, PREPROCESSING_SCHEMA)) is not None:
            where, message = key_path(problem[0]), problem[1]
            raise UserError(f"preprocessing data is broken: {where + ': ' if where else ''}{message}")
        crop = data.get("crop")
        r, g, b = map(float, data["mean"])
        sr, sg, sb = map(float, data["std"])
        return cls(
            mean=(r, g, b),
            std=(sr, sg, sb),
            resolution=data["resolution"],
            interpolation=data.get("interpolation", "bilinear"),
            crop=None if crop is None else float(crop),
        )

    def resize(self, image: Image.Image) -> npt.NDArray[np.uint8]:
        """The pixels before scaling, (resolution, resolution, 3) uint8."""
        image = to_rgb(image)
        box = None
        if self.crop is not None:
            side = min(image.size) * self.crop
            left, top = (image.width - side) / 2, (image.height - side) / 2
            box = (left, top, left + side, top + side)
        size = (self.resolution, self.resolution)
        return np.asarray(image.resize(size, _FILTERS[self.interpolation], box=box))

    def normalise(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Pixels (n, h, w, 3) uint8 to (n, 3, h, w) float32: divided by 255, less `mean`, by `std`."""
        mean: npt.NDArray[np.float32] = np.array(self.mean, np.float32)
        std: npt.NDArray[np.float32] = np.array(self.std, np.float32)
        scaled = (pixels.astype(np.float32) / np.float32(255) - mean) / std
        return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))

    def apply(self, images: Image.Image | Sequence[Image.Image]) -> npt.NDArray[np.float32]:
        """Network input (n, 3, resolution, resolution), float32, for one picture or several."""
        several = [images] if isinstance(images, Image.Image) else images
        return self.normalise(np.stack([self.resize(image) for image in several]))
