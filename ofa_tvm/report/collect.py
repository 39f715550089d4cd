"""From a project's files and its artefacts to what a report tells; nothing is measured anew."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ofa_tvm.deploy.artefact import MANIFEST, Artefact
from ofa_tvm.deploy.manifest import KernelEntry
from ofa_tvm.errors import UsageError, UserError
from ofa_tvm.estimators.contract import AccuracyModel
from ofa_tvm.jsonfile import parse_json
from ofa_tvm.latency.dataset import Column, read_table
from ofa_tvm.latency.learning_curve import learning_curve
from ofa_tvm.latency.regression import LatencyRegressor
from ofa_tvm.logs import Signature
from ofa_tvm.number_formats import Arithmetic, arithmetic
from ofa_tvm.progress import SILENT, Progress
from ofa_tvm.report.beside import beside_first
from ofa_tvm.report.content import Content, Deployed, Measured, Training
from ofa_tvm.search.evolution import Evolution
from ofa_tvm.search.objectives import make_objectives
from ofa_tvm.search.pareto import pareto_search
from ofa_tvm.spaces import get_space
from ofa_tvm.spaces.space import Space
from ofa_tvm.workflow.models import load_accuracy, load_latency
from ofa_tvm.workflow.predictors import as_share, covered_resolutions
from ofa_tvm.workflow.project import Project
from ofa_tvm.workflow.store import Store

_FRONT = Evolution(population=60, generations=150)


def collect(project: Project, folders: Sequence[Path] = (), *, progress: Progress = SILENT) -> Content:
    """Read a project and its artefacts.

    Parameters
    ----------
    project
        The nearest `ofa-tvm.yaml`, or the stated defaults.
    folders
        Artefacts, the most important first; by default all that lie in the project's folder.
    progress
        Told of files that are left out.

    Raises
    ------
    UsageError
        If there is nothing to report.
    UserError
        If a named artefact is missing or damaged.
    """
    opened = [_opened(folder, project.folder) for folder in folders] or _found(project, progress)
    artefacts = [deployed for _, deployed in opened]
    space = next((a.space for a in artefacts if a.space is not None), get_space(project.space))
    accuracy = _accuracy_model(project, space, "float32", progress)
    targets = _targets(project, space, progress)
    training = _training(project)
    accuracies = None if accuracy is None else accuracy.left_out
    if not (artefacts or targets or accuracies or training):
        raise UsageError(
            f"there is nothing to report in {project.folder}: no artefact, no measured latencies, no "
            "training; name an artefact's folder, or run ofa-tvm quickstart, train or search first"
        )
    beside = beside_first(project, opened[0][0] if opened else None, progress)
    return Content(
        project.folder.name or "ofa-tvm",
        space,
        tuple(artefacts),
        tuple(targets),
        accuracies,
        training,
        beside.comparison,
        beside.answers,
        beside.confusion,
        beside.validation_images,
        beside.tried,
        beside.missing,
    )


def first_artefact(project: Project, folders: Sequence[Path] = ()) -> Artefact:
    """The one that a report is about first.

    Raises
    ------
    UsageError
        If none is named and the project has none.
    UserError
        If it is damaged.
    """
    if folders:
        return Artefact.open(folders[0])
    found = _found(project, SILENT)
    if not found:
        raise UsageError(
            f"there is no artefact to measure in {project.folder}; name its folder, or search first"
        )
    return found[0][0]


def _found(project: Project, progress: Progress) -> list[tuple[Artefact, Deployed]]:
    """All artefacts of a project, `deploy` first; a search for several targets leaves a folder of them."""
    found = []
    for path in (*project.folder.glob(f"*/{MANIFEST}"), *project.folder.glob(f"*/*/{MANIFEST}")):
        if any(part.startswith(".") for part in path.relative_to(project.folder).parts):
            continue  # one that is being written, or that a killed search left
        try:
            found.append(_opened(path.parent, project.folder))
        except UserError as error:
            progress.say(f"left out: {error}")
    return sorted(found, key=lambda pair: (pair[1].name.split("/")[0] != "deploy", pair[1].name))


def _opened(path: Path, project: Path) -> tuple[Artefact, Deployed]:
    artefact = Artefact.open(path)
    folder, project = artefact.folder.resolve(), project.resolve()
    inside_project = folder != project and folder.is_relative_to(project)
    manifest = artefact.manifest
    inside = bool(manifest.kernels) and all(kernel.inside_us is not None for kernel in manifest.kernels)
    try:
        kernels = tuple(
            (Signature.parse(kernel.name), _time(kernel, inside), kernel.schedule)
            for kernel in manifest.kernels
        )
    except ValueError as error:
        raise UserError(f"{artefact.folder / MANIFEST}: {error}; deploy it anew") from error
    deployed = Deployed(
        name=folder.relative_to(project).as_posix() if inside_project else folder.name,
        manifest=manifest,
        space=None if manifest.space is None else get_space(manifest.space),
        kernels=kernels,
        inside=inside,
        inside_project=inside_project,
    )
    return artefact, deployed


def _time(kernel: KernelEntry, inside: bool) -> float | None:
    """Of all calls of a kernel in one inference."""
    if inside:
        return kernel.inside_us
    return None if kernel.cost is None else kernel.cost * kernel.calls


def _accuracy_model(
    project: Project, space: Space, dtype: Arithmetic, progress: Progress
) -> AccuracyModel | None:
    named = project.accuracy_predictor if dtype == "float32" else None
    path = Store(project.folder).accuracy_model(dtype) if named is None else project.path(named)
    if not path.is_file():
        return None
    try:
        return load_accuracy(path, space, dtype)
    except UserError as error:
        progress.say(f"left out: {error}")
        return None


def _targets(project: Project, space: Space, progress: Progress) -> list[Measured]:
    found = []
    for name, path in Store(project.folder).latency_models().items():
        try:
            model = load_latency(path, space)
            column = Column.parse(f"{model.target}_{model.unit.lower()}")
            table = path.with_suffix(".csv")
            if table.is_file():
                content = read_table(table, space)
                genes, cost = space.encode(content.archs), content.column()[1]
            else:
                genes, cost = model.genes_, model.latency_
        except UserError as error:
            progress.say(f"left out: {error}")
            continue
        accuracy = _accuracy_model(project, space, arithmetic(column.dtype), progress)
        found.append(_measured(name, space, model, genes, cost, accuracy, progress))
    return found


def _front(
    name: str, space: Space, model: LatencyRegressor, accuracy: AccuracyModel, progress: Progress
) -> np.ndarray:
    sides = covered_resolutions(space, [accuracy, model])
    objectives = make_objectives(
        ["latency", "accuracy"],
        space,
        accuracy=as_share(accuracy),
        latency={name: model},
        n_classes=model.n_classes,
    )
    return pareto_search(space, objectives, resolutions=sides, settings=_FRONT, progress=progress).values


def _measured(
    name: str,
    space: Space,
    model: LatencyRegressor,
    genes: np.ndarray,
    cost: np.ndarray,
    accuracy: AccuracyModel | None,
    progress: Progress,
) -> Measured:
    model.predict(model.genes_[:1], return_std=True)  # a model read from a file is conditioned only now
    accuracies, front = None, np.empty((0, 2))
    if accuracy is not None:
        try:
            accuracies = as_share(accuracy)(genes)
            front = _front(name, space, model, accuracy, progress)
        except UsageError as error:  # a resolution that it does not know
            progress.say(f"left out: {error}")
    return Measured(
        target=name,
        unit=model.unit,
        cost=cost,
        accuracy=accuracies,
        loo=model.loo_prediction_,
        groups={
            "resolution": np.array(space.resolutions)[genes[:, -1]],
            "blocks": space.active_blocks(genes).sum(axis=1),
        },
        errors=model.validation_ | {"n": len(model.latency_)},
        learning=learning_curve(model, genes, cost),
        front=front,
        ends=_ends(space, model, accuracy) if len(front) else {},
    )


def _ends(
    space: Space, model: LatencyRegressor, accuracy: AccuracyModel | None
) -> dict[str, tuple[float, float]]:
    """Largest and smallest subnet at the resolutions that both predictors know: cost and accuracy."""
    if accuracy is None:
        return {}
    sides = sorted(covered_resolutions(space, [accuracy, model]))
    archs = [space.max_arch(sides[-1]), space.min_arch(sides[0])]
    costs, shares = model.predict(archs), as_share(accuracy)(space.encode(archs))
    return {
        name: (float(cost), float(share))
        for name, cost, share in zip(("largest", "smallest"), costs, shares, strict=True)
    }


class _Point(NamedTuple):
    """One line of a training's metrics."""

    phase: str
    step: float
    loss: float | None
    accuracies: tuple[float, ...]


def _point(record: dict[str, Any]) -> _Point:
    return _Point(
        str(record["phase"]),
        float(record["step"]),
        float(record["loss"]) if "loss" in record else None,
        tuple(float(value) for value in (record.get("accuracies") or {}).values()),
    )


def _training(project: Project) -> Training | None:
    """The curves beside the project's checkpoint."""
    if project.checkpoint is None:
        return None
    path = project.path(project.checkpoint).parent / "metrics.jsonl"
    if not path.is_file():
        return None
    step, loss, accuracies = [], [], []
    bounds: dict[str, list[float]] = {}
    before, phase, last = 0.0, None, 0.0
    for line in path.read_text(errors="replace").split("\n"):
        try:
            point = _point(parse_json(line, nan=True))
        except (ValueError, KeyError, TypeError, AttributeError):
            continue  # a line cut short by a kill, or none of ours
        if point.phase != phase:  # every phase counts its steps from 0
            before, phase = last, point.phase
        last = before + point.step
        bounds.setdefault(point.phase, [before, last])[1] = last
        if point.loss is not None:
            step.append(last)
            loss.append(point.loss)
        if point.accuracies:
            accuracies.append((last, min(point.accuracies), max(point.accuracies)))
    if not step:
        return None
    phases = tuple((name, first, final) for name, (first, final) in bounds.items())
    return Training(np.array(step), np.array(loss), phases, tuple(accuracies))
