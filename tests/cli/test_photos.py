"""Own photographs in folders, as a stranger brings them: what is chosen, counted, mapped and said."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from small_module import LABELS, SIZE, SmallModule, build_small_module, write_small_onnx
from verbs import Verbs

from ofa_tvm import build_supernet
from ofa_tvm.cli.main import invoke
from ofa_tvm.targets import get_target

CLASSES = ("Löwe", "garden tool")
IDS = ("n01440764", "n02102040", "n03888257")  # outputs 0, 217, 701
QUICK = ("--set", "phases=[{name: full, epochs: 1}]", "--set", "calibration_images=16")


def picture(path: Path, value: int, mode: str = "RGB", size: tuple[int, int] = (48, 40)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(value).integers(0, 100, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise + np.uint8(value % 150)).convert(mode).save(path)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of which one is large; grey, transparent and CMYK pictures, system's and hidden files."""
    root = tmp_path_factory.mktemp("own") / "photos"
    for label, count in zip(CLASSES, (60, 5), strict=True):
        for i in range(count):
            picture(root / label / f"IMG {i:02}.png", 100 * len(label) + i, "L" if i == 1 else "RGB")
    picture(root / CLASSES[0] / "clear.png", 7, "RGBA")
    picture(root / CLASSES[0] / "print.JPG", 8, "CMYK")
    (root / ".DS_Store").write_bytes(b"x")
    (root / CLASSES[1] / "Thumbs.db").write_bytes(b"x")
    return root


@pytest.fixture(scope="module")
def trained(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A project that was trained for an epoch with what is chosen by default, and what was said."""
    folder, err = tmp_path_factory.mktemp("project"), io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stderr(err):
        code = invoke(["train", "--data", str(photos), "--workers", "0", "--json", *QUICK])
    assert code == 0, err.getvalue()
    return folder, err.getvalue()


def test_what_suits_the_photos_is_chosen_and_said(trained: tuple[Path, str]) -> None:
    folder, said = trained
    assert "preset small for 54 training images of about 40 pixels; --preset or --space chooses" in said
    assert "6 steps of 8 images in 1 epoch" in said
    assert "fewer than 20 training images: garden tool (4); expect little of them" in said
    assert "classes differ in size: Löwe has 50 training images, garden tool 4" in said
    assert "6 validation and 7 test images: accuracies are uncertain by some 20 points" in said
    assert "warning" not in said
    project = yaml.safe_load((folder / "ofa-tvm.yaml").read_text())
    assert (project["space"], project["resolutions"]) == ("ofa_mbv3_w0.5", [64, 80, 96])


def test_the_same_command_goes_on_where_the_project_lies(
    trained: tuple[Path, str], photos: Path, ofa: Verbs
) -> None:
    done = ofa(trained[0], "train", "--data", photos, "--workers", 0, *QUICK)
    assert done.code == 0 and "train full" not in done.err, done.err
    other = ofa(trained[0], "train", "--data", photos, "--preset", "medium", *QUICK).error(2)
    assert "holds a training with other settings" in other
    both = ofa(trained[0], "train", "--data", photos, "--preset", "medium", "--space", "ofa_resnet50")
    assert "--preset medium is the space ofa_mbv3_w0.5, not ofa_resnet50" in both.error(2)


def test_classes_are_counted_in_80_columns(
    trained: tuple[Path, str], ofa: Verbs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    evaluate = ("evaluate", "min", "--split", "test", "--calibration-images", 16, "--workers", 0)
    done = ofa(trained[0], *evaluate)
    assert done.code == 0, done.err
    assert max(map(len, done.out.splitlines())) <= 80
    assert "of 7 images right (top-1 " in done.out and "1 Löwe" in done.out and "2 garden tool" in done.out
    answers = json.loads(ofa(trained[0], *evaluate, "--json").out)["answers"]
    assert [(c["label"], c["images"]) for c in answers["classes"]] == [("Löwe", 6), ("garden tool", 1)]
    counts = answers["confusion"]["counts"]
    assert sum(n for _, _, n in counts) == 7
    assert answers["top1"] == sum(n for truth, answer, n in counts if truth == answer) / 7
    kept = json.loads((trained[0] / "accuracy.confusion.json").read_text())
    assert kept["counts"] == counts and kept["split"] == "test"


@pytest.fixture(scope="module")
def ids(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of ImageNet."""
    root = tmp_path_factory.mktemp("imagenet") / "three"
    for value, label in enumerate(IDS):
        for split, count in (("train", 3), ("val", 2)):
            for i in range(count):
                picture(root / split / label / f"{i}.png", 30 * value + i, size=(32, 32))
    return root


def test_a_part_of_imagenet_is_counted_among_the_thousand_outputs(
    ids: Path, tmp_path: Path, ofa: Verbs
) -> None:
    net = build_supernet("ofa_digits", 1000)
    bias = net.classifier.linear.bias.data
    bias.zero_()
    bias[217] = 1e3  # whatever it sees, a springer
    net.save_checkpoint(tmp_path / "thousand.pt")
    words = ("evaluate", "min", "--checkpoint", "thousand.pt", "--split", "test", "--workers", 0)
    done = ofa(tmp_path, *words, "--data", ids, "--json")
    assert done.code == 0, done.err  # and its space is the one that the file names
    assert "three has 3 of ImageNet's 1,000 classes" in done.err
    answers = json.loads(done.out)["answers"]
    assert answers["confusion"]["counts"] == [[0, 217, 2], [217, 217, 2], [701, 217, 2]]
    shown = ofa(tmp_path, *words, "--data", ids).out
    assert "n02102040 English Springer Spaniel" in shown and "33.33%" in shown
    # Trained on, the part keeps what the weights know of it, which can teach.
    train = ("train", "--data", ids, "--init", "thousand.pt", "--workers", 0, "--set", "phases=[{name: p, "
             "open: {ks: 0}, epochs: 1, learning_rate: 1e-9}]", "--set", "calibration_images=4")  # fmt: skip
    done = ofa(tmp_path, *train)
    assert done.code == 0 and "three has 3 of ImageNet's 1,000 classes: their rows are kept" in done.err
    own = build_supernet("ofa_digits", 3)
    own.load_checkpoint(tmp_path / "training" / "supernet.pt")
    assert own.classifier.linear.bias.tolist() == pytest.approx([0, 1e3, 0], abs=1e-3)
    (tmp_path / "ofa-tvm.yaml").unlink()
    for i in range(6):
        picture(tmp_path / "mixed" / ("n99999999" if i % 2 else IDS[0]) / f"{i}.png", i)
    message = ofa(tmp_path, *words, "--data", tmp_path / "mixed").error(1)
    assert "n99999999: none of ImageNet's 1,000 classes" in message


def test_init_of_another_space_is_answered_with_its_name(photos: Path, tmp_path: Path, ofa: Verbs) -> None:
    import torch

    torch.save(build_supernet("ofa_digits", 5).state_dict(), tmp_path / "theirs.pth")  # names no space
    train = ("train", "--data", photos, "--init", "theirs.pth", "--workers", 0, *QUICK)
    message = ofa(tmp_path, *train, "--space", "ofa_mbv3_w1.0").error(1)
    assert "look like those of ofa_digits; name it by --space ofa_digits" in message
    message = ofa(tmp_path, "evaluate", "min", "--checkpoint", "theirs.pth", "--space", "ofa_resnet50",
                  "--data", "digits").error(1)  # fmt: skip
    assert "they look like those of ofa_digits" in message


def test_run_counts_by_the_names_of_folders(small: SmallModule, tmp_path: Path, ofa: Verbs) -> None:
    for value, label in enumerate((*LABELS[:3], "my things")):
        for i in range(2):
            picture(tmp_path / "in" / label / "deep" / ".." / f"{i}.png", 40 * value + i, size=(SIZE, SIZE))
    (tmp_path / "in" / "zero" / "torn.png").write_bytes(b"no picture")
    (tmp_path / "in" / ".hidden").mkdir()
    picture(tmp_path / "in" / ".hidden" / "0.png", 3)
    done = ofa(tmp_path, "run", small.so, "in", "--json")
    assert done.code == 0, done.err
    result = json.loads(done.out)
    assert "skipped: in/zero/torn.png" in done.err
    assert "not counted: 2 pictures in folders that are no class of this network: my things" in done.err
    assert len(result["predictions"]) == 8 and len(result["skipped"]) == 1
    right = [p for p in result["predictions"] if p.get("right")]
    assert result["answers"]["images"] == 6 and result["answers"]["right"] == len(right)
    people = ofa(tmp_path, "run", small.so, "in", "-k", 4).out
    assert f"{len(right)} of 6 images right" in people and "among the first 4: 6 of 6 (100.00%)" in people
    assert people.count("(wrong)") == 6 - len(right)


def test_run_knows_imagenets_folders_without_labels(tmp_path: Path, ids: Path, ofa: Verbs) -> None:
    import onnx

    path = write_small_onnx(tmp_path / "m.onnx", classes=1000)
    model = onnx.load(path)
    preprocessing = next(p.value for p in model.metadata_props if p.key == "preprocessing")
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {"preprocessing": preprocessing})
    onnx.save(model, path)
    build_small_module(path, tmp_path / "m.so", get_target("x86"))
    picture(tmp_path / "more" / "n99999999" / "0.png", 1)
    done = ofa(tmp_path, "run", "m.so", ids / "val", "more", "--json")
    assert done.code == 0, done.err
    assert sum(n for _, _, n in json.loads(done.out)["answers"]["confusion"]["counts"]) == 6
    assert {t for t, _, _ in json.loads(done.out)["answers"]["confusion"]["counts"]} == {0, 217, 701}
    assert "no class of this network: n99999999" in done.err
