"""What a picture costs on its way through `run`: decoding, preprocessing, the network and its classes."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ofa_tvm.deploy.classify import Classifier
from ofa_tvm.files import require_file
from ofa_tvm.images import open_image
from ofa_tvm.measurement import interleave
from ofa_tvm.measurement.pinning import pinned

_MADE = (500, 375)  # ImageNet's pictures are of about this size


@dataclass(frozen=True)
class PictureCost:
    """Medians in milliseconds of the steps that `run` takes from an encoded picture to its class."""

    picture: str
    decode_ms: float
    prepare_ms: float
    classify_ms: float

    @property
    def total_ms(self) -> float:
        """From the encoded picture to its class."""
        return self.decode_ms + self.prepare_ms + self.classify_ms

    def to_json(self) -> dict[str, Any]:
        """Plain dict, JSON serialisable."""
        return {**asdict(self), "total_ms": self.total_ms}


def picture_cost(
    classifier: Classifier, threads: int, picture: str | os.PathLike[str] | None = None, *, seed: int = 0
) -> PictureCost:
    """Time the steps in interleaved rounds, with this process pinned to as many CPUs as `threads`.

    Parameters
    ----------
    classifier
        The loaded module.
    threads
        Of its calls.
    picture
        A file; without one, a JPEG of 500 x 375 pixels that is made now.
    seed
        Of what is on that.

    Raises
    ------
    UserError
        If the file is missing or no picture.
    """
    if picture is None:
        encoded, name = _made(seed), "a JPEG of {} x {} pixels".format(*_MADE)
    else:
        require_file(picture)
        image, encoded = open_image(picture), Path(picture).read_bytes()
        name = f"{os.fspath(picture)} ({image.width} x {image.height} pixels)"
    image = open_image(encoded)
    x = classifier.preprocessing.apply(image)
    with pinned(threads):
        timings = interleave(
            {
                "decode": lambda: open_image(encoded),
                "prepare": lambda: classifier.preprocessing.apply(image),
                "classify": lambda: classifier.classify_inputs(x),
            },
            seconds=1.0,
            seed=seed,
        )
    decode, prepare, classify = (timing.median_ms for timing in timings.values())
    return PictureCost(name, decode, prepare, classify)


def _made(seed: int) -> bytes:
    """A JPEG with about as much detail as a photograph has: noise that was drawn small and enlarged."""
    size: Sequence[int] = (_MADE[1] // 8, _MADE[0] // 8, 3)
    coarse = np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(coarse).resize(_MADE, Image.Resampling.BICUBIC).save(out, "JPEG", quality=90)
    return out.getvalue()
