"""Subnets side by side: the same rounds for all of them, and for other runtimes where those run here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ofa_tvm.deploy import Manifest, write_artefact
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
from ofa_tvm.workflow.ship import BuiltSubnet, Shipped, accuracy_through_module, build_subnet


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


def compare(
    net: Supernet,
    data: ImageData,
    target: Target,
    records: KernelTable,
    latency: CostModel,
    subjects: Mapping[str, Arch],
    shipped: Mapping[str, Shipped],
    *,
    calibration_images: int,
    seed: int,
) -> tuple[Row, ...]:
    """Measure subnets, all timed in the same rounds.

    Parameters
    ----------
    net, data, target, records
        Supernet, test images, what to compile for, and with which tuned kernels.
    latency
        Predicts what they cost.
    subjects
        The subnets by name.
    shipped
        Those of them that are compiled and tested already.
    calibration_images, seed
        Of the batch-norm statistics.

    Raises
    ------
    UserError
        If a subnet cannot be compiled or measured.
    """
    here = target.run.where == "local"
    with scratch_folder("compare") as name:
        modules: dict[str, _Module] = {}
        for title, arch in subjects.items():
            if title in shipped:
                done = shipped[title]
                modules[title] = _Module(done.artefact.module_path, done.artefact.onnx_path, done.accuracy)
                continue
            folder = Path(name) / title
            folder.mkdir()
            built = build_subnet(
                net, arch, data, target, records, folder, calibration_images=calibration_images, seed=seed
            )
            modules[title] = _tested(built, data, target, folder)
        with Measurer(target) as measurer:
            order = [path for module in modules.values() for path in module.files[: 2 if here else 1]]
            timed = dict(zip(order, measurer.measure_many(order), strict=True))
        eager = _eager(net, data, target, subjects, calibration_images, seed) if here else {}
    predicted = latency.predict(list(subjects.values()))
    return tuple(
        Row(
            name=title,
            arch=arch,
            accuracy=modules[title].accuracy,
            predicted=float(predicted[i]),
            measured=timed[modules[title].so].cost,
            macs=net.space.macs(arch, data.n_classes),
            onnxruntime=timed[modules[title].onnx].cost if here else None,
            pytorch=eager[title].cost if here else None,
        )
        for i, (title, arch) in enumerate(subjects.items())
    )


@dataclass(frozen=True)
class _Module:
    """A compiled subnet, its ONNX, and the accuracy through the former."""

    so: Path
    onnx: Path
    accuracy: float

    @property
    def files(self) -> tuple[Path, Path]:
        return self.so, self.onnx


def _tested(built: BuiltSubnet, data: ImageData, target: Target, folder: Path) -> _Module:
    manifest = Manifest(TargetEntry.of(target))
    artefact = write_artefact(folder / "artefact", built.so, built.onnx, manifest).on(target)
    return _Module(built.so, built.onnx, accuracy_through_module(artefact, data))


def _eager(
    net: Supernet,
    data: ImageData,
    target: Target,
    subjects: Mapping[str, Arch],
    calibration_images: int,
    seed: int,
) -> Mapping[str, Measurement]:
    """The same subnets by PyTorch as it runs them without being compiled."""
    rng = np.random.default_rng(0)
    return measure_callables(
        {
            title: torch_subject(
                calibrated_subnet(net, arch, data, calibration_images, seed),
                rng.standard_normal((1, 3, arch.r, arch.r)).astype(np.float32),
            )
            for title, arch in subjects.items()
        },
        target,
    )
