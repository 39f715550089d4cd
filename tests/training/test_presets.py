"""What suits a data set: a preset by number and size of images, a batch and a length by their number."""

from __future__ import annotations

import pytest

from ofa_tvm import get_space
from ofa_tvm.training import digits
from ofa_tvm.training.defaults import paper_config
from ofa_tvm.training.presets import (
    PRESETS,
    fitted,
    fitting_preset,
    misfit,
    preset_of,
    shareable,
    typical_side,
)

PAPER = paper_config(get_space("ofa_mbv3_w0.5"))


def test_presets_are_of_their_spaces() -> None:
    for preset in PRESETS.values():
        assert set(preset.resolutions or ()) <= set(get_space(preset.space).resolutions)
        assert preset_of(preset.space, preset.resolutions) is preset
    assert preset_of("ofa_mbv3_w0.5", (64,)) is None


@pytest.mark.parametrize(
    ("images", "side", "name"),
    [(437, 500, "small"), (9469, 64, "small"), (9469, 128, "medium"), (1_281_167, 350, "imagenet"),
     (200_000, 64, "small"), (200_000, 128, "medium")],
)  # fmt: skip
def test_the_preset_follows_number_and_size(images: int, side: int, name: str) -> None:
    assert fitting_preset(images, side).name == name


def test_the_side_is_that_of_the_pictures() -> None:
    assert typical_side(digits()) == 8


@pytest.mark.parametrize("images", [3, 30, 127, 437, 1197, 9469, 50_000, 1_281_167])
def test_any_number_of_images_makes_a_sane_training(images: int) -> None:
    sized = fitted(PAPER, images)
    epochs = sum(phase.total_epochs for phase in sized.phases)
    assert epochs <= 605 and misfit(sized, images) is None
    if images >= 100:
        assert sized.steps_per_epoch(images) >= 8 and sized.total_steps(images) >= 3800
    assert fitted(PAPER, images, trained=True).total_steps(images) <= sized.total_steps(images)


def test_imagenet_is_trained_as_in_the_paper() -> None:
    assert fitted(PAPER, 1_281_167) == PAPER


def test_what_does_not_fit_is_said_with_what_does() -> None:
    said = misfit(PAPER, 540)
    assert said is not None and "605 epochs" in said and "--set batch_size=16" in said
    assert "1 step an epoch of 540 images, 605 steps" in said
    said = misfit(PAPER.replace(batch_size=16), 540)
    assert said is not None and "--epochs-scale" in said and "times what 540 images need" in said
    scale = float(said.split("--epochs-scale ")[1].split()[0])
    assert misfit(PAPER.replace(batch_size=16).with_epochs(scale), 540) is None


@pytest.mark.parametrize("processes", [1, 2, 3, 8])
def test_processes_can_share_a_small_batch(processes: int) -> None:
    shared = shareable(fitted(PAPER, 437), processes)
    assert shared.micro_batch_size is not None
    assert -(-shared.batch_size // shared.micro_batch_size) % processes == 0
    assert shared.micro_batch_size >= 8
