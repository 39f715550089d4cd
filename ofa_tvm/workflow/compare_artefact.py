"""An artefact beside the ends of its space, ONNX Runtime and PyTorch, as far as its project has them."""

from __future__ import annotations

from pathlib import Path

from ofa_tvm.deploy import Artefact
from ofa_tvm.errors import UsageError, UserError
from ofa_tvm.estimators.contract import CostModel
from ofa_tvm.logs import find_records
from ofa_tvm.measurement import Measurer
from ofa_tvm.progress import SILENT, Progress
from ofa_tvm.runtime.stored import own_target
from ofa_tvm.spaces import Arch, get_space
from ofa_tvm.spaces.space import Space
from ofa_tvm.targets import Target, Variant
from ofa_tvm.workflow.compared import Comparison, Row
from ofa_tvm.workflow.comparison import Subject, compare, under_conditions
from ofa_tvm.workflow.models import load_latency
from ofa_tvm.workflow.project import Project
from ofa_tvm.workflow.settings import Settings


def compare_artefact(
    project: Project, artefact: Artefact, *, seed: int = 0, progress: Progress = SILENT
) -> Comparison:
    """Measure an artefact in shared rounds with others, and keep the result in the project.

    With the project's checkpoint and images these are the largest and the smallest subnet, compiled with its
    tuning logs, and PyTorch; without them ONNX Runtime alone.

    Parameters
    ----------
    project
        Of the artefact.
    artefact
        For a target that this machine can measure.
    seed
        Of the batch statistics.
    progress
        Told what is left out.

    Raises
    ------
    UsageError
        If the artefact is no subnet.
    UserError
        If something cannot be read, compiled, measured or written.
    """
    manifest = artefact.manifest
    if manifest.arch is None or manifest.space is None:
        raise UsageError(
            f"{artefact.folder} is no subnet, so there is nothing to compare it with in its space; to time "
            f"it beside ONNX Runtime: ofa-tvm measure {artefact.module_path} {artefact.onnx_path}"
        )
    variant = manifest.variant
    target = own_target(manifest.target.name, manifest.target.kind, manifest.target.threads)
    target = target.with_dtype(variant.dtype).with_batch(variant.batch)
    space = get_space(manifest.space)
    settings = Settings(project, space, target, project.resolutions)
    with progress.task("compare with other subnets and runtimes"):
        if project.space == space.name and settings.checkpoint is not None and project.data is not None:
            found = _in_its_space(settings, artefact, manifest.arch, seed, progress)
        else:
            progress.say(
                f"{project.folder} names no checkpoint and images of {space.name}: only ONNX Runtime is timed"
            )
            found = _alone(artefact, manifest.arch, space, target)
    found.write(settings.store.comparison(variant))
    return found


def _in_its_space(
    settings: Settings, artefact: Artefact, arch: Arch, seed: int, progress: Progress
) -> Comparison:
    target, space, sides = settings.target, settings.space, sorted(settings.chosen_resolutions)
    records = find_records(target, [settings.logs])
    for note in records.notes:
        progress.say(note)
    net = settings.supernet()
    path = settings.store.latency_model(Variant.of(target))
    latency = _latency(path, space, progress)
    largest, smallest = space.max_arch(sides[-1]), space.min_arch(sides[0])
    subjects = {
        "largest": Subject(largest, net, target, records, latency),
        "smallest": Subject(smallest, net, target, records, latency),
        "chosen": Subject(arch, net, target, records, latency, artefact.on(target)),
    }
    images = settings.project.calibration_images
    return compare(settings.data(progress=progress), subjects, calibration_images=images, seed=seed)


def _latency(path: Path, space: Space, progress: Progress) -> CostModel | None:
    if not path.is_file():
        return None
    try:
        return load_latency(path, space)
    except UserError as error:
        progress.say(f"left out: {error}")
        return None


def _alone(artefact: Artefact, arch: Arch, space: Space, target: Target) -> Comparison:
    here = target.run.where == "local"
    files = [artefact.module_path, *([artefact.onnx_path] if here else [])]
    with Measurer(target) as measurer:
        taken = measurer.measure_many(files)
    manifest = artefact.manifest
    row = Row(
        name="chosen",
        arch=arch,
        dtype=manifest.check.dtype,
        accuracy=manifest.accuracy.measured,
        predicted=manifest.latency.predicted,
        measured=taken[0].cost,
        macs=space.macs(arch, manifest.outputs[0].shape[-1] if manifest.outputs else 1000),
        onnxruntime=taken[1].cost if here else None,
    )
    return under_conditions((row,), target, taken)
