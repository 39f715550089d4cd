"""The whole loop on real handwritten digits, from untrained weights to a shipped, measured module.

Training, tuning (`tune_space`) and the search pipeline are what the other verbs use. All stages resume: the
training, the evaluations, the tuning log and the latency table go on where an interrupted run stopped.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ofa_tvm.accuracy.predictor import AccuracyPredictor
from ofa_tvm.deploy import Artefact
from ofa_tvm.errors import UserError
from ofa_tvm.files import write_atomic
from ofa_tvm.logs import find_records
from ofa_tvm.number_formats import Arithmetic, arithmetic
from ofa_tvm.progress import SILENT, Progress
from ofa_tvm.search.budget import Budget
from ofa_tvm.spaces import Arch, get_space
from ofa_tvm.supernet import Supernet, build_supernet
from ofa_tvm.targets import DType, Target, Variant
from ofa_tvm.training.config import TrainingConfig
from ofa_tvm.training.data import ImageData, digits
from ofa_tvm.training.defaults import digits_config, with_phases
from ofa_tvm.training.shrinking import train
from ofa_tvm.tuning import TuningResult
from ofa_tvm.workflow.comparison import Subject, compare
from ofa_tvm.workflow.loop import tune_space
from ofa_tvm.workflow.models import load_latency
from ofa_tvm.workflow.pipeline import run_search
from ofa_tvm.workflow.predictors import require_unit
from ofa_tvm.workflow.project import Project
from ofa_tvm.workflow.quickstart_result import QuickstartResult, summary
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


def quickstart(
    out: Path,
    target: Target,
    *,
    budget: Budget | None = None,
    dtypes: Sequence[DType] = (),
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
    dtypes
        Number formats that compete within the budget; by default the target's alone.
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
    targets = [target.with_dtype(dtype) for dtype in dtypes or (target.dtype,)]
    nets, data = trained_on_digits(
        store, settings, stages, seed, progress, {arithmetic(one.dtype) for one in targets}
    )
    with stages.stage("tune the space's kernels"):
        tuned = {
            one.dtype: _tuned(nets[arithmetic(one.dtype)], one, store, settings, seed, progress)
            for one in targets
        }
    outcome = run_search(
        *(_request(settings, store, nets, data, one, budget, seed) for one in targets),
        progress=progress,
        stage=stages.stage,
    )
    (done,) = outcome.targets
    if done.shipped is None:
        raise RuntimeError("a target with a folder ships")
    with stages.stage("compare"):
        device = done.target if done.target.run.where == "rpc" else None
        pictures, right = _right_first(
            _write_images(data, store.images, settings.images), done.shipped.artefact.on(device)
        )
        compared = compare(
            data,
            _subjects(outcome, store, settings),
            calibration_images=settings.training.calibration_images,
            seed=seed,
        )
        compared.write(store.comparison(Variant.of(done.target)))
    tuning = tuned[outcome.dtype]
    result = QuickstartResult(
        store.artefact,
        outcome.dtype,
        pictures,
        right,
        done.budget,
        compared.rows,
        done.shipped,
        stages.seconds,
        _quality(store, outcome, tuning),
        None if tuning.complete else settings.tuning_seconds,
    )
    write_atomic(store.summary, json.dumps(summary(result), indent=1))
    return result


def trained_on_digits(
    store: Store,
    settings: QuickstartSettings,
    stages: Stages,
    seed: int,
    progress: Progress,
    needed: Collection[Arithmetic],
) -> tuple[dict[Arithmetic, Supernet], ImageData]:
    """The supernets by what they compute in, trained now or by an earlier run; the project file is written.

    Raises
    ------
    UserError
        If a file cannot be read or written.
    """
    data, config = digits(), settings.training
    nets: dict[Arithmetic, Supernet] = {}
    with stages.stage("train the supernet"):
        trained = train(config, data, store.training, progress=progress, seed=seed).checkpoint
        nets["float32"] = _loaded(trained, data)
        project = Project(
            store.folder,
            space=SPACE,
            checkpoint=trained.relative_to(store.folder),
            data=data.name,
            resolutions=settings.resolutions,
            accuracy_predictor=store.accuracy_model().relative_to(store.folder),
            calibration_images=config.calibration_images,
        )
        if "int8" in needed:
            again = with_phases(config, ["quantize"])
            quantized = train(
                again, data, store.int8_training, init=trained, progress=progress, seed=seed
            ).checkpoint
            nets["int8"] = _loaded(quantized, data)
            project = replace(project, int8_checkpoint=quantized.relative_to(store.folder))
        project.save()
    return nets, data


def _loaded(checkpoint: Path, data: ImageData) -> Supernet:
    net = build_supernet(get_space(SPACE), data.n_classes)
    net.load_checkpoint(checkpoint)
    return net.eval()


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
    nets: Mapping[Arithmetic, Supernet],
    data: ImageData,
    target: Target,
    budget: Budget | None,
    seed: int,
) -> SearchRequest:
    return SearchRequest(
        store,
        nets[arithmetic(target.dtype)],
        data,
        (TargetRequest(target, budget, artefact=store.artefact),),
        resolutions=settings.resolutions,
        accuracy_samples=settings.accuracy_samples,
        latency_samples=settings.latency_samples,
        calibration_images=settings.training.calibration_images,
        candidates=settings.candidates,
        rounds=settings.rounds,
        seed=seed,
    )


def _subjects(outcome: SearchOutcome, store: Store, settings: QuickstartSettings) -> dict[str, Subject]:
    """The ends of the space, what was chosen, and what was best in each other number format."""

    def subject(one: SearchOutcome, arch: Arch, shipped: Shipped | None = None) -> Subject:
        target, net = one.targets[0].target, one.request.net
        latency = load_latency(store.latency_model(Variant.of(target)), net.space)
        module = None if shipped is None else shipped.artefact
        return Subject(arch, net, target, find_records(target, [store.logs]), latency, module)

    space, sides = outcome.request.net.space, settings.resolutions
    return {
        "largest": subject(outcome, space.max_arch(sides[-1])),
        "smallest": subject(outcome, space.min_arch(sides[0])),
        "chosen": subject(outcome, outcome.chosen.arch, outcome.targets[0].shipped),
        **{f"best in {other.dtype}": subject(other, other.chosen.arch) for other in outcome.others},
    }


def _quality(store: Store, outcome: SearchOutcome, tuned: TuningResult) -> dict[str, float]:
    (done,), dtype = outcome.targets, outcome.dtype
    accuracy = AccuracyPredictor.load(store.accuracy_model(arithmetic(dtype)))
    latency = load_latency(store.latency_model(Variant.of(done.target)), outcome.request.net.space)
    return {
        "accuracy_spearman": accuracy.validation_["spearman"],
        "accuracy_rmse_points": 100 * accuracy.validation_["rmse"],
        "latency_spearman": latency.validation_["spearman"],
        "latency_mape": latency.validation_["mape"],
        "kernels": tuned.kernels,
        "kernels_tuned": tuned.tuned,
        "subnets_measured": len(done.latency.measured) + len(outcome.found.record),
    }


def _right_first(pictures: Mapping[Path, str], artefact: Artefact) -> tuple[tuple[Path, ...], int]:
    """Pictures with those first that an artefact answers with their label, and how many these are."""
    answers = artefact.classify([*pictures])
    right = {
        path for (path, label), best in zip(pictures.items(), answers, strict=True) if best[0].label == label
    }
    return tuple(sorted(pictures, key=lambda path: path not in right)), len(right)


def _write_images(data: ImageData, folder: Path, count: int) -> dict[Path, str]:
    """Test scans as PNG files named by their class, one of each class first; and the classes' names."""
    targets = data.targets("test")
    first = [int(np.flatnonzero(targets == c)[0]) for c in range(data.n_classes)]
    order = [*first, *(i for i in range(len(targets)) if i not in set(first))][:count]
    folder.mkdir(parents=True, exist_ok=True)
    labels = {}
    for index in order:
        label = data.labels[targets[index]]
        path = folder / f"digit-{label}-{index}.png"
        data.image("test", index).save(path)
        labels[path] = label
    return labels
