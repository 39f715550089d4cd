"""What a report tells, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ofa_tvm.confusion import Confusion
from ofa_tvm.deploy import Manifest, Prediction
from ofa_tvm.deploy.manifest import AccuracyEntry, CandidateEntry, LatencyEntry
from ofa_tvm.estimators.contract import LeftOut
from ofa_tvm.latency.learning_curve import LearningCurve
from ofa_tvm.logs import Signature
from ofa_tvm.spaces import Arch
from ofa_tvm.spaces.space import Space
from ofa_tvm.workflow.compared import Comparison


@dataclass(frozen=True)
class Deployed:
    """One artefact.

    Attributes
    ----------
    name
        Its folder's name, within the project if it lies there.
    manifest
        What it says of itself.
    space
        That its subnet is of.
    kernels
        (signature, time of all calls or None, schedule), in order of execution.
    inside
        Whether those times were taken inside the network, in us, else they are the tuning log's.
    inside_project
        Whether `name` is as seen from the project's folder.
    """

    name: str
    manifest: Manifest
    space: Space | None
    kernels: tuple[tuple[Signature, float | None, str], ...]
    inside: bool
    inside_project: bool = True

    @property
    def target(self) -> str:
        """Name of what it is compiled for."""
        return self.manifest.target.name

    @property
    def arch(self) -> Arch | None:
        """Its subnet."""
        return self.manifest.arch

    @property
    def latency(self) -> LatencyEntry:
        """What it costs."""
        return self.manifest.latency

    @property
    def accuracy(self) -> AccuracyEntry:
        """How good it is."""
        return self.manifest.accuracy

    @property
    def series(self) -> str:
        """The measured latencies that its own belongs to (`Measured.target`)."""
        return self.manifest.variant.name

    @property
    def candidates(self) -> tuple[CandidateEntry, ...]:
        """Of the search that found it."""
        return self.manifest.search.candidates

    @property
    def spread(self) -> float | None:
        """Median absolute deviation of its measured latency; None where the manifest says nothing."""
        return None if self.latency.how is None else self.latency.how.mad_ms

    @property
    def validation_accuracy(self) -> float | None:
        """Of the same subnet on the validation split, which is what a search compares."""
        return next((c.accuracy for c in self.candidates if c.arch == self.arch), None)

    @property
    def n_classes(self) -> int:
        """Outputs of its network."""
        return self.manifest.outputs[0].shape[-1] if self.manifest.outputs else 1000


@dataclass(frozen=True)
class Measured:
    """Random subnets of one target: measured costs, accuracies as predicted, and the predicted trade-off.

    Attributes
    ----------
    cost, accuracy : (n,) arrays
    loo : (n,) array
        Cost of each subnet as predicted from the others.
    groups : dict
        What subnets can be told apart by -> its value of each, (n,).
    errors : dict
        Of `loo`, see `ofa_tvm.estimators.metrics.errors`.
    learning : LearningCurve or None
        Of the latency model; None where too little was measured.
    front : (m, 2) array
        Cost and accuracy along the predicted Pareto front; empty without predictors.
    ends : dict
        "largest" and "smallest" -> cost and accuracy as predicted; empty without predictors.
    """

    target: str
    unit: str
    cost: np.ndarray
    accuracy: np.ndarray | None
    loo: np.ndarray
    groups: Mapping[str, np.ndarray]
    errors: Mapping[str, float]
    learning: LearningCurve | None
    front: np.ndarray
    ends: Mapping[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Training:
    """Curves of progressive shrinking.

    Attributes
    ----------
    step, loss : (n,) arrays
        One entry an epoch, counted through all phases.
    phases : tuple of (name, first step, last step)
    accuracies : tuple of (step, lowest, highest)
        Among the validated subnets, 0..1.
    """

    step: np.ndarray
    loss: np.ndarray
    phases: tuple[tuple[str, float, float], ...]
    accuracies: tuple[tuple[float, float, float], ...]


@dataclass(frozen=True)
class Sample:
    """One test picture as the module answered it, the likeliest classes first; `image` is a PNG or JPEG."""

    image: bytes
    size: tuple[int, int]
    truth: str
    best: tuple[Prediction, ...]

    @property
    def right(self) -> bool:
        """Whether the likeliest class is the true one."""
        return self.best[0].label == self.truth


@dataclass(frozen=True)
class Answers:
    """What the first artefact's module answers to test images.

    Attributes
    ----------
    data, of
        The images' name, and how many the test split has: on large ones a random part is asked.
    confusion
        All these answers, counted.
    samples
        Wrong ones first.
    """

    data: str
    of: int
    confusion: Confusion
    samples: tuple[Sample, ...]


@dataclass(frozen=True)
class Missing:
    """A part that the page lacks: what, why, and how to get it."""

    what: str
    why: str
    how: str


@dataclass(frozen=True)
class Content:
    """All that a report shows; what a project lacks is empty or None.

    Attributes
    ----------
    artefacts
        The most important one first; `comparison` and `answers` are of that.
    confusion
        How its module answered on all test images when it shipped; None of older ones.
    validation_images
        On which accuracies are compared; None where not known.
    tried
        A picture of the project to try the artefact on, as seen from its folder, and the answer.
    missing
        What else there could be.
    """

    title: str
    space: Space
    artefacts: tuple[Deployed, ...]
    targets: tuple[Measured, ...]
    accuracies: LeftOut | None
    training: Training | None
    comparison: Comparison | None = None
    answers: Answers | None = None
    confusion: Confusion | None = None
    validation_images: int | None = None
    tried: tuple[str, Prediction | None] | None = None
    missing: tuple[Missing, ...] = ()
