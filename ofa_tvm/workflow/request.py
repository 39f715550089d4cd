"""What a search is asked for, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ofa_tvm.errors import UsageError
from ofa_tvm.estimators.contract import AccuracyModel, CostModel
from ofa_tvm.search.budget import Budget
from ofa_tvm.search.candidates import Candidate, VerifiedResult
from ofa_tvm.search.constraints import Constraint
from ofa_tvm.targets import DType, Target, Variant
from ofa_tvm.workflow.models import KnownLatency
from ofa_tvm.workflow.predictors import require_unit
from ofa_tvm.workflow.project import ACCURACY_SAMPLES, CALIBRATION_IMAGES, LATENCY_SAMPLES
from ofa_tvm.workflow.store import Store

if TYPE_CHECKING:
    from ofa_tvm.accuracy.predictor import AccuracyPredictor
    from ofa_tvm.supernet import Supernet
    from ofa_tvm.training.data import ImageData
    from ofa_tvm.workflow.ship import Shipped


@dataclass(frozen=True)
class TargetRequest:
    """A budget on one target.

    Parameters
    ----------
    target
        With its threads and dtype.
    budget
        In the target's unit; None for the measured cost of the space's median subnet, which the store keeps.
    model
        What predicts costs; None for the store's, which is learned if it is not there.
    artefact
        Folder to ship into; None ships nothing.
    """

    target: Target
    budget: Budget | None
    model: CostModel | None = None
    artefact: Path | None = None


@dataclass(frozen=True)
class SearchRequest:
    """What to search for, with what.

    Parameters
    ----------
    store
        The project's files: tuning logs, models, and evaluations; what is measured is kept there.
    net
        The supernet.
    data
        Its images: training images for batch statistics, validation images to choose by, test images for the
        accuracy of the compiled module. None for a supernet of random weights, whose accuracies are only
        predicted and of which nothing ships.
    targets
        One or several, whose budgets the subnet keeps all at once.
    resolutions
        To choose from. None for those that all models know; a model that has to be learned first knows the
        space's default ones.
    accuracy
        Predicts accuracies; None to learn it from measured subnets.
    accuracy_start
        To learn it from: a predictor of the same subnets in another number format.
    accuracy_samples, latency_samples
        Random subnets that are evaluated, and measured, where there is something to learn.
    calibration_images
        Behind a subnet's batch statistics.
    limits
        What holds beside the budgets, whatever the target.
    candidates, rounds
        Subnets measured in each round of the search, and rounds at the most.
    with_runtime
        Ship what a bare device needs, too.
    seed
        Of everything random.

    Raises
    ------
    UsageError
        If a budget has another unit than its target, a target is named twice, targets differ in number
        format, only some of them have folders to ship into, or something would have to be learned or shipped
        without images.
    """

    store: Store
    net: Supernet
    data: ImageData | None
    targets: tuple[TargetRequest, ...]
    resolutions: tuple[int, ...] | None = None
    accuracy: AccuracyModel | None = None
    accuracy_start: AccuracyPredictor | None = None
    accuracy_samples: int = ACCURACY_SAMPLES
    latency_samples: int = LATENCY_SAMPLES
    calibration_images: int = CALIBRATION_IMAGES
    limits: tuple[Constraint, ...] = ()
    candidates: int = 4
    rounds: int = 3
    with_runtime: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for one in self.targets:
            if one.budget is not None:
                require_unit(one.budget, one.target)
        names = [one.target.name for one in self.targets]
        if not names or len(set(names)) < len(names):
            raise UsageError("a search needs at least one target, and each target once")
        shipping = {one.artefact is not None for one in self.targets}
        if len(shipping) > 1:
            raise UsageError("a subnet ships for all targets of a search or for none; name a folder for each")
        if len({one.target.dtype for one in self.targets}) > 1:
            raise UsageError("the targets of a search share a number format")
        if self.data is None and (self.accuracy is None or True in shipping):
            raise UsageError("without images no accuracy can be learned, and nothing can be shipped")

    @property
    def learned_resolutions(self) -> tuple[int, ...]:
        """Those that a model is learned for."""
        return self.resolutions or self.net.space.default_resolutions


def known_latency(request: SearchRequest, one: TargetRequest) -> KnownLatency | None:
    """The model that was given, else the store's, unless it lacks a resolution that is asked for."""
    if one.model is not None:
        return KnownLatency(one.model, {})
    stored = request.store.latency(Variant.of(one.target), request.net.space)
    if stored is None or not set(request.resolutions or ()) <= set(stored.model.resolutions):
        return None
    return stored


@dataclass(frozen=True)
class TargetOutcome:
    """What came of one `TargetRequest`.

    Parameters
    ----------
    target, budget
        The budget as it was asked for, or chosen.
    latency
        What was known of the target's costs before the search.
    shipped
        None if nothing was to be shipped.
    """

    target: Target
    budget: Budget
    latency: KnownLatency
    shipped: Shipped | None


@dataclass(frozen=True)
class SearchOutcome:
    """What a search found.

    Parameters
    ----------
    request
        What was asked for; of several that competed, the one that won.
    found
        All that was measured; the candidates' `costs` are in the order of `targets`.
    targets
        In the order of the request.
    accuracy
        What it predicted accuracies by, before it measured candidates.
    seconds
        That it took, the others included.
    others
        What came of those that competed with it, of which nothing shipped; the most accurate first.
    """

    request: SearchRequest
    found: VerifiedResult
    targets: tuple[TargetOutcome, ...]
    accuracy: AccuracyModel
    seconds: float
    others: tuple[SearchOutcome, ...] = ()

    @property
    def chosen(self) -> Candidate:
        """The subnet that shipped, else the most accurate one within the budgets."""
        return self.found.winner

    @property
    def dtype(self) -> DType:
        """The number format of its modules; targets of one request share it."""
        return self.targets[0].target.dtype
