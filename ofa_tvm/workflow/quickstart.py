"""The whole loop on real handwritten digits, from untrained weights to a shipped, measured module.

Every stage is the function that the other verbs use; this module only puts them in order. All stages resume:
the training, the evaluations, the tuning log and the latency table go on where an interrupted run stopped.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ofa_tvm.deploy import Artefact
from ofa_tvm.errors import UserError
from ofa_tvm.files import write_atomic
from ofa_tvm.jsonfile import parse_json
from ofa_tvm.latency.collect import SubnetBench
from ofa_tvm.latency.regression import LatencyRegressor
from ofa_tvm.logs import KernelTable, find_records
from ofa_tvm.measurement import Measurement, Measurer, measure_callables, torch_subject
from ofa_tvm.progress import SILENT, Progress
from ofa_tvm.search.budget import Budget, parse_budget
from ofa_tvm.spaces import Arch, get_space
from ofa_tvm.spaces.space import Space
from ofa_tvm.supernet import Supernet, build_supernet
from ofa_tvm.targets import Target
from ofa_tvm.temporaries import scratch_folder
from ofa_tvm.training.config import TrainingConfig, digits_config
from ofa_tvm.training.data import ImageData, digits
from ofa_tvm.training.shrinking import train
from ofa_tvm.tuning import kernel_union
from ofa_tvm.workflow.project import Project
from ofa_tvm.workflow.search import (
    ACCURACY_CACHE,
    ACCURACY_MODEL,
    AccuracyCheck,
    TargetBudget,
    find_subnet,
    learn_accuracy,
    learn_latency,
    require_unit,
    ship_best,
)
from ofa_tvm.workflow.ship import Shipped, accuracy_in_float32, build_subnet, kernel_list
from ofa_tvm.workflow.tune import tune

SPACE = "ofa_digits"
_SUMMARY = "quickstart.json"


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
class Row:
    """One subnet of the final table; accuracies 0..1 through the compiled module, costs in the target's unit.

    Other runtimes are timed on this machine only, so not where the target is another device.
    """

    name: str
    arch: Arch
    accuracy: float
    predicted: float
    measured: float
    macs: int
    onnxruntime: float | None = None
    pytorch: float | None = None


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


class _Stages:
    """Seconds by stage, kept in a file so that a resumed run can tell the whole time."""

    def __init__(self, path: Path, progress: Progress) -> None:
        self._path, self._progress = path, progress
        self.seconds: dict[str, float] = {}
        if path.is_file():
            try:
                self.seconds = {k: float(v) for k, v in parse_json(path.read_bytes()).items()}
            except (ValueError, AttributeError, TypeError):
                progress.say(f"{path} is damaged; times are counted anew")

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self._progress.say(f"* {name}")
        # Before the stage: the file also says whose folder this is, should the first one be killed.
        self._save(name, 0.0)
        start = time.monotonic()
        try:
            yield
        finally:
            self._save(name, time.monotonic() - start)

    def _save(self, name: str, seconds: float) -> None:
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds
        write_atomic(self._path, json.dumps(self.seconds))


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
    stages = _Stages(out / "stages.json", progress)
    net, data = _trained(out, settings, stages, seed, progress)
    space, sides = net.space, settings.resolutions
    with stages.stage("learn accuracy"):
        accuracy = learn_accuracy(
            net,
            data,
            out,
            sides,
            samples=settings.accuracy_samples,
            calibration_images=settings.training.calibration_images,
            seed=seed,
            progress=progress,
        )
    with stages.stage("tune the space's kernels"):
        union = kernel_union(space, sides, target, n_classes=data.n_classes, progress=progress)
        tuned = tune(
            union.kernels,
            target,
            out / "tuning_logs",
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
        records = find_records(target, [out / "tuning_logs"])
    images = settings.training.calibration_images
    with SubnetBench(net, target, records) as bench:
        with stages.stage("measure and learn latency"):
            latency = learn_latency(
                bench,
                union,
                out,
                sides,
                samples=settings.latency_samples,
                seed=seed + 1,
                progress=progress,
            )
            if budget is None:
                budget = _default_budget(bench, sides, out)
        with stages.stage("search under the budget"):
            check = AccuracyCheck(
                net, data, accuracy, out / ACCURACY_CACHE, calibration_images=images, seed=seed
            )
            targets = [TargetBudget(bench, latency, budget)]
            found = find_subnet(
                targets,
                accuracy,
                sides,
                check=check,
                candidates=settings.candidates,
                rounds=settings.rounds,
                seed=seed,
                progress=progress,
            )
        with stages.stage("ship and check"):
            (shipped,) = ship_best(
                targets, data, [out / "deploy"], found, calibration_images=images, seed=seed
            )
            pictures = _write_images(data, out / "images", settings.images)
    with stages.stage("compare"):
        rows = _compare(net, data, target, records, latency.model, shipped, settings, seed)
    result = QuickstartResult(
        artefact=out / "deploy",
        images=pictures,
        budget=budget,
        rows=rows,
        shipped=shipped,
        stages=stages.seconds,
        quality={
            "accuracy_spearman": accuracy.validation_["spearman"],
            "accuracy_rmse_points": 100 * accuracy.validation_["rmse"],
            "latency_spearman": latency.model.validation_["spearman"],
            "latency_mape": latency.model.validation_["mape"],
            "kernels": tuned.kernels,
            "kernels_tuned": tuned.tuned,
            "subnets_measured": len(latency.measured) + len(found.record),
        },
    )
    write_atomic(out / _SUMMARY, json.dumps(summary(result), indent=1))
    return result


def compile_only(
    out: Path,
    target: Target,
    *,
    settings: QuickstartSettings | None = None,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Artefact:
    """Train on the digits and compile the median subnet for a device that is not here.

    The artefact in `out/deploy` says nothing of latency, because nothing was measured, and of accuracy what
    the network has in ONNX Runtime.

    Parameters
    ----------
    out
        Folder for everything; called again with the same one, it goes on.
    target
        What to compile for.
    settings, seed, progress
        As in `quickstart`.

    Raises
    ------
    UserError
        If a compiler or linker for the target is missing, or the folder holds something else.
    """
    from ofa_tvm.deploy import write_artefact

    settings = settings or QuickstartSettings()
    stages = _Stages(out / "stages.json", progress)
    net, data = _trained(out, settings, stages, seed, progress)
    arch = net.space.median_arch(settings.resolutions[len(settings.resolutions) // 2])
    with stages.stage("compile"), scratch_folder("compile") as name:
        built = build_subnet(
            net,
            arch,
            data,
            target,
            find_records(target, [out / "tuning_logs"]),
            Path(name),
            calibration_images=settings.training.calibration_images,
            seed=seed,
        )
        manifest = {
            "space": net.space.name,
            "arch": json.loads(arch.to_json()),
            "target": target.to_json(),
            "accuracy": {
                "float32": accuracy_in_float32(built.onnx, data),
                "data": f"{data.name}, test split, {data.size('test')} images",
            },
            "kernels": kernel_list(built.compiled, {}),
            "check": {"dtype": target.dtype, "tuned_fraction": built.compiled.tuned_fraction},
        }
        return write_artefact(out / "deploy", built.so, built.onnx, manifest)


def _trained(
    out: Path, settings: QuickstartSettings, stages: _Stages, seed: int, progress: Progress
) -> tuple[Supernet, ImageData]:
    """The supernet, trained now or by an earlier run, and its project file."""
    space, data = get_space(SPACE), digits()
    with stages.stage("train the supernet"):
        trained = train(settings.training, data, out / "training", progress=progress, seed=seed)
        net = build_supernet(space, data.n_classes)
        net.load_checkpoint(trained.checkpoint)
        net.eval()
        project = Project(
            out,
            space=SPACE,
            checkpoint=trained.checkpoint.relative_to(out),
            data=data.name,
            resolutions=settings.resolutions,
            accuracy_predictor=Path(ACCURACY_MODEL),
            calibration_images=settings.training.calibration_images,
        )
        project.save()
    return net, data


def _default_budget(bench: SubnetBench, resolutions: Sequence[int], out: Path) -> Budget:
    """Measured latency of the median subnet, kept so that a resumed run has the same budget."""
    emulated = "-emulated" if bench.target.emulated else ""
    dtype = "" if bench.target.dtype == "float32" else f"-{bench.target.dtype}"
    path = out / f"budget-{bench.target.name}{emulated}{dtype}.json"
    if path.is_file():
        try:
            content = parse_json(path.read_bytes())
            return parse_budget(f"{float(content['value'])!r} {content['unit']}")
        except (ValueError, KeyError, TypeError, UserError):
            path.unlink()
    middle = resolutions[len(resolutions) // 2]
    (result,) = bench.measure([bench.net.space.median_arch(middle)])
    budget = Budget(float(f"{result.cost:.3g}"), result.unit)
    write_atomic(path, json.dumps({"value": budget.value, "unit": budget.unit}))
    return budget


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


def _compare(
    net: Supernet,
    data: ImageData,
    target: Target,
    records: KernelTable,
    latency: LatencyRegressor,
    shipped: Shipped,
    settings: QuickstartSettings,
    seed: int,
) -> tuple[Row, ...]:
    """Largest, smallest and chosen subnet side by side, all timed in the same rounds."""
    from ofa_tvm.deploy import write_artefact
    from ofa_tvm.training.validation import calibrated_subnet
    from ofa_tvm.workflow.ship import accuracy_through_module

    space: Space = net.space
    chosen = Arch.from_json(json.dumps(shipped.artefact.manifest["arch"]))
    resolutions = settings.resolutions
    subjects = {
        "largest": space.max_arch(resolutions[-1]),
        "smallest": space.min_arch(resolutions[0]),
        "chosen": chosen,
    }
    images = settings.training.calibration_images
    with scratch_folder("compare") as name:
        accuracies: dict[str, float] = {"chosen": shipped.accuracy}
        files = {"chosen": (shipped.artefact.module_path, shipped.artefact.onnx_path)}
        for title in ("largest", "smallest"):
            folder = Path(name) / title
            folder.mkdir()
            built = build_subnet(
                net, subjects[title], data, target, records, folder, calibration_images=images, seed=seed
            )
            artefact = write_artefact(folder / "artefact", built.so, built.onnx, {"target": target.to_json()})
            artefact = artefact.on(target)
            accuracies[title] = accuracy_through_module(artefact, data)
            files[title] = (built.so, built.onnx)
        here = target.run.where == "local"
        with Measurer(target) as measurer:
            order = [path for title in subjects for path in files[title][: 2 if here else 1]]
            timed = dict(zip(order, measurer.measure_many(order), strict=True))
        rng = np.random.default_rng(0)
        eager: dict[str, Measurement] = {}
        if here:
            eager = measure_callables(
                {
                    title: torch_subject(
                        calibrated_subnet(net, arch, data, images, seed),
                        rng.standard_normal((1, 3, arch.r, arch.r)).astype(np.float32),
                    )
                    for title, arch in subjects.items()
                },
                target,
            )
    predicted = latency.predict(list(subjects.values()))
    return tuple(
        Row(
            name=title,
            arch=arch,
            accuracy=accuracies[title],
            predicted=float(predicted[i]),
            measured=timed[files[title][0]].cost,
            macs=space.macs(arch, data.n_classes),
            onnxruntime=timed[files[title][1]].cost if here else None,
            pytorch=eager[title].cost if here else None,
        )
        for i, (title, arch) in enumerate(subjects.items())
    )


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
                "arch": json.loads(row.arch.to_json()),
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
