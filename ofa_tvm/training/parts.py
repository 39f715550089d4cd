"""What a training has to do: its settings as a file, and its work as parts of a job."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ofa_tvm.job import Part
from ofa_tvm.training import sampling
from ofa_tvm.yamlfile import write_yaml

if TYPE_CHECKING:
    from ofa_tvm.spaces import Arch, Space
    from ofa_tvm.training.config import Phase, TrainingConfig
    from ofa_tvm.training.data import ImageData

SETTINGS = "settings.yaml"
"""File in a training's folder: all settings that it goes by."""

VALIDATE = "validate"
"""Task that validates subnets at the end of a phase."""

# Guesses until the first step is done: of a core, forward and backward taking three times as long as forward.
_MACS_PER_S, _STEP_S, _BACKWARD, _DRAWN = 1e10, 0.01, 3, 8


def steps_task(phase: Phase) -> str:
    """Name of the task that takes a phase's steps."""
    return f"train {phase.name}"


def settings_file(config: TrainingConfig, data: ImageData, seed: int) -> str:
    """All settings as YAML; what no setting says is in a comment."""
    sizes = ", ".join(f"{data.size(split)} {split}" for split in ("train", "val", "test"))
    return (
        f"# {data.name} ({sizes}), seed {seed}; to use them again: --config\n{write_yaml(config.to_dict())}"
    )


class Trains(Protocol):
    """What of a training loop tells how much work it is."""

    @property
    def config(self) -> TrainingConfig: ...

    @property
    def data(self) -> ImageData: ...

    @property
    def space(self) -> Space: ...

    @property
    def batch_size(self) -> int: ...

    @property
    def steps_per_epoch(self) -> int: ...

    def resolutions(self) -> tuple[int, ...]: ...

    def subnets(self, index: int, step: int, resolution: int) -> list[Arch]: ...

    def validated(self, phase: Phase) -> dict[str, Arch]: ...


@dataclass(frozen=True)
class Sketch:
    """The same of a supernet's training that has not begun."""

    config: TrainingConfig
    data: ImageData
    space: Space

    @property
    def batch_size(self) -> int:
        return self.config.batch(self.data.size("train"))

    @property
    def steps_per_epoch(self) -> int:
        return self.config.steps_per_epoch(self.data.size("train"))

    def resolutions(self) -> tuple[int, ...]:
        return self.config.resolutions or self.space.resolutions

    def subnets(self, index: int, step: int, resolution: int) -> list[Arch]:
        return sampling.step_subnets(self.space, self.config.phases[index], index, 0, step, resolution)

    def validated(self, phase: Phase) -> dict[str, Arch]:
        return validated_subnets(self.space, phase, self.resolutions())


def validated_subnets(space: Space, phase: Phase, resolutions: Sequence[int]) -> dict[str, Arch]:
    """What is validated at the end of a supernet's phase: its corners at the smallest and largest input."""
    ends = sorted({min(resolutions), max(resolutions)})
    return {
        f"{label} @{resolution}": arch.replace(r=resolution)
        for label, arch in sampling.corner_subnets(space, phase).items()
        for resolution in ends
    }


def training_parts(loop: Trains, index: int) -> list[Part]:
    """A phase's steps and validations; from the first steps on, how long others take follows from MACs."""
    config, phase, space = loop.config, loop.config.phases[index], loop.space
    sides = loop.resolutions()
    drawn = [
        loop.subnets(index, step, side)
        for step, side in enumerate(np.resize(np.array(sides), max(_DRAWN, len(sides))).tolist())
    ]
    taught = bool(index and config.distillation)
    macs = np.mean([_BACKWARD * _macs(space, archs) + taught * _teacher(space, archs) for archs in drawn])
    step_s = _STEP_S * (phase.subnets + taught) + float(macs) * loop.batch_size / _MACS_PER_S
    validated = list(loop.validated(phase).values())
    images = min(config.calibration_images, loop.data.size("train")) + loop.data.size("val")
    each_s = _STEP_S + _macs(space, validated) / len(validated) * images / _MACS_PER_S
    return [
        Part(phase.name, steps_task(phase), phase.total_epochs * loop.steps_per_epoch, step_s, "step"),
        Part(phase.name, VALIDATE, len(validated), each_s, VALIDATE),
    ]


def _macs(space: Space, archs: Sequence[Arch]) -> float:
    return float(sum(space.macs(arch) for arch in archs))


def _teacher(space: Space, archs: Sequence[Arch]) -> float:
    return float(space.macs(space.max_arch(archs[0].r)))
