"""What belongs to a report's first artefact beside its manifest: comparison, answers; or why not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ofa_tvm.confusion import Confusion
from ofa_tvm.deploy import Artefact, Prediction
from ofa_tvm.errors import UserError
from ofa_tvm.images import SUFFIXES
from ofa_tvm.progress import Progress
from ofa_tvm.report.answers import ask
from ofa_tvm.report.content import Answers, Missing
from ofa_tvm.runtime.stored import own_target
from ofa_tvm.spaces import get_space
from ofa_tvm.workflow.compared import Comparison
from ofa_tvm.workflow.project import NAME, Project
from ofa_tvm.workflow.settings import Settings
from ofa_tvm.workflow.store import Store

if TYPE_CHECKING:
    from ofa_tvm.training.data import ImageData

_TRIED = 10
_COMPARISON = "comparison with ONNX Runtime and PyTorch"
_ANSWERS = "sample predictions"


@dataclass(frozen=True)
class Beside:
    """See `Content`."""

    comparison: Comparison | None = None
    answers: Answers | None = None
    confusion: Confusion | None = None
    validation_images: int | None = None
    tried: tuple[str, Prediction | None] | None = None
    missing: tuple[Missing, ...] = ()


def beside_first(project: Project, artefact: Artefact | None, progress: Progress) -> Beside:
    """Read, or let the module answer, what there is; the rest is said to be missing."""
    if artefact is None:
        return Beside()
    counted = _confusion(artefact, progress)
    comparison, no_comparison = _comparison(project, artefact, progress)
    what = _ANSWERS if counted is not None else f"{_ANSWERS} and accuracy by class"
    data, no_answers = _data(project, artefact, what, progress)
    answers = None
    if data is not None and no_answers is None:
        try:
            answers = ask(artefact, data, progress=progress)
        except UserError as error:
            no_answers = Missing(what, str(error), "-")
    no_reasons = None
    if artefact.manifest.arch is not None and not artefact.manifest.search.candidates:
        no_reasons = Missing(
            "why this subnet was chosen",
            "its manifest lists no candidates: no search measured them",
            "ofa-tvm search",
        )
    return Beside(
        comparison,
        answers,
        counted,
        None if data is None else data.size("val"),
        _tried(project, artefact),
        tuple(part for part in (no_reasons, no_comparison, no_answers) if part is not None),
    )


def _comparison(
    project: Project, artefact: Artefact, progress: Progress
) -> tuple[Comparison | None, Missing | None]:
    """What was measured of just this subnet."""
    manifest, how = artefact.manifest, "ofa-tvm report --measure"
    if manifest.arch is None:
        so, onnx = artefact.module_path.name, artefact.onnx_path.name
        return None, Missing(
            _COMPARISON, "the artefact is no subnet of a space", f"ofa-tvm measure {so} {onnx} in its folder"
        )
    path = Store(project.folder).comparison(manifest.variant)
    if not path.is_file():
        return None, Missing(_COMPARISON, "not measured yet", how)
    try:
        found = Comparison.read(path)
    except UserError as error:
        progress.say(f"left out: {error}")
        return None, Missing(_COMPARISON, f"{path.name} is damaged", how)
    if found.row_of(manifest.arch, manifest.check.dtype) is None:
        return None, Missing(_COMPARISON, "measured of an earlier artefact only", how)
    return found, None


def _confusion(artefact: Artefact, progress: Progress) -> Confusion | None:
    try:
        return artefact.confusion
    except UserError as error:
        progress.say(f"left out: {error}")
        return None


def _data(
    project: Project, artefact: Artefact, what: str, progress: Progress
) -> tuple[ImageData | None, Missing | None]:
    """The project's images, and why the module cannot be asked about them."""
    manifest = artefact.manifest
    if project.data is None:
        return None, Missing(
            what, "the project names no images", f"the key `data` in {NAME}, as ofa-tvm train writes it"
        )
    if manifest.space is None or manifest.preprocessing is None:
        return None, Missing(what, "the artefact does not say how it takes pictures", "ofa-tvm search")
    target = own_target(manifest.target.name, manifest.target.kind, manifest.target.threads)
    settings = Settings(project, get_space(manifest.space), target, project.resolutions)
    try:
        data = settings.data(progress=progress)
    except UserError as error:
        progress.say(f"left out: {error}")
        return None, Missing(what, str(error), "put the images back, or change the key `data`")
    if data.labels != manifest.labels:
        return data, Missing(
            what, f"the images of {data.name} have other classes than the artefact", "its own project"
        )
    if target.run.where == "rpc":
        return data, Missing(what, f"{target.name} is another device", f"ofa-tvm run -t {target.name}")
    return data, None


def _tried(project: Project, artefact: Artefact) -> tuple[str, Prediction | None] | None:
    """Of the pictures that lie in the project to be tried the one that is answered most surely."""
    folder = Store(project.folder).images
    if not folder.is_dir():
        return None
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)[:_TRIED]
    if not files:
        return None
    target, found = artefact.manifest.target, None
    path = files[0]
    if own_target(target.name, target.kind, target.threads).run.where != "rpc":
        try:
            best = [row[0] for row in artefact.classify(files)]
            path, found = max(zip(files, best, strict=True), key=lambda pair: pair[1].probability)
        except UserError:  # it cannot run here, or a file is no picture
            pass
    return path.relative_to(project.folder).as_posix(), found
