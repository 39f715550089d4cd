"""Searching in a project: its predictors, the verified search, and shipping what it finds."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ofa_tvm.accuracy.mlp import MLPAccuracyPredictor
from ofa_tvm.accuracy.official import OfficialPredictor, load_official
from ofa_tvm.accuracy.predictor import AccuracyPredictor
from ofa_tvm.errors import UsageError, UserError, shown
from ofa_tvm.estimators.contract import Function
from ofa_tvm.estimators.files import model_kind
from ofa_tvm.latency.dataset import Column, read_table
from ofa_tvm.latency.generalized import Estimate, shipped_model
from ofa_tvm.latency.lookup_table import LookupTable
from ofa_tvm.latency.regression import LatencyRegressor
from ofa_tvm.progress import SILENT, Progress
from ofa_tvm.search.budget import Budget
from ofa_tvm.search.verify import Checked, Cost, Promise, VerifiedResult, candidate, search_verified
from ofa_tvm.spaces import Arch
from ofa_tvm.spaces.space import Space
from ofa_tvm.targets import Target
from ofa_tvm.targets.devices import Platform
from ofa_tvm.workflow.project import CALIBRATION_IMAGES

if TYPE_CHECKING:
    from ofa_tvm.latency.collect import SubnetBench
    from ofa_tvm.supernet import Supernet
    from ofa_tvm.training.data import ImageData
    from ofa_tvm.tuning import KernelUnion
    from ofa_tvm.workflow.ship import Shipped

Accuracy = AccuracyPredictor | MLPAccuracyPredictor | OfficialPredictor
Latency = LatencyRegressor | LookupTable | Estimate

LATENCY_SAMPLES = 40
ACCURACY_SAMPLES = 80
ACCURACY_CACHE, ACCURACY_MODEL = "accuracy.jsonl", "accuracy.model"  # in the project's folder
_KNOWN_NOISE = 0.02  # of a latency that was measured earlier
_SHIP_TRIES = 6
_LARGEST_GP = 3000


@dataclass(frozen=True)
class LearnedLatency:
    """A latency model and the measurements behind it, in the target's unit."""

    model: LatencyRegressor
    measured: Mapping[Arch, float]


@dataclass(frozen=True)
class TargetBudget:
    """A budget on one target, in its unit: what measures there, and what the search predicts with.

    Subnets that were measured to learn the latency can win as well.
    """

    bench: SubnetBench
    latency: LearnedLatency | Latency
    budget: Budget

    @property
    def model(self) -> Latency:
        """What predicts the cost of genes (n, n_genes)."""
        return self.latency.model if isinstance(self.latency, LearnedLatency) else self.latency

    @property
    def measured(self) -> Mapping[Arch, float]:
        """Subnets measured before the search."""
        return self.latency.measured if isinstance(self.latency, LearnedLatency) else {}

    @property
    def promise(self) -> Promise:
        """The same as the search takes it."""
        return Promise(self.bench.target.name, self.model, self.budget, self.bench.costs)


def latency_file(folder: Path, target: Target, suffix: str) -> Path:
    """Where a project keeps a target's measured latencies (".csv") and the model of them (".model")."""
    name = latency_name(target.name, target.threads, target.emulated, target.dtype)
    return folder / f"latency-{name}{suffix}"


def latency_name(target: str, threads: int, emulated: bool, dtype: str) -> str:
    """What tells one target's latencies from others of the same target."""
    return (
        target
        + ("-emulated" if emulated else "")  # another unit than a board's
        + ("" if threads == 1 else f"-{threads}threads")
        + ("" if dtype == "float32" else f"-{dtype}")
    )


def require_unit(budget: Budget, target: Target) -> None:
    """Refuse a budget that the target's cost cannot be compared with.

    Raises
    ------
    UsageError
        Says which unit to type.
    """
    if budget.unit == target.unit:
        return
    if target.unit == "Minstr":
        raise UsageError(
            f"target {target.name} is emulated, so it counts instructions and has no latency; type the "
            "budget in millions of instructions, for example 120Minstr"
        )
    raise UsageError(f"target {target.name} is measured in ms; type the budget so, for example 25ms")


def load_accuracy(path: Path, space: Space) -> Accuracy:
    """An own accuracy predictor, or a published one of Once-for-All.

    Raises
    ------
    UsageError
        If it was made for another space.
    UserError
        If the file is missing or neither.
    """
    if not path.is_file():
        raise UserError(f"there is no accuracy predictor {path}")
    if not _is_own_model(path):
        return load_official(path, space)
    kind = model_kind(path)
    predictor = (MLPAccuracyPredictor if kind == "accuracy_mlp" else AccuracyPredictor).load(path)
    if predictor.space.name != space.name:
        raise UsageError(f"the accuracy predictor {path} is for {predictor.space.name}, not {space.name}")
    return predictor


def _is_own_model(path: Path) -> bool:
    """PyTorch's files are zip archives, too."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return "header.npy" in archive.namelist()


def as_share(accuracy: Accuracy) -> Function:
    """An accuracy predictor that knows that no accuracy is above 1; where it decides alone, ties are ties."""
    return lambda genes: np.minimum(accuracy(genes), 1.0)


def fit_accuracy(
    space: Space, archs: Sequence[Arch], accuracies: np.ndarray, *, kind: str = "auto", seed: int = 0
) -> AccuracyPredictor | MLPAccuracyPredictor:
    """A predictor of measured accuracies.

    Parameters
    ----------
    kind
        "gp" (the Gaussian process), "mlp" (the paper's 3x400 network), or "auto": the process up to 3,000
        subnets, beyond which its cost, the cube of their number, is no longer worth it.
    seed
        Of the network's weights.

    Raises
    ------
    UsageError
        If the kind is unknown.
    UserError
        If there are too few subnets.
    """
    if kind not in ("auto", "gp", "mlp"):
        raise UsageError(f"unknown kind {shown(kind)} of accuracy predictor; use auto, gp or mlp")
    if kind == "mlp" or (kind == "auto" and len(archs) > _LARGEST_GP):
        return MLPAccuracyPredictor(space, seed=seed).fit(archs, accuracies)
    return AccuracyPredictor(space).fit(archs, accuracies)


def load_latency(path: Path, space: Space) -> LatencyRegressor:
    """A fitted latency predictor.

    Raises
    ------
    UsageError
        If it was made for another space.
    UserError
        If the file is missing or no such predictor.
    """
    model = LatencyRegressor.load(path)
    if model.space.name != space.name:
        raise UsageError(f"the latency predictor {path} is for {model.space.name}, not {space.name}")
    return model


def estimate_latency(space: Space, target: Target, n_classes: int = 1000) -> Estimate:
    """A first estimate by the model that ships, where nothing was measured.

    Raises
    ------
    UserError
        If it cannot say anything of the target or the space.
    """
    if target.unit != "ms":
        raise UserError(f"{target.name} is emulated, and counts of instructions do not follow from hardware")
    if target.dtype != "float32":
        raise UserError(f"the model that ships knows float32 networks, not {target.dtype} ones")
    return shipped_model().estimate(space, Platform.of(target), n_classes)


def covered_resolutions(space: Space, models: Sequence[Accuracy | Latency]) -> tuple[int, ...]:
    """Resolutions that all models know: those of their tables, encodings or training data.

    Raises
    ------
    UsageError
        If they have none in common.
    """
    common = set(space.resolutions)
    for model in models:
        if isinstance(model, LookupTable | OfficialPredictor | Estimate):
            common &= set(model.resolutions)
        else:
            common &= {space.resolutions[i] for i in np.unique(model.genes_[:, -1])}
    if not common:
        raise UsageError(
            "the latency model and the accuracy predictor know no common resolution of the space "
            f"{space.name}; make one of them anew at the other's resolutions"
        )
    return tuple(sorted(common))


def search_resolutions(
    space: Space, models: Sequence[Accuracy | Latency], asked: Sequence[int] | None
) -> tuple[int, ...]:
    """Those asked for, all of which the models have to know; without any, all that the models know.

    Raises
    ------
    UsageError
        If a model does not know one that was asked for.
    """
    known = covered_resolutions(space, models)
    for side in asked or ():
        if side not in known:
            raise UsageError(
                f"the latency model or the accuracy predictor does not know resolution {side}; "
                f"both know {', '.join(map(str, known))}"
            )
    return tuple(asked or known)


def learn_accuracy(
    net: Supernet,
    data: ImageData,
    folder: Path,
    resolutions: Sequence[int],
    *,
    samples: int = ACCURACY_SAMPLES,
    calibration_images: int = CALIBRATION_IMAGES,
    seed: int = 0,
    progress: Progress = SILENT,
) -> AccuracyPredictor:
    """Evaluate random subnets and the extreme ones, and fit a predictor; both are kept in the folder.

    Parameters
    ----------
    net, data
        Supernet and images, whose validation split counts.
    folder
        The project's; evaluations that are there are not repeated.
    resolutions
        Of the subnets.
    samples
        Random subnets.
    calibration_images, seed
        Of the batch-norm statistics; the seed also draws the subnets.

    Raises
    ------
    UserError
        If a file cannot be read or written.
    """
    from ofa_tvm.accuracy.evaluate import evaluate_subnets

    space, rng = net.space, np.random.default_rng(seed)
    sample = space.decode(space.sample_genes(rng, samples, resolutions))
    ends = [end for r in resolutions for end in (space.min_arch(r), space.max_arch(r))]
    archs = list(dict.fromkeys([*ends, *sample]))
    accuracies = evaluate_subnets(
        net,
        archs,
        data,
        "val",
        calibration_images=calibration_images,
        cache_path=folder / ACCURACY_CACHE,
        seed=seed,
        progress=progress,
    )
    predictor = AccuracyPredictor(space).fit(archs, accuracies)
    predictor.save(folder / ACCURACY_MODEL)
    return predictor


def learn_latency(
    bench: SubnetBench,
    union: KernelUnion,
    folder: Path,
    resolutions: Sequence[int],
    *,
    samples: int = LATENCY_SAMPLES,
    seed: int = 0,
    progress: Progress = SILENT,
) -> LearnedLatency:
    """Measure random subnets and fit the tuning log's kernel sum to them; both are kept in the folder.

    Parameters
    ----------
    bench
        Measures; its records are the log.
    union
        Kernels of the space at these resolutions.
    folder
        The project's; a table that is there is extended to `samples` rows.
    resolutions
        Of the subnets.
    samples
        Subnets to measure.
    seed
        Of their choice.

    Raises
    ------
    UserError
        If the log has no record of the space's kernels, or a subnet cannot be compiled or measured.
    """
    from ofa_tvm.latency.collect import collect
    from ofa_tvm.latency.log_model import kernel_sum_from_log

    space, target, n_classes = bench.net.space, bench.target, bench.net.n_classes
    kernel_sum = kernel_sum_from_log(space, union, bench.records, n_classes=n_classes)
    table = latency_file(folder, target, ".csv")
    every = collect(bench, table, samples, resolutions, seed=seed, progress=progress).measured
    # The kernel sum holds for the union's resolutions only; the table may have more.
    measured = {arch: cost for arch, cost in every.items() if arch.r in resolutions}
    archs, costs = list(measured), np.array(list(measured.values()))
    model = LatencyRegressor(
        space,
        kernel_sum.fit(archs, costs).tables,
        target=Column.of(target).series,
        unit=target.unit,
        n_classes=n_classes,
    ).fit(archs, costs)
    model.save(latency_file(folder, target, ".model"))
    return LearnedLatency(model, measured)


def stored_latency(folder: Path, target: Target, space: Space) -> LearnedLatency | None:
    """What an earlier `learn_latency` left in the folder; None if there is no model.

    Raises
    ------
    UserError
        If a file is damaged.
    """
    path, table = latency_file(folder, target, ".model"), latency_file(folder, target, ".csv")
    if not path.is_file():
        return None
    model = load_latency(path, space)
    measured: dict[Arch, float] = {}
    if table.is_file():
        content = read_table(table, space)
        measured = dict(zip(content.archs, content.column(Column.of(target).name)[1].tolist(), strict=True))
    return LearnedLatency(model, measured)


class AccuracyCheck:
    """Measures accuracies on the validation split and corrects a predictor with them (`CheckAccuracy`).

    Parameters
    ----------
    net, data
        Supernet and images.
    predictor
        What the search starts from. An own predictor is fitted anew to its own data and the new ones; of a
        published one, the error is learned.
    cache
        File of finished evaluations.
    calibration_images, seed
        Of the batch-norm statistics.
    """

    def __init__(
        self,
        net: Supernet,
        data: ImageData,
        predictor: Accuracy,
        cache: Path,
        *,
        calibration_images: int = CALIBRATION_IMAGES,
        seed: int = 0,
        progress: Progress = SILENT,
    ) -> None:
        self._net, self._data, self._predictor, self._cache = net, data, predictor, cache
        self._images, self._seed, self._progress = calibration_images, seed, progress
        self._known: dict[Arch, float] = {}

    def __call__(self, archs: Sequence[Arch]) -> tuple[np.ndarray, Function]:
        """Validation accuracies (n,), 0..1, and the corrected accuracy function."""
        from ofa_tvm.accuracy.evaluate import evaluate_subnets

        values = evaluate_subnets(
            self._net,
            archs,
            self._data,
            "val",
            calibration_images=self._images,
            cache_path=self._cache,
            seed=self._seed,
            progress=self._progress,
        )
        self._known |= dict(zip(archs, values.tolist(), strict=True))
        return values, self._corrected()

    def _corrected(self) -> Function:
        space, predictor = self._net.space, self._predictor
        genes, values = space.encode(list(self._known)), np.array(list(self._known.values()))
        if isinstance(predictor, AccuracyPredictor):
            genes = np.concatenate([genes, predictor.genes_])
            values = np.concatenate([values, predictor.accuracy_])
            _, first = np.unique(space.canonical(genes), axis=0, return_index=True)
            return AccuracyPredictor(space, robust=predictor.robust).fit(genes[first], values[first])
        errors = values - predictor(genes)
        if len(errors) < 3 or np.ptp(errors) == 0:
            level = float(errors.mean())
            return lambda population: predictor(population) + level
        error = AccuracyPredictor(space).fit(genes, errors)
        return lambda population: predictor(population) + error(population)


def find_subnet(
    targets: Sequence[TargetBudget],
    accuracy: Accuracy,
    resolutions: Sequence[int],
    *,
    check: AccuracyCheck | None = None,
    candidates: int = 4,
    rounds: int = 3,
    seed: int = 0,
    progress: Progress = SILENT,
) -> VerifiedResult:
    """The most accurate subnet whose measured latency is within the budget, on every target.

    Parameters
    ----------
    targets
        One or several; each compiles and measures the candidates.
    accuracy
        What the search predicts with.
    resolutions
        To choose from.
    check
        Measures the candidates' accuracies; None trusts the predictor.
    candidates, rounds
        Subnets measured in each round, and rounds at the most.

    Raises
    ------
    UsageError
        If the space cannot reach the budget; says what it can.
    UserError
        If nothing that was measured is within it.
    """
    first, *others = targets
    space = first.bench.net.space
    promise = first.promise
    return search_verified(
        space,
        accuracy,
        promise.latency,
        promise.budget,
        promise.measure,
        others=[other.promise for other in others],
        check_accuracy=check,
        candidates=candidates,
        rounds=rounds,
        known=_measured_earlier(space, targets, accuracy, resolutions),
        seed=seed,
        progress=progress,
        resolutions=resolutions,
    )


def _measured_earlier(
    space: Space, targets: Sequence[TargetBudget], accuracy: Accuracy, resolutions: Sequence[int]
) -> list[Checked]:
    """Subnets that every target's model was learned from."""
    archs = [
        arch
        for arch in targets[0].measured
        if arch.r in resolutions and all(arch in target.measured for target in targets)
    ]
    if not archs:
        return []
    genes, limits = space.encode(archs), [target.budget.value for target in targets]
    predicted = np.column_stack([target.model(genes) for target in targets])
    known = []
    for arch, value, row in zip(archs, accuracy(genes), predicted, strict=True):
        measured = [target.measured[arch] for target in targets]
        costs = [Cost(float(p), m, _KNOWN_NOISE * m) for p, m in zip(row, measured, strict=True)]
        known.append(candidate(arch, float(value), costs, limits, 0))
    return known


def ship_best(
    targets: Sequence[TargetBudget],
    data: ImageData,
    folders: Sequence[Path],
    found: VerifiedResult,
    *,
    calibration_images: int = CALIBRATION_IMAGES,
    with_runtime: bool = False,
    seed: int = 0,
    progress: Progress = SILENT,
) -> list[Shipped]:
    """Ship the most accurate subnet whose modules, measured once more as they ship, keep the budgets.

    Parameters
    ----------
    targets
        As in `find_subnet`.
    data
        Calibrates, and tests through the modules.
    folders
        One for each target's artefact. They change only when every module has kept its budget.
    found
        What `find_subnet` returned.
    calibration_images, with_runtime, seed
        As in `ship`.

    Raises
    ------
    UserError
        If none does, or an artefact cannot be written.
    """
    from ofa_tvm.workflow.ship import ready_to_ship

    for number in range(min(len(found.ranked), _SHIP_TRIES)):
        with ExitStack() as stack:
            ready = []
            for i, target in enumerate(targets):
                result = found.on(i)
                checked = result.ranked[number]
                built = ready_to_ship(
                    target.bench.net,
                    checked.arch,
                    data,
                    target.bench.target,
                    target.bench.records,
                    stack,
                    budget=target.budget,
                    predicted=checked.predicted,
                    predicted_accuracy=min(checked.accuracy, 1.0),
                    search=search_record(result, checked.arch),
                    calibration_images=calibration_images,
                    seed=seed,
                )
                if built is None:
                    break
                ready.append(built)
            else:
                return [
                    built.write(folder, with_runtime=with_runtime, progress=progress)
                    for built, folder in zip(ready, folders, strict=True)
                ]
    wanted = " and ".join(f"{t.budget}" + f" on {t.bench.target.name}" * (len(targets) > 1) for t in targets)
    raise UserError(
        f"no module kept the budget of {wanted} when it was measured for shipping: the machine is busy or "
        "the budget is at the edge of what is possible; raise it, or run the same command again"
    )


def search_record(found: VerifiedResult, shipped: Arch) -> dict[str, Any]:
    """What a verified search predicted and measured, as plain data: rounds, and candidates in order.

    Of the subnets that were measured before the search, those whose accuracy it measured, and what ships.
    """
    earlier = [
        c for c in found.ranked if c.round == 0 and (c.measured_accuracy is not None or c.arch == shipped)
    ]
    return {
        "rounds": found.rounds,
        "candidates": [
            {
                "arch": json.loads(c.arch.to_json()),
                "round": c.round,
                "predicted_accuracy": min(c.accuracy, 1.0),
                "validation_accuracy": c.measured_accuracy,
                "predicted": c.predicted,
                "measured": c.measured,
                "noise": c.noise,
                "within": c.within,
            }
            for c in (*earlier, *found.record)
        ],
    }
