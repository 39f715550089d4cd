"""Preprocessing: every kind of file ends as the same RGB pixels, and bad files are named in one sentence."""

from __future__ import annotations

import dataclasses
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ofa_tvm.errors import UsageError, UserError
from ofa_tvm.images import Preprocessing, open_image

PREPROCESSING = Preprocessing((0.5, 0.4, 0.3), (0.2, 0.3, 0.4), 32)


@pytest.fixture
def grey(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, (8, 8), dtype=np.uint8)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "I;16"])
def test_every_mode_of_one_picture_gives_the_same_pixels(tmp_path: Path, grey: np.ndarray, mode: str) -> None:
    path = tmp_path / "x.png"
    if mode == "I;16":
        Image.fromarray(grey.astype(np.uint16) * 257).save(path)
    else:
        Image.fromarray(grey).convert(mode).save(path)
    pixels = np.asarray(open_image(path))
    assert pixels.shape == (8, 8, 3)
    assert np.array_equal(pixels, np.repeat(grey[:, :, None], 3, axis=2))


def test_cmyk_black_and_white(tmp_path: Path) -> None:
    black_and_white = Image.fromarray(np.repeat(np.uint8([[0, 255]]), 16, axis=0).repeat(16, axis=1))
    path = tmp_path / "x.jpg"
    black_and_white.convert("RGB").convert("CMYK").save(path, quality=95)
    assert Image.open(path).mode == "CMYK"
    pixels = np.asarray(open_image(path)).astype(int)
    assert pixels[:, :12].max() < 20 and pixels[:, 20:].min() > 235


def test_transparency_shows_white() -> None:
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    assert np.all(PREPROCESSING.resize(clear) == 255)


def test_apply_follows_the_stated_formula(grey: np.ndarray) -> None:
    image = Image.fromarray(grey)
    out = PREPROCESSING.apply([image, image])
    assert out.shape == (2, 3, 32, 32) and out.dtype == np.float32 and out.flags.c_contiguous
    up = np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR)).astype(np.float64)
    for channel, (mean, std) in enumerate(zip(PREPROCESSING.mean, PREPROCESSING.std, strict=True)):
        np.testing.assert_allclose(out[1, channel], (up / 255 - mean) / std, rtol=1e-5, atol=1e-6)


def test_crop_takes_the_centre() -> None:
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[:, 20:60] = 200
    image = Image.fromarray(pixels)
    centred = Preprocessing((0, 0, 0), (1, 1, 1), 16, crop=0.9).resize(image)
    assert np.all(centred == 200)
    assert PREPROCESSING.at(16).resize(image)[:, 0].max() == 0


def test_round_trip_as_plain_data() -> None:
    assert Preprocessing.from_dict(PREPROCESSING.to_dict()) == PREPROCESSING
    assert Preprocessing.from_dict({**PREPROCESSING.to_dict(), "added_later": 1}) == PREPROCESSING
    with pytest.raises(UserError, match="std"):
        Preprocessing.from_dict({"mean": [0, 0, 0], "resolution": 32})
    with pytest.raises(UsageError, match="interpolation"):
        Preprocessing((0, 0, 0), (1, 1, 1), 32, "lanczos9")


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        *(({"mean": [0.5, m, 0.5]}, r"mean\.1: ") for m in (NAN, INF, 1e308, -101, "0", None, True, 10**30)),
        *(({"std": [s, 1, 1]}, r"std\.0: ") for s in (NAN, INF, 1e308, 1e-300, 0, -1)),
        ({"std": [1, 1]}, "std: the list has 2 entries"),
        *(({"resolution": r}, "resolution: ") for r in (0, 4097, 10**9, 2.5, NAN, True, "32")),
        *(({"crop": c}, "crop: ") for c in (0, 1.01, NAN, "1")),
        ({"interpolation": ["bilinear"] * 9999}, "interpolation: "),
    ],
)
def test_data_that_makes_no_sense_is_refused(change: dict[str, object], says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        Preprocessing.from_dict({**PREPROCESSING.to_dict(), **change})
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("value", [NAN, INF, -INF, 1e308, 1e-300])
def test_values_that_make_no_sense_are_refused(value: float) -> None:
    with pytest.raises(UsageError, match="preprocessing"):
        dataclasses.replace(PREPROCESSING, std=(1.0, value, 1.0))
    if value != 1e-300:
        with pytest.raises(UsageError, match="preprocessing means"):
            dataclasses.replace(PREPROCESSING, mean=(1.0, value, 1.0))
    for side in (0, 4097, 10**9):
        with pytest.raises(UsageError, match="preprocessing resolution"):
            PREPROCESSING.at(side)


def test_data_that_is_no_table_is_refused() -> None:
    for data in (None, 5, [], "text"):
        with pytest.raises(UserError, match="is not a table of keys"):
            Preprocessing.from_dict(data)  # type: ignore[arg-type]


def test_usual_normalisations_are_taken() -> None:
    for mean, std in ((0.0, 1 / 255), (0.485, 0.229), (-1.0, 2.0), (0, 1 / 65535)):
        Preprocessing((mean,) * 3, (std,) * 3, 4096)


def test_bad_files_are_named(tmp_path: Path, grey: np.ndarray) -> None:
    with pytest.raises(UserError, match=r"no such image: .*absent\.png"):
        open_image(tmp_path / "absent.png")
    text = tmp_path / "notes.png"
    text.write_text("not a picture")
    with pytest.raises(UserError, match=r"notes\.png is not an image"):
        open_image(text)
    with pytest.raises(UserError, match="cannot be decoded"):
        open_image(tmp_path)
    whole = tmp_path / "whole.png"
    Image.fromarray(grey.repeat(40, 0).repeat(40, 1)).save(whole)
    cut = tmp_path / "cut.png"
    cut.write_bytes(whole.read_bytes()[:-60])
    with pytest.raises(UserError, match=r"cut\.png"):
        open_image(cut)
    Image.fromarray(grey).save(tmp_path / "strips.tiff")
    content = bytearray((tmp_path / "strips.tiff").read_bytes())
    content[content.index((273).to_bytes(2, "little") + (4).to_bytes(2, "little")) + 2] = 5
    (tmp_path / "strips.tiff").write_bytes(content)  # where its pixels are is a fraction now
    with pytest.raises(UserError, match=r"strips\.tiff cannot be decoded"):
        open_image(tmp_path / "strips.tiff")
    Image.fromarray(grey.astype(np.float32)).save(tmp_path / "x.tiff")
    with pytest.raises(UserError, match=r"x\.tiff holds floating-point"):
        open_image(tmp_path / "x.tiff")


@pytest.mark.parametrize("side", [8_000, 40_000])
def test_decompression_bomb_is_refused(tmp_path: Path, side: int) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    path = tmp_path / "bomb.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0"))
        + chunk(b"IEND", b"")
    )
    with pytest.raises(UserError, match=r"bomb\.png has more than 50 million pixels"):
        open_image(path)


def test_needs_no_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; sys.modules['tvm'] = None; import ofa_tvm.images"
    subprocess.run([sys.executable, "-c", code], check=True)
