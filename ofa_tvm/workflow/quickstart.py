"""The whole loop on real handwritten digits, from untrained weights to a shipped, measured module.

Training, tuning (`tune_space`) and the search pipeline are what the other verbs use. All stages resume: the
training, the evaluations, the tuning log and the latency table go on where an interrupted run stopped.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ofa_tvm.accuracy.predictor import AccuracyPredictor
from ofa_tvm.errors import UserError
from ofa_tvm.files import write_atomic
from ofa_tvm.latency.regression import LatencyRegressor
from ofa_tvm.logs import find_records
from ofa_tvm.progress import SILENT, Progress
from ofa_tvm.search.budget import Budget
from ofa_tvm.spaces import get_space
from ofa_tvm.supernet import Supernet, build_supernet
from ofa_tvm.targets import Target, Variant
from ofa_tvm.training.config import TrainingConfig
from ofa_tvm.training.data import ImageData, digits
from ofa_tvm.training.defaults import digits_config
from ofa_tvm.training.shrinking import train
from ofa_tvm.tuning import TuningResult
from ofa_tvm.workflow.comparison import Row, compare
from ofa_tvm.workflow.loop import tune_space
from ofa_tvm.workflow.models import load_latency
from ofa_tvm.workflow.pipeline import run_search
from ofa_tvm.workflow.predictors import require_unit
from ofa_tvm.workflow.project import Project
from ofa_tvm.workflow.request import SearchOutcome, SearchRequest, TargetRequest
from ofa_tvm.workflow.ship import Shipped
from ofa_tvm.workflow.stages import Stages
from ofa_tvm.workflow.store import Store

SPACE = "ofa_digits"


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


@dataclass(frozen=True)
class QuickstartResult:
    """What the quickstart made and measured.

    Parameters
    ----------
    artefact
        Folder of the shipped artefact.
    images
        The PNG files to try it on.
    budget
        The latency budget.
    rows
        Largest, smallest and chosen subnet.
    shipped
        The chosen one as it was shipped.
    stages
        Seconds spent in each stage, earlier interrupted runs included.
    quality
        Rank correlation and error of the two predictors on subnets left out, and the tuning's extent.
    """

    artefact: Path
    images: tuple[Path, ...]
    budget: Budget
    rows: tuple[Row, ...]
    shipped: Shipped
    stages: dict[str, float]
    quality: dict[str, float]


def quickstart(
    out: Path,
    target: Target,
    *,
    budget: Budget | None = None,
    settings: QuickstartSettings | None = None,
    seed: int = 0,
    progress: Progress = SILENT,
) -> QuickstartResult:
    """Train, tune, predict, search and ship on scikit-learn's digits.

    Parameters
    ----------
    out
        Folder for everything; called again with the same one, it goes on.
    target
        A target that runs on this machine, on a board of its tracker, or in the emulator.
    budget
        Limit of its cost; None takes the measured latency of the space's median subnet.
    settings
        Extent of the stages.
    seed
        Of weights, order, sampling and search.
    progress
        Told of everything that takes long.

    Raises
    ------
    UsageError
        If the budget has another unit than the target, or is below what the space can reach.
    UserError
        If the folder holds something else, no kernel could be tuned, or nothing within the budget was found.
    """
    settings = settings or QuickstartSettings()
    if budget is not None:
        require_unit(budget, target)
    store = Store(out)
    stages = Stages(store.stages, progress)
    net, data = trained_on_digits(store, settings, stages, seed, progress)
    with stages.stage("tune the space's kernels"):
        tuned = _tuned(net, target, store, settings, seed, progress)
    request = _request(
        settings, store, net, data, TargetRequest(target, budget, artefact=store.artefact), seed
    )
    outcome = run_search(request, progress=progress, stage=stages.stage)
    (done,) = outcome.targets
    if done.shipped is None:
        raise RuntimeError("a target with a folder ships")
    latency = load_latency(store.latency_model(Variant.of(target)), net.space)
    with stages.stage("compare"):
        pictures = _write_images(data, store.images, settings.images)
        subjects = {
            "largest": net.space.max_arch(settings.resolutions[-1]),
            "smallest": net.space.min_arch(settings.resolutions[0]),
            "chosen": outcome.chosen.arch,
        }
        rows = compare(
            net,
            data,
            target,
            find_records(target, [store.logs]),
            latency,
            subjects,
            {"chosen": done.shipped},
            calibration_images=request.calibration_images,
            seed=seed,
        )
    quality = _quality(AccuracyPredictor.load(store.accuracy_model), latency, tuned, outcome)
    result = QuickstartResult(
        store.artefact, pictures, done.budget, rows, done.shipped, stages.seconds, quality
    )
    write_atomic(store.summary, json.dumps(summary(result), indent=1))
    return result


def trained_on_digits(
    store: Store, settings: QuickstartSettings, stages: Stages, seed: int, progress: Progress
) -> tuple[Supernet, ImageData]:
    """The supernet, trained now or by an earlier run; its project file is written.

    Raises
    ------
    UserError
        If a file cannot be read or written.
    """
    space, data = get_space(SPACE), digits()
    with stages.stage("train the supernet"):
        trained = train(settings.training, data, store.training, progress=progress, seed=seed)
        net = build_supernet(space, data.n_classes)
        net.load_checkpoint(trained.checkpoint)
        net.eval()
        project = Project(
            store.folder,
            space=SPACE,
            checkpoint=trained.checkpoint.relative_to(store.folder),
            data=data.name,
            resolutions=settings.resolutions,
            accuracy_predictor=store.accuracy_model.relative_to(store.folder),
            calibration_images=settings.training.calibration_images,
        )
        project.save()
    return net, data


def _tuned(
    net: Supernet, target: Target, store: Store, settings: QuickstartSettings, seed: int, progress: Progress
) -> TuningResult:
    """The kernels of the space, tuned as far as the time allows."""
    tuned = tune_space(
        net.space,
        target,
        store.folder,
        n_classes=net.n_classes,
        resolutions=settings.resolutions,
        trials=settings.trials,
        seconds=settings.tuning_seconds,
        seed=seed,
        progress=progress,
    )
    if not tuned.tuned:
        raise UserError(
            f"not one kernel was timed in {settings.tuning_seconds:.0f} s of tuning: too little time for "
            "this device, or for what else runs on it; the same command goes on from here"
        )
    return tuned


def _request(
    settings: QuickstartSettings,
    store: Store,
    net: Supernet,
    data: ImageData,
    target: TargetRequest,
    seed: int,
) -> SearchRequest:
    return SearchRequest(
        store,
        net,
        data,
        (target,),
        resolutions=settings.resolutions,
        accuracy_samples=settings.accuracy_samples,
        latency_samples=settings.latency_samples,
        calibration_images=settings.training.calibration_images,
        candidates=settings.candidates,
        rounds=settings.rounds,
        seed=seed,
    )


def _quality(
    accuracy: AccuracyPredictor, latency: LatencyRegressor, tuned: TuningResult, outcome: SearchOutcome
) -> dict[str, float]:
    return {
        "accuracy_spearman": accuracy.validation_["spearman"],
        "accuracy_rmse_points": 100 * accuracy.validation_["rmse"],
        "latency_spearman": latency.validation_["spearman"],
        "latency_mape": latency.validation_["mape"],
        "kernels": tuned.kernels,
        "kernels_tuned": tuned.tuned,
        "subnets_measured": len(outcome.targets[0].latency.measured) + len(outcome.found.record),
    }


def _write_images(data: ImageData, folder: Path, count: int) -> tuple[Path, ...]:
    """Test scans as PNG files named by their class, one of each class first."""
    targets = data.targets("test")
    first = [int(np.flatnonzero(targets == c)[0]) for c in range(data.n_classes)]
    order = [*first, *(i for i in range(len(targets)) if i not in set(first))][:count]
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index in order:
        path = folder / f"digit-{data.labels[targets[index]]}-{index}.png"
        data.image("test", index).save(path)
        paths.append(path)
    return tuple(paths)


def summary(result: QuickstartResult) -> dict[str, Any]:
    """The result as plain JSON data; costs have the unit in their key."""
    unit = result.budget.unit.lower()
    return {
        "artefact": str(result.artefact),
        "images": [str(path) for path in result.images],
        "budget": {"value": result.budget.value, "unit": result.budget.unit},
        "subnets": [
            {
                "name": row.name,
                "arch": row.arch.to_dict(),
                "test_accuracy": row.accuracy,
                f"predicted_{unit}": row.predicted,
                f"measured_{unit}": row.measured,
                "onnxruntime_ms": row.onnxruntime,
                "pytorch_ms": row.pytorch,
                "macs": row.macs,
            }
            for row in result.rows
        ],
        "shipped": {
            "test_accuracy": result.shipped.accuracy,
            "accuracy_change": result.shipped.accuracy_change,
            f"measured_{unit}": result.shipped.measurement.cost,
            "mad_ms": result.shipped.measurement.mad_ms,
            "max_rel_difference_to_onnxruntime": result.shipped.difference.max_rel,
        },
        "quality": result.quality,
        "seconds": {name: round(seconds, 2) for name, seconds in result.stages.items()},
    }
