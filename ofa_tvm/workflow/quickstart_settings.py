"""How much work each stage of the quickstart does, and that as parts of a job."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace

from ofa_tvm.job import Part
from ofa_tvm.spaces import get_space
from ofa_tvm.training.checkpoint import CheckpointFolder
from ofa_tvm.training.config import TrainingConfig
from ofa_tvm.training.data import digits
from ofa_tvm.training.defaults import digits_config
from ofa_tvm.training.parts import VALIDATE, Sketch, training_parts
from ofa_tvm.workflow.plan import ENUMERATE_S, SearchWork
from ofa_tvm.workflow.store import Store
from ofa_tvm.yamlfile import write_yaml

SPACE = "ofa_digits"

# Guesses until they are timed.
_ENUMERATED, _KERNELS, _KERNEL_S, _COMPARE_S = 27, 242, 0.35, 10.0


@dataclass(frozen=True)
class QuickstartSettings:
    """How much work each stage does; the defaults fit five minutes on two cores.

    Parameters
    ----------
    training
        Phases of progressive shrinking.
    accuracy_samples, latency_samples
        Subnets whose accuracy and latency are measured to fit the predictors.
    trials
        Of each kernel of the space.
    tuning_seconds
        Wall-clock limit of the tuning; kernels that are left over use their template's first choice.
    candidates, rounds
        Subnets measured in each round of the search, and its rounds at the most.
    images
        Test scans written as PNG files.
    """

    training: TrainingConfig = field(default_factory=digits_config)
    accuracy_samples: int = 80
    latency_samples: int = 40
    trials: int = 6
    tuning_seconds: float = 120.0
    candidates: int = 4
    rounds: int = 3
    images: int = 10

    @property
    def resolutions(self) -> tuple[int, ...]:
        """Those that the supernet is trained at, smallest first; all later stages keep to them."""
        return tuple(sorted(self.training.resolutions or get_space(SPACE).default_resolutions))

    def to_yaml(self, seed: int) -> str:
        """All of it, for people."""
        return write_yaml({**asdict(self), "training": self.training.to_dict(), "seed": seed})


def quickstart_parts(settings: QuickstartSettings, store: Store, formats: int) -> list[Part]:
    """What is left to do at most, in so many number formats."""
    space, data = get_space(SPACE), digits()
    sketch = Sketch(settings.training, data, space)
    first = CheckpointFolder(store.training / "checkpoints").position()[0]
    trained = [
        replace(part, phase="train the supernet")
        for number in range(first, len(settings.training.phases))
        for part in training_parts(sketch, number)
    ]
    validations = [part for part in trained if part.task == VALIDATE]
    searched = SearchWork(
        space,
        settings.resolutions,
        learned=formats * (settings.accuracy_samples + 2 * len(settings.resolutions)),
        measured=formats * settings.latency_samples,
        searched=formats * settings.rounds * settings.candidates,
        rounds=formats * settings.rounds,
        images=settings.training.calibration_images + data.size("val"),
    )
    tuning_s = formats * settings.tuning_seconds
    return [
        *(part for part in trained if part.task != VALIDATE),
        *(replace(one, units=sum(part.units for part in validations)) for one in validations[:1]),
        Part("tune the space's kernels", "enumerating kernels", formats * _ENUMERATED, ENUMERATE_S),
        Part("tune the space's kernels", "tuning kernels", formats * _KERNELS, _KERNEL_S, most_s=tuning_s),
        *searched.parts(),
        Part("compare", "compare", 1, _COMPARE_S),
    ]
