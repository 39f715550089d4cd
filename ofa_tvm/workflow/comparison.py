"""Subnets side by side: the same rounds for all of them, and for other runtimes where those run here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from ofa_tvm import __version__
from ofa_tvm.deploy import Artefact, Manifest, write_artefact
from ofa_tvm.deploy.manifest import TargetEntry
from ofa_tvm.estimators.contract import CostModel
from ofa_tvm.logs import KernelTable
from ofa_tvm.measurement import Measurement, Measurer, measure_callables, torch_subject
from ofa_tvm.spaces import Arch
from ofa_tvm.supernet import Supernet
from ofa_tvm.targets import Target
from ofa_tvm.temporaries import scratch_folder
from ofa_tvm.training.data import ImageData
from ofa_tvm.training.validation import calibrated_subnet
from ofa_tvm.workflow.compared import Comparison, Row
from ofa_tvm.workflow.ship import build_subnet, confusion_through_module


@dataclass(frozen=True)
class Subject:
    """A subnet to compare.

    Parameters
    ----------
    arch, net, target, records
        What to compile, for what, and with which tuned kernels.
    latency
        Predicts what it costs; None where nothing does.
    artefact
        Its module, if it is compiled and tested already.
    """

    arch: Arch
    net: Supernet
    target: Target
    records: KernelTable
    latency: CostModel | None
    artefact: Artefact | None = None


def compare(
    data: ImageData, subjects: Mapping[str, Subject], *, calibration_images: int, seed: int
) -> Comparison:
    """Measure subnets, all timed in the same rounds, and other runtimes on them where those run here.

    Parameters
    ----------
    data
        Calibration and test images.
    subjects
        The subnets by name, all for one device.
    calibration_images, seed
        Of the batch-norm statistics.

    Raises
    ------
    UserError
        If a subnet cannot be compiled or measured.
    """
    device = next(iter(subjects.values())).target
    here = device.run.where == "local"
    with scratch_folder("compare") as name:
        modules: dict[str, _Module] = {}
        for title, subject in subjects.items():
            folder = Path(name) / title.replace(" ", "-")
            folder.mkdir()
            modules[title] = _tested(subject, data, folder, calibration_images, seed)
        with Measurer(device) as measurer:
            order = [path for module in modules.values() for path in module.files[: 2 if here else 1]]
            timed = dict(zip(order, measurer.measure_many(order), strict=True))
        eager = _eager(data, device, subjects, calibration_images, seed) if here else {}
    rows = tuple(
        Row(
            name=title,
            arch=subject.arch,
            dtype=subject.target.dtype,
            accuracy=modules[title].accuracy,
            predicted=None if subject.latency is None else float(subject.latency.predict([subject.arch])[0]),
            measured=timed[modules[title].so].cost,
            macs=subject.net.space.macs(subject.arch, data.n_classes),
            onnxruntime=timed[modules[title].onnx].cost if here else None,
            pytorch=eager[title].cost if here else None,
        )
        for title, subject in subjects.items()
    )
    return under_conditions(rows, device, [*timed.values(), *eager.values()])


def under_conditions(rows: tuple[Row, ...], target: Target, taken: Sequence[Measurement]) -> Comparison:
    """Rows with what their measurements on a target have in common."""
    packages = ("apache-tvm", *(("onnxruntime", "torch") if target.run.where == "local" else ()))
    return Comparison(
        rows,
        taken[0].unit,
        target.threads,
        target.batch,
        taken[0].machine,
        taken[0].date,
        any(one.noisy for one in taken),
        {"ofa-tvm": __version__} | {name: found for name in packages if (found := _version(name))},
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:  # copied by hand, without a record
        return None


@dataclass(frozen=True)
class _Module:
    """A compiled subnet, its ONNX, and the accuracy through the former."""

    so: Path
    onnx: Path
    accuracy: float | None

    @property
    def files(self) -> tuple[Path, Path]:
        return self.so, self.onnx


def _tested(subject: Subject, data: ImageData, folder: Path, images: int, seed: int) -> _Module:
    if (done := subject.artefact) is not None:
        return _Module(done.module_path, done.onnx_path, done.manifest.accuracy.measured)
    target = subject.target
    built = build_subnet(
        subject.net,
        subject.arch,
        data,
        target,
        subject.records,
        folder,
        calibration_images=images,
        seed=seed,
    )
    manifest = Manifest(TargetEntry.of(target))
    artefact = write_artefact(folder / "artefact", built.so, built.onnx, manifest).on(target)
    return _Module(built.so, built.onnx, confusion_through_module(artefact, data).accuracy)


def _eager(
    data: ImageData, target: Target, subjects: Mapping[str, Subject], images: int, seed: int
) -> Mapping[str, Measurement]:
    """The same subnets by PyTorch as it runs them without being compiled."""
    rng = np.random.default_rng(0)
    return measure_callables(
        {
            title: torch_subject(
                calibrated_subnet(subject.net, subject.arch, data, images, seed, dtype="float32"),
                rng.standard_normal((target.batch, 3, subject.arch.r, subject.arch.r)).astype(np.float32),
            )
            for title, subject in subjects.items()
        },
        target,
    )
