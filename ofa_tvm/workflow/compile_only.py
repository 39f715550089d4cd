"""The quickstart for a device that is not here: trained and compiled, and nothing measured."""

from __future__ import annotations

from pathlib import Path

from ofa_tvm.deploy import Artefact, Manifest, write_artefact
from ofa_tvm.deploy.manifest import AccuracyEntry, CheckEntry, TargetEntry
from ofa_tvm.job import Part, in_job
from ofa_tvm.logs import find_records
from ofa_tvm.number_formats import arithmetic
from ofa_tvm.progress import NEVER, SILENT, Deadline, Progress, as_progress
from ofa_tvm.supernet import Supernet
from ofa_tvm.targets import Target
from ofa_tvm.temporaries import scratch_folder
from ofa_tvm.training.data import ImageData
from ofa_tvm.workflow.quickstart import trained_on_digits
from ofa_tvm.workflow.quickstart_settings import QuickstartSettings, quickstart_parts
from ofa_tvm.workflow.ship import accuracy_in_float32, build_subnet, kernel_entries, test_images
from ofa_tvm.workflow.stages import Stages
from ofa_tvm.workflow.store import Store

_TRAINED_BY, _COMPILE_S = 0.8, 5.0  # a share of the time there is, and a guess


def compile_only(
    out: Path,
    target: Target,
    *,
    settings: QuickstartSettings | None = None,
    seed: int = 0,
    deadline: Deadline = NEVER,
    progress: Progress | bool = SILENT,
) -> Artefact:
    """Train on the digits and compile the median subnet for a device that is not here.

    The artefact in `out/deploy` says nothing of latency, because nothing was measured, and of accuracy what
    the network has in PyTorch.

    Parameters
    ----------
    out
        Folder for everything; called again with the same one, it goes on.
    target
        What to compile for.
    settings, seed, deadline, progress
        As in `quickstart`.

    Raises
    ------
    UserError
        If a compiler or linker for the target is missing, or the folder holds something else.
    """
    settings = settings or QuickstartSettings()
    store = Store(out)
    dtype = arithmetic(target.dtype)
    parts = [part for part in quickstart_parts(settings, store, 1) if part.phase == "train the supernet"]
    parts.append(Part("compile", "compile", 1, _COMPILE_S))
    with in_job(as_progress(progress), "quickstart", parts, deadline) as job:
        stages = Stages(store.stages, job)
        trained_by = deadline.within(0, _TRAINED_BY)
        trained = trained_on_digits(store, settings, stages, seed, trained_by, job, {dtype})
        with stages.stage("compile"):
            return _compiled(trained.nets[dtype], trained.data, target, store, settings, seed)


def _compiled(
    net: Supernet, data: ImageData, target: Target, store: Store, settings: QuickstartSettings, seed: int
) -> Artefact:
    """The median subnet as an artefact."""
    arch = net.space.median_arch(settings.resolutions[len(settings.resolutions) // 2])
    with scratch_folder("compile") as name:
        built = build_subnet(
            net,
            arch,
            data,
            target,
            find_records(target, [store.logs]),
            Path(name),
            calibration_images=settings.training.calibration_images,
            seed=seed,
        )
        manifest = Manifest(
            target=TargetEntry.of(target),
            space=net.space.name,
            arch=arch,
            accuracy=AccuracyEntry(
                None,
                None,
                test_images(data),
                accuracy_in_float32(net, arch, data, settings.training.calibration_images, seed),
            ),
            kernels=kernel_entries(built.compiled, {}),
            quantization=built.quantization,
            check=CheckEntry(target.dtype, tuned_fraction=built.compiled.tuned_fraction),
        )
        return write_artefact(store.artefact, built.so, built.onnx, manifest)
