"""What a training run does, as frozen data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import PurePath
from typing import Any, Literal

from ofa_tvm.errors import UsageError, shorten, shown
from ofa_tvm.schema import first_problem
from ofa_tvm.spaces import Space
from ofa_tvm.yamlfile import parse_yaml

PER_IMAGES = 64
"""Learning rates are stated per this many images a step and scale linearly with the batch."""


LOGS: tuple[Literal["csv", "tensorboard"], ...] = ("csv", "tensorboard")
PRECISIONS = ("float32", "bfloat16", "float16")

_WHOLE = {"type": "integer"}
_MOST = 1e30  # float32 holds 3e38, and rates grow with the batch

PHASE_SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["name"],
    "properties": {
        "name": {"type": "string"},
        "open": {"type": "object", "additionalProperties": {"type": "integer", "minimum": 0}},
        "epochs": _WHOLE,
        "warmup_epochs": _WHOLE,
        "learning_rate": {"type": "number", "maximum": _MOST},
        "subnets": _WHOLE,
        "sort_channels": {"type": "boolean"},
        "quantize": {"type": "boolean"},
    },
}

CONFIG_SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "space": {"type": "string"},
        "phases": {"type": "array", "items": PHASE_SCHEMA},
        "batch_size": _WHOLE,
        "micro_batch_size": {"type": ["integer", "null"]},
        "momentum": {"type": "number", "minimum": 0, "maximum": 1},
        "weight_decay": {"type": "number", "minimum": 0, "maximum": 1},
        "label_smoothing": {"type": "number", "minimum": 0, "maximum": 1},
        "dropout": {"type": "number", "minimum": 0, "maximum": 1},
        "distillation": {"type": "number", "minimum": 0, "maximum": _MOST},
        "distillation_type": {"enum": ["ce", "mse"]},
        "resolutions": {"type": ["array", "null"], "items": _WHOLE, "minItems": 1},
        "calibration_images": {"type": "integer", "minimum": 1},
        "precision": {"enum": list(PRECISIONS)},
        "channels_last": {"type": "boolean"},
        "compile": {"type": "boolean"},
        "device": {"type": "string"},
        "threads": {"type": ["integer", "null"], "minimum": 1},
        "checkpoint_every_s": {"type": "number", "minimum": 0},
        "log": {"type": "array", "items": {"enum": list(LOGS)}, "uniqueItems": True},
    },
}
"""Of a training's YAML file: any part of the settings; the rest keep their defaults."""


@dataclass(frozen=True)
class Phase:
    """One stretch of training in which some dimensions of the space are elastic.

    Attributes
    ----------
    name
        For logs, files and messages.
    open
        Elastic dimension ("ks", "e", "d", "w") to how many of its largest choices may be drawn; 0 means all.
        Dimensions not named stay at their largest choice.
    epochs, warmup_epochs
        Of cosine decay, and of linear warm-up before it.
    learning_rate
        Peak, per 64 images.
    subnets
        Subnets a step, their gradients added up.
    sort_channels
        Order channels by importance first, which shrinking the width relies on.
    quantize
        Compute with integers of 8 bits from here on.
    """

    name: str
    open: Mapping[str, int] = field(default_factory=dict)
    epochs: int = 120
    warmup_epochs: int = 0
    learning_rate: float = 3e-2
    subnets: int = 1
    sort_channels: bool = False
    quantize: bool = False

    @property
    def total_epochs(self) -> int:
        return self.epochs + self.warmup_epochs


@dataclass(frozen=True)
class TrainingConfig:
    """Everything but the data and the seed.

    Attributes
    ----------
    space
        Name of the search space.
    phases
        In order. From the second on, the full net as the first left it teaches.
    batch_size
        Images a step, over all processes.
    micro_batch_size
        Images a forward pass; batch statistics are those of a micro-batch, so that the result does not depend
        on how many processes share them. None takes the whole batch at once.
    distillation
        Weight of the teacher's loss against the labels' (0 trains without a teacher).
    distillation_type
        "ce": cross-entropy with the teacher's probabilities; "mse": squared distance of logits.
    resolutions
        Drawn once a batch; None takes the space's.
    calibration_images
        Training images behind the batch-norm statistics of a subnet before it is evaluated.
    precision
        "float32", or "bfloat16" or "float16" for mixed precision (float16 scales the loss, so that small
        gradients do not vanish).
    compile
        Hand networks whose shape never changes (the teacher, the full net's phase, a fine-tuned subnet) to
        torch.compile. It takes a minute a resolution and needs a C++ compiler on a CPU; sampled subnets are
        never compiled, each would be compiled anew.
    device
        "auto" takes CUDA where there is one.
    threads
        CPU threads of torch; None leaves its setting alone. Identical results need identical threads.
    checkpoint_every_s
        Seconds between checkpoints; every phase ends with one too.
    log
        What losses and accuracies are written as, besides `metrics.jsonl`: "csv", "tensorboard".
    """

    space: str
    phases: tuple[Phase, ...]
    batch_size: int = 2048
    micro_batch_size: int | None = 64
    momentum: float = 0.9
    weight_decay: float = 3e-5
    label_smoothing: float = 0.1
    dropout: float = 0.1
    distillation: float = 1.0
    distillation_type: Literal["ce", "mse"] = "ce"
    resolutions: tuple[int, ...] | None = None
    calibration_images: int = 2000
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    channels_last: bool = True
    compile: bool = False
    device: str = "auto"
    threads: int | None = None
    checkpoint_every_s: float = 60.0
    log: tuple[Literal["csv", "tensorboard"], ...] = ()

    def __post_init__(self) -> None:
        if not self.phases:
            raise UsageError("a training needs at least one phase")
        names = [phase.name for phase in self.phases]
        if len(set(names)) < len(names):
            raise UsageError(f"phase names must differ: {', '.join(names)}")
        for phase in self.phases:
            if not phase.name or PurePath(phase.name).name != phase.name:
                raise UsageError(
                    f"phase name {shown(phase.name)} must do as a file's name: not empty, no slashes"
                )
            if phase.epochs < 1 or phase.warmup_epochs < 0 or phase.subnets < 1 or phase.learning_rate <= 0:
                raise UsageError(
                    f"phase {phase.name}: epochs, subnets and learning_rate must be positive, "
                    "warmup_epochs not negative"
                )
        quantized = [phase.quantize for phase in self.phases]
        if quantized != sorted(quantized):
            after = self.phases[quantized.index(True) + 1 :]
            name = next(phase.name for phase in after if not phase.quantize)
            raise UsageError(
                f"phase {name} comes after one that quantises; give it quantize: true, or let it come before"
            )
        micro = self.micro_batch_size
        if self.batch_size < 1 or (micro is not None and micro < 1):
            raise UsageError("batch_size and micro_batch_size must be positive")
        if self.distillation_type not in ("ce", "mse"):
            raise UsageError(f"unknown distillation_type {shown(self.distillation_type)}; use ce or mse")
        if self.precision not in PRECISIONS:
            raise UsageError(f"unknown precision {shown(self.precision)}; use {', '.join(PRECISIONS)}")

    def replace(self, **changes: Any) -> TrainingConfig:
        """A copy with some settings changed."""
        return replace(self, **changes)

    @property
    def total_epochs(self) -> int:
        """Epochs of all phases."""
        return sum(phase.total_epochs for phase in self.phases)

    def batch(self, images: int) -> int:
        """Images of one step, where there are so many to train on."""
        return min(self.batch_size, images)

    def micro_batch(self, images: int) -> int:
        """Images that are in memory at once."""
        return min(self.micro_batch_size or self.batch_size, self.batch(images))

    def steps_per_epoch(self, images: int) -> int:
        """Steps of an epoch; images that fill no batch are left out."""
        return images // self.batch(images)

    def total_steps(self, images: int) -> int:
        """Steps of all phases."""
        return self.total_epochs * self.steps_per_epoch(images)

    def with_epochs(self, scale: float) -> TrainingConfig:
        """A copy whose phases are `scale` times as long; each keeps one epoch at least.

        Raises
        ------
        UsageError
            If `scale` is not positive, or infinite.
        """
        if not 0 < scale < math.inf:
            raise UsageError(f"epochs cannot be scaled by {scale}; use a finite number above 0")
        phases = tuple(
            replace(
                phase,
                epochs=max(1, round(phase.epochs * scale)),
                warmup_epochs=round(phase.warmup_epochs * scale),
            )
            for phase in self.phases
        )
        return self.replace(phases=phases)

    def with_settings(self, assignments: Sequence[str]) -> TrainingConfig:
        """A copy with settings as typed: `batch_size=256`, `phases.full.epochs=10`, `resolutions=[32, 40]`.

        Raises
        ------
        UsageError
            If one has no "=", names no setting or phase, or its value makes no sense.
        """
        config = self
        for assignment in assignments:
            data = config.to_dict()
            key, equals, text = assignment.partition("=")
            if not equals:
                raise UsageError(f"a setting reads name=value, not {shown(assignment)}")
            try:
                value = parse_yaml(text)
            except ValueError as error:
                raise UsageError(f"the value of {shown(key)} cannot be read: {error}") from None
            where: Any = data
            *path, last = key.strip().split(".")
            if path:
                where = _phase_table(data, path, key)
            where[last] = value
            config = TrainingConfig.from_dict(data)
        return config

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for YAML and JSON."""
        data = asdict(self)
        data["phases"] = [{**asdict(phase), "open": dict(phase.open)} for phase in self.phases]
        data["log"] = list(self.log)
        data["resolutions"] = None if self.resolutions is None else list(self.resolutions)
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TrainingConfig:
        """Read what `to_dict` wrote, or a YAML file's mapping.

        Raises
        ------
        UsageError
            If a setting is unknown or missing, or its value makes no sense.
        """
        settings = dict(data)
        _refuse_unknown(settings, cls, "training")
        phases = settings.pop("phases", None) or []
        for phase in phases if isinstance(phases, list) else ():
            if isinstance(phase, Mapping):
                _refuse_unknown(phase, Phase, "phase")
        if (problem := first_problem({**settings, "phases": phases}, CONFIG_SCHEMA)) is not None:
            path, message = problem
            raise UsageError(f"training setting {'.'.join(map(str, path))}: {message}")
        if (resolutions := settings.get("resolutions")) is not None:
            settings["resolutions"] = tuple(resolutions)
        if "log" in settings:
            settings["log"] = tuple(settings["log"])
        try:
            return cls(phases=tuple(Phase(**phase) for phase in phases), **settings)
        except TypeError as error:
            raise UsageError(f"training settings are incomplete or of the wrong type: {error}") from error


def _phase_table(data: dict[str, Any], path: Sequence[str], key: str) -> dict[str, Any]:
    """The table that `phases.<name>.<setting>` is a part of."""
    names = [phase["name"] for phase in data["phases"]]
    if path[0] != "phases" or len(path) != 2 or path[1] not in names:
        raise UsageError(
            f"there is no setting {shown(key)}; phases are {', '.join(names)} (phases.NAME.epochs=10)"
        )
    table: dict[str, Any] = data["phases"][names.index(path[1])]
    return table


def _refuse_unknown(settings: Mapping[str, Any], kind: type, what: str) -> None:
    known = [f.name for f in fields(kind)]
    if unknown := sorted(set(settings) - set(known)):
        raise UsageError(
            f"unknown {what} setting {shown(unknown[0])}; known are {shorten(', '.join(known), 200)}"
        )


def dimensions(space: Space) -> tuple[str, ...]:
    """Elastic dimensions of a space other than resolution, of "ks", "d", "e" and "w"."""
    return tuple(field for field in ("ks", "d", "e", "w") if len(space.gene_names[space.columns(field)]))
