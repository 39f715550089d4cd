"""The whole loop on real handwritten digits, from untrained weights to a shipped, measured module.

Training, tuning (`tune_space`) and the search pipeline are what the other verbs use. All stages resume: the
training, the evaluations, the tuning log and the latency table go on where an interrupted run stopped.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ofa_tvm.deploy import Artefact
from ofa_tvm.errors import UserError
from ofa_tvm.files import write_atomic
from ofa_tvm.job import JobProgress, in_job
from ofa_tvm.latency.regression import LatencyRegressor
from ofa_tvm.logs import find_records
from ofa_tvm.number_formats import Arithmetic, arithmetic
from ofa_tvm.progress import NEVER, SILENT, Deadline, Progress, as_progress
from ofa_tvm.search.budget import Budget
from ofa_tvm.spaces import Arch, get_space
from ofa_tvm.supernet import Supernet, build_supernet
from ofa_tvm.targets import DType, Target, Variant
from ofa_tvm.training.checkpoint import CheckpointFolder
from ofa_tvm.training.data import ImageData, digits
from ofa_tvm.training.defaults import with_phases
from ofa_tvm.training.shrinking import train
from ofa_tvm.tuning import TuningResult
from ofa_tvm.workflow.comparison import Subject, compare
from ofa_tvm.workflow.loop import tune_space
from ofa_tvm.workflow.pipeline import run_search
from ofa_tvm.workflow.predictors import require_unit
from ofa_tvm.workflow.project import Project
from ofa_tvm.workflow.quickstart_result import QuickstartResult, summary
from ofa_tvm.workflow.quickstart_settings import SPACE, QuickstartSettings, quickstart_parts
from ofa_tvm.workflow.request import SearchOutcome, SearchRequest, TargetRequest
from ofa_tvm.workflow.ship import Shipped
from ofa_tvm.workflow.stages import Stages
from ofa_tvm.workflow.store import Store

# Of the time there is: the training's end; of what is left then the tuning's share, and then the search's.
_TRAINED_BY, _TUNED, _SEARCHED, _LEAST_TUNING_S = 0.5, 0.4, 0.85, 5.0


def quickstart(
    out: Path,
    target: Target,
    *,
    budget: Budget | None = None,
    dtypes: Sequence[DType] = (),
    settings: QuickstartSettings | None = None,
    seed: int = 0,
    deadline: Deadline = NEVER,
    progress: Progress | bool = SILENT,
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
    deadline
        By when about to have shipped the best so far: half of the time is the training's at most.
    progress
        Told of everything that takes long; True for bars in a terminal or a notebook.

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
    targets = [target.with_dtype(dtype) for dtype in dtypes or (target.dtype,)]
    parts = quickstart_parts(settings, store, len(targets))
    with in_job(as_progress(progress), "quickstart", parts, deadline) as job:
        return _all_stages(store, targets, budget, settings, seed, deadline, job)


def _all_stages(
    store: Store,
    targets: Sequence[Target],
    budget: Budget | None,
    settings: QuickstartSettings,
    seed: int,
    deadline: Deadline,
    job: JobProgress,
) -> QuickstartResult:
    stages = Stages(store.stages, job)
    needed = {arithmetic(one.dtype) for one in targets}
    trained_by = deadline.within(0, _TRAINED_BY)
    trained = trained_on_digits(store, settings, stages, seed, trained_by, job, needed)
    nets, data = trained.nets, trained.data
    with stages.stage("tune the space's kernels"):
        share_s = max(_LEAST_TUNING_S, _TUNED * deadline.left_s / len(targets))
        most_s = min(settings.tuning_seconds, share_s)
        tuned = {
            one.dtype: _tuned(nets[arithmetic(one.dtype)], one, store, settings, most_s, seed, job)
            for one in targets
        }
    outcome = run_search(
        *(search_request(settings, store, nets, data, one, budget, seed) for one in targets),
        deadline=NEVER if deadline == NEVER else Deadline.after(_SEARCHED * deadline.left_s),
        progress=job,
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
        _quality(outcome, tuning),
        None if tuning.complete else most_s,
        trained.steps_left,
    )
    write_atomic(store.summary, json.dumps(summary(result), indent=1))
    return result


@dataclass(frozen=True)
class Trained:
    """The supernets by what they compute in, their images, and steps for which there was no time."""

    nets: Mapping[Arithmetic, Supernet]
    data: ImageData
    steps_left: int


def trained_on_digits(
    store: Store,
    settings: QuickstartSettings,
    stages: Stages,
    seed: int,
    deadline: Deadline,
    progress: Progress,
    needed: Collection[Arithmetic],
) -> Trained:
    """The supernets, trained now or by an earlier run; the project file is written.

    Raises
    ------
    UserError
        If a file cannot be read or written.
    """
    data, config = digits(), settings.training
    nets: dict[Arithmetic, Supernet] = {}
    with stages.stage("train the supernet"):
        write_atomic(store.settings, settings.to_yaml(seed))
        begun = CheckpointFolder(store.training / "checkpoints").position()[0]
        if begun < len(config.phases):  # what was trained for int8 came of a training that goes on now
            shutil.rmtree(store.int8_training, ignore_errors=True)
        first = train(config, data, store.training, deadline=deadline, progress=progress, seed=seed)
        trained, steps_left = first.checkpoint, first.steps_left
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
            again = train(
                with_phases(config, ["quantize"]),
                data,
                store.int8_training,
                init=trained,
                deadline=deadline,
                progress=progress,
                seed=seed,
            )
            steps_left += again.steps_left
            nets["int8"] = _loaded(again.checkpoint, data)
            project = replace(project, int8_checkpoint=again.checkpoint.relative_to(store.folder))
        project.save()
    return Trained(nets, data, steps_left)


def _loaded(checkpoint: Path, data: ImageData) -> Supernet:
    net = build_supernet(get_space(SPACE), data.n_classes)
    net.load_checkpoint(checkpoint)
    return net.eval()


def _tuned(
    net: Supernet,
    target: Target,
    store: Store,
    settings: QuickstartSettings,
    most_s: float,
    seed: int,
    progress: Progress,
) -> TuningResult:
    """The kernels of the space, tuned as far as the time allows."""
    tuned = tune_space(
        net.space,
        target,
        store.folder,
        n_classes=net.n_classes,
        resolutions=settings.resolutions,
        trials=settings.trials,
        seconds=most_s,
        seed=seed,
        progress=progress,
    )
    if not tuned.tuned:
        raise UserError(
            f"not one kernel was timed in {most_s:.0f} s of tuning: too little time for "
            "this device, or for what else runs on it; the same command goes on from here"
        )
    return tuned


def search_request(
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
        done, net = one.targets[0], one.request.net
        records = find_records(done.target, [store.logs])
        module = None if shipped is None else shipped.artefact
        return Subject(arch, net, done.target, records, done.latency.model, module)

    space, sides = outcome.request.net.space, settings.resolutions
    return {
        "largest": subject(outcome, space.max_arch(sides[-1])),
        "smallest": subject(outcome, space.min_arch(sides[0])),
        "chosen": subject(outcome, outcome.chosen.arch, outcome.targets[0].shipped),
        **{f"best in {other.dtype}": subject(other, other.chosen.arch) for other in outcome.others},
    }


def _quality(outcome: SearchOutcome, tuned: TuningResult) -> dict[str, float]:
    (done,) = outcome.targets
    accuracy, latency = outcome.accuracy.left_out, done.latency.model
    if accuracy is None or not isinstance(latency, LatencyRegressor):
        raise RuntimeError("the quickstart learns its models")
    return {
        "accuracy_spearman": accuracy.errors["spearman"],
        "accuracy_rmse_points": 100 * accuracy.errors["rmse"],
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
