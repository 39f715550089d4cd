"""ofa-tvm quantize: pictures in folders, what is printed, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image
from small_module import LABELS, SIZE, write_small_onnx
from verbs import Verbs


def pictures(folder: Path, count: int, seed: int = 0) -> Path:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for number in range(count):
        pixels = rng.integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_small_onnx(tmp_path / "small.onnx")
    return tmp_path


def test_a_folder_of_pictures_without_classes(folder: Path, ofa: Verbs) -> None:
    pictures(folder / "pictures", 40)
    done = ofa(folder, "quantize", "small.onnx", "--data", "pictures", "--per-layer", "--accuracy-drop", 100)
    assert done.code == 0, done.err
    assert "20 images of pictures to calibrate on, 20 held out" in done.err
    assert "2 of 2 layers in int8" in done.out and "get the float32 model's answer" in done.out
    assert "short weights" in done.err and " with full weights: agreement" in done.out
    assert "small.int8.onnx" in done.out and "minmax: agreement" in done.out and "Conv" in done.out
    kinds = {node.op_type for node in onnx.load(folder / "small.int8.onnx").graph.node}
    assert {"QuantizeLinear", "DequantizeLinear", "Conv"} <= kinds


def test_classes_are_the_networks_own(folder: Path, ofa: Verbs) -> None:
    for number, label in enumerate(LABELS):
        pictures(folder / "tree" / label, 12, number)
    command = ("quantize", "small.onnx", "--data", "tree", "-o", "q.onnx", "--method", "minmax", "--json")
    result = json.loads(ofa(folder, *command, "--accuracy-drop", 100).out)
    assert result["measure"] == "accuracy" and result["method"] == "minmax"
    assert result["weights"] == "short" and 0 <= result["other_weights"]["share"] <= 1
    assert result["path"] == "q.onnx" and result["int8_layers"] == 2 and result["float32_layers"] == []
    assert result["points_lost"] == pytest.approx(100 * (result["float32"] - result["int8"]))
    (folder / "tree" / "zero").rename(folder / "tree" / "cat")
    other = json.loads(ofa(folder, *command, "--accuracy-drop", 100).out)
    assert other["measure"] == "agreement" and "no class 'cat'" in other["notes"][0]


def test_what_is_wrong_with_the_pictures(folder: Path, ofa: Verbs) -> None:
    command = ("quantize", "small.onnx", "-o", "q.onnx")
    (folder / "empty").mkdir()
    assert "holds no pictures" in ofa(folder, *command, "--data", "empty").error(1)
    assert "no such data folder" in ofa(folder, *command, "--data", "nowhere").error(1)
    assert "--data" in ofa(folder, *command).error(2)
    assert "not three numbers" in ofa(folder, *command, "--data", "empty", "--mean", "1").error(2)
    assert "takes images of 16 x 16" in ofa(folder, *command, "--data", "empty", "--resolution", 32).error(2)
    (pictures(folder / "broken", 3) / "x.png").write_bytes(b"no picture")
    assert "x.png" in ofa(folder, *command, "--data", "broken").error(1)
    assert not (folder / "q.onnx").exists()
    pictures(folder / "one", 1)
    done = ofa(folder, *command, "--data", "one", "--method", "minmax", "--accuracy-drop", 100)
    assert done.code == 0 and "note: there is one image" in done.err
    again = ofa(folder, "quantize", "q.onnx", "--data", "one")
    assert "q.onnx is quantised already" in again.error(1)
