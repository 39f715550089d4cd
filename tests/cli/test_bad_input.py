"""What users get wrong between a budget and a shipped module, and what they are told; one plain line each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_module import SmallModule
from verbs import Verbs, without_torch

from ofa_tvm.accuracy.predictor import AccuracyPredictor
from ofa_tvm.deploy import Manifest, write_artefact
from ofa_tvm.deploy.manifest import TargetEntry
from ofa_tvm.spaces import get_space


@pytest.fixture
def deploy(small: SmallModule, tmp_path: Path) -> Path:
    return write_artefact(
        tmp_path / "deploy", small.so, small.onnx, Manifest(TargetEntry.of(small.target))
    ).folder


def predictor(folder: Path, space_name: str = "ofa_digits") -> Path:
    space = get_space(space_name)
    genes = space.sample_genes(np.random.default_rng(0), 12)
    AccuracyPredictor(space).fit(genes, space.macs_batch(genes) / 1e10).save(folder / "accuracy.model")
    return folder / "accuracy.model"


@pytest.mark.parametrize(
    ("budget", "says"),
    [
        ("0", "the budget '0' must be above 0; type for example 25ms"),
        ("-5", "the budget '-5' must be above 0; type for example 25ms"),
        ("fast", "the budget 'fast' is not a number with a unit; type for example 25ms"),
        ("25", "the budget '25' lacks its unit; type 25ms for milliseconds"),
    ],
)
def test_a_budget_that_is_none(ofa: Verbs, tmp_path: Path, budget: str, says: str) -> None:
    assert says in ofa(tmp_path, "search", "--latency", budget).error(2)


@pytest.mark.slow
def test_a_target_without_log_or_predictor(ofa: Verbs, tmp_path: Path) -> None:
    common = ["search", "--space", "ofa_digits", "--target", "x86-64-v2", "--latency", "1ms"]
    common += ["--accuracy-predictor", predictor(tmp_path)]
    told = ofa(tmp_path, *common, "--no-verify").error(2)
    assert "no latency model for target x86-64-v2" in told and "ofa-tvm predictor fit" in told
    assert "lacks peak_gflops" in told
    emulated = [*common[:4], "cortex-a72", "--latency", "100Minstr", *common[7:], "--no-verify"]
    told = ofa(tmp_path, *emulated).error(2)
    assert "cortex-a72 is emulated" in told and "ofa-tvm predictor fit" in told
    other = [*common[:4], "cuda-sm75", *common[5:], "--no-verify"]
    told = ofa(tmp_path, *other).error(2)
    assert "the space ofa_digits is unlike them" in told and "ofa-tvm predictor fit" in told
    told = ofa(tmp_path, *common, "--arch-only").error(2)
    assert "target x86-64-v2 has neither a tuning log nor a latency model" in told
    assert "run ofa-tvm tune --target x86-64-v2" in told


def test_an_accuracy_predictor_of_another_space(ofa: Verbs, tmp_path: Path) -> None:
    common = ["search", "--latency", "25ms", "--no-verify", "--accuracy-predictor", predictor(tmp_path)]
    told = ofa(tmp_path, *common, "--space", "ofa_mbv3_w1.0").error(2)
    assert told.endswith("accuracy.model is for ofa_digits, not ofa_mbv3_w1.0")


def test_a_published_predictor_of_another_space(ofa: Verbs, tmp_path: Path, shared_data: Path) -> None:
    file = shared_data / "accuracy" / "acc_predictor.pth"
    common = ["search", "--latency", "25ms", "--no-verify", "--accuracy-predictor", file]
    told = ofa(tmp_path, *common, "--space", "ofa_resnet50").error(2)
    assert "is not the encoding of ofa_resnet50: it was made for another space" in told


def test_an_artefact_for_another_architecture(small: SmallModule, tmp_path: Path) -> None:
    code = bytearray(small.so.read_bytes())
    code[18:20] = (243).to_bytes(2, "little")  # the ELF header's machine: RISC-V, which nothing emulates
    (tmp_path / "riscv.so").write_bytes(code)
    manifest = Manifest(TargetEntry("x86", "x86", {"kind": "llvm"}, 1))
    folder = write_artefact(tmp_path / "deploy", tmp_path / "riscv.so", small.onnx, manifest).folder
    Image.new("RGB", (9, 9)).save(tmp_path / "p.png")
    told = without_torch(tmp_path, "run", folder, "p.png").error(1)
    assert "model.so is code for riscv64, but this machine is x86_64" in told


@pytest.mark.slow
def test_pictures_that_are_none_or_too_large(deploy: Path, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    Image.new("1", (10_000, 10_000)).save(tmp_path / "large.png")
    Image.new("RGB", (64, 64), "red").save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:300])
    for name, says in (
        ("text.png", "text.png is not an image that can be read"),
        ("large.png", "large.png has more than 50 million pixels; scale it down first"),
        ("cut.jpg", "cut.jpg cannot be decoded"),
        ("none.png", "no such image: none.png"),
    ):
        assert says in without_torch(tmp_path, "run", deploy, name).error(1)


def test_pictures_of_every_kind_are_the_same_picture(deploy: Path, tmp_path: Path) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (20, 20), dtype=np.uint8)
    rgb = Image.fromarray(np.dstack([grey] * 3))
    rgb.save(tmp_path / "rgb.png")
    Image.fromarray(grey).save(tmp_path / "grey.png")
    rgb.convert("RGBA").save(tmp_path / "rgba.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "16bit.png")
    names = ["rgb.png", "grey.png", "rgba.png", "16bit.png"]
    done = without_torch(tmp_path, "run", deploy, *names, "-k", 4)
    assert done.code == 0, done.err
    answers = [line.split(maxsplit=1) for line in done.out.splitlines()]
    assert [name for name, _ in answers] == names
    assert len({answer for _, answer in answers}) == 1
