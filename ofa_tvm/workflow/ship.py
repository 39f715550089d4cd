"""Shipping a subnet: calibrated, exported, compiled, measured, checked, and then written as an artefact."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ofa_tvm.compiler import CompiledModule
from ofa_tvm.compiler import compile as compile_onnx
from ofa_tvm.confusion import Confusion, confusion
from ofa_tvm.deploy import Artefact, Manifest, write_artefact
from ofa_tvm.deploy.bare import bare_runtime
from ofa_tvm.deploy.check import Difference, check_against_onnxruntime
from ofa_tvm.deploy.manifest import (
    AccuracyEntry,
    CheckEntry,
    KernelEntry,
    LatencyEntry,
    QuantizationEntry,
    SearchEntry,
    TargetEntry,
)
from ofa_tvm.errors import UserError
from ofa_tvm.export import export_onnx
from ofa_tvm.logs import KernelTable
from ofa_tvm.measurement import Measurement, Measurer, profile
from ofa_tvm.progress import SILENT, Progress
from ofa_tvm.search.budget import Budget
from ofa_tvm.spaces import Arch
from ofa_tvm.supernet import Supernet, dtype_of
from ofa_tvm.supernet.fake_quantization import map_schemes
from ofa_tvm.targets import Target
from ofa_tvm.temporaries import scratch_folder
from ofa_tvm.training.data import ImageData
from ofa_tvm.training.validation import accuracy, calibrated_subnet
from ofa_tvm.workflow.project import CALIBRATION_IMAGES
from ofa_tvm.workflow.retiming import Retiming, retiming

_PROFILED = 30  # inferences
_COMPARED = 8  # test images whose outputs are compared with ONNX Runtime's
_AT_ONCE = 256  # images in memory


@dataclass(frozen=True)
class BuiltSubnet:
    """A subnet ready to ship, in files: calibrated, with labels and preprocessing in its metadata."""

    arch: Arch
    onnx: Path
    so: Path
    compiled: CompiledModule
    quantization: QuantizationEntry | None


@dataclass(frozen=True)
class Shipped:
    """What was shipped, and what is known of it; the change of accuracy is from float32, if any.

    `retiming` is there if the module's schedules were not timed on this CPU.
    """

    arch: Arch
    artefact: Artefact
    measurement: Measurement
    difference: Difference
    accuracy: float
    accuracy_change: float | None = None
    retiming: Retiming | None = None


def build_subnet(
    net: Supernet,
    arch: Arch,
    data: ImageData,
    target: Target,
    records: KernelTable,
    folder: Path,
    *,
    calibration_images: int = CALIBRATION_IMAGES,
    seed: int = 0,
) -> BuiltSubnet:
    """Calibrate, export and compile one subnet into `folder/model.onnx` and `folder/model.so`."""
    module = calibrated_subnet(net, arch, data, calibration_images, seed)
    onnx, so = folder / "model.onnx", folder / "model.so"
    preprocessing = data.preprocessing.at(arch.r).to_dict()
    export_onnx(
        module,
        onnx,
        resolution=arch.r,
        batch=target.batch,
        labels=data.labels,
        preprocessing=preprocessing,
    )
    compiled = compile_onnx(onnx, target, so, records=records)
    quantization = None
    if dtype_of(net) == "int8":
        images = min(calibration_images, data.size("train"))
        quantization = QuantizationEntry(
            net.trained_dtype == "int8", f"{data.name}, train split, {images} images", map_schemes(module)
        )
    return BuiltSubnet(arch, onnx, so, compiled, quantization)


def _times_inside(built: BuiltSubnet, target: Target, records: KernelTable, folder: Path) -> dict[str, float]:
    """Median time of each kernel inside the network, in us, all its calls; empty for other devices."""
    if target.run.where != "local" or target.tvm["kind"] != "llvm":
        return {}
    so = folder / "profiled.so"
    compile_onnx(built.onnx, target, so, records=records, profile=True)
    times: dict[str, float] = {}
    for call in profile(so, rounds=_PROFILED):
        times[call.name] = times.get(call.name, 0.0) + call.median_us
    return times


def test_images(data: ImageData) -> str:
    """What accuracies are measured on, for manifests."""
    return f"{data.name}, test split, {data.size('test')} images"


def confusion_through_module(artefact: Artefact, data: ImageData) -> Confusion:
    """How the compiled module itself classifies the test images."""
    resolution, targets = artefact.runner.inputs[0].shape[-1], data.targets("test")
    answers = []
    for start in range(0, len(targets), _AT_ONCE):
        chosen = np.arange(start, min(start + _AT_ONCE, len(targets)))
        logits = artefact.classifier.logits(data.batch("test", chosen, resolution).numpy())
        answers.append(logits.argmax(axis=1))
    return confusion(targets, np.concatenate(answers), data.labels)


def _some_images(data: ImageData, resolution: int, seed: int) -> np.ndarray:
    """Test images to compare outputs on, as the network gets them."""
    count = data.size("test")
    chosen = np.random.default_rng(seed).choice(count, min(count, _COMPARED), replace=False)
    return data.batch("test", np.sort(chosen), resolution).numpy()


def accuracy_in_float32(
    net: Supernet, arch: Arch, data: ImageData, calibration_images: int, seed: int
) -> float:
    """The same share by PyTorch on the subnet in float32: what it is before other numbers come in."""
    module = calibrated_subnet(net, arch, data, calibration_images, seed, dtype="float32")
    return accuracy(module, data, "test", arch.r)


def kernel_entries(compiled: CompiledModule, inside_us: Mapping[str, float]) -> tuple[KernelEntry, ...]:
    """The kernels of a module for its manifest, with their times inside the network where they are known."""
    return tuple(
        KernelEntry(use.name, use.calls, use.origin, use.cost, inside_us.get(use.name))
        for use in compiled.kernels
    )


@dataclass(frozen=True)
class ReadyToShip:
    """A module that was measured within its budget and checked, in temporary files, with its manifest."""

    built: BuiltSubnet
    manifest: Manifest
    target: Target
    measurement: Measurement
    difference: Difference
    confusion: Confusion
    accuracy_change: float | None

    def write(self, folder: Path, *, with_runtime: bool = False, progress: Progress = SILENT) -> Shipped:
        """Write the artefact.

        Raises
        ------
        UserError
            If a file cannot be written, or what a bare device needs not be made.
        """
        artefact = write_artefact(
            folder,
            self.built.so,
            self.built.onnx,
            self.manifest,
            confusion=self.confusion,
            runtime=bare_runtime(self.target, progress=progress) if with_runtime else None,
        )
        return Shipped(
            self.built.arch,
            artefact.on(self.target),
            self.measurement,
            self.difference,
            self.confusion.accuracy,
            self.accuracy_change,
            retiming(self.built.compiled.kernels, self.target),
        )


def ready_to_ship(
    net: Supernet,
    arch: Arch,
    data: ImageData,
    target: Target,
    records: KernelTable,
    files: ExitStack,
    *,
    budget: Budget | None = None,
    predicted: float | None = None,
    predicted_accuracy: float | None = None,
    search: SearchEntry | None = None,
    calibration_images: int = CALIBRATION_IMAGES,
    seed: int = 0,
) -> ReadyToShip | Measurement:
    """Build a subnet, measure the module that would ship, and check it if it keeps the budget.

    Parameters
    ----------
    net, arch, data, target, records
        What to ship, its calibration and test images, for what, and with which tuned kernels.
    files
        Its files last until this closes.
    budget
        Upper limit of the measured median; None for no limit.
    predicted, predicted_accuracy
        For the manifest: cost in the budget's unit, accuracy 0..1.
    search
        For the manifest: how the subnet was found.
    calibration_images, seed
        Of the batch-norm statistics.

    Returns
    -------
    ReadyToShip, or what was measured if it exceeds the budget.

    Raises
    ------
    UserError
        If the module does not compute what ONNX Runtime computes, or a file cannot be written.
    """
    folder = Path(files.enter_context(scratch_folder("ship")))
    built = build_subnet(
        net, arch, data, target, records, folder, calibration_images=calibration_images, seed=seed
    )
    with Measurer(target) as measurer:
        measurement = measurer.measure(built.so, cold=True)
    if budget is not None and measurement.cost > budget.value:
        return measurement
    manifest = Manifest(
        target=TargetEntry.of(target),
        space=net.space.name,
        arch=arch,
        latency=LatencyEntry(
            None if budget is None else budget.value,
            predicted,
            measurement.cost,
            measurement.unit,
            measurement,
        ),
        search=search or SearchEntry(0, ()),
        kernels=kernel_entries(built.compiled, _times_inside(built, target, records, folder)),
        quantization=built.quantization,
    )
    # Checked in a folder of its own: an artefact that computes wrongly must not replace a good one.
    trial = write_artefact(folder / "artefact", built.so, built.onnx, manifest).on(target)
    difference = _require_agreement(trial, arch, data, target, seed)
    counted = confusion_through_module(trial, data)
    share = counted.accuracy
    before = (
        None if target.dtype == "float32" else accuracy_in_float32(net, arch, data, calibration_images, seed)
    )
    change = None if before is None else share - before
    manifest = replace(
        manifest,
        accuracy=AccuracyEntry(predicted_accuracy, share, test_images(data), before, change),
        check=_check_entry(target, difference, built.compiled),
    )
    return ReadyToShip(built, manifest, target, measurement, difference, counted, change)


def _require_agreement(
    artefact: Artefact, arch: Arch, data: ImageData, target: Target, seed: int
) -> Difference:
    difference = check_against_onnxruntime(artefact, _some_images(data, arch.r, seed))
    if not difference.accepted(target.dtype):
        raise UserError(
            f"the compiled module differs from ONNX Runtime by {difference.max_rel:.2g} of its largest "
            f"output (input: {difference.worst_input}); it was not shipped. Please report the architecture: "
            + arch.to_json()
        )
    return difference


def _check_entry(target: Target, difference: Difference, compiled: CompiledModule) -> CheckEntry:
    return CheckEntry(
        target.dtype,
        "onnxruntime",
        difference.max_abs,
        difference.max_rel,
        difference.by_input,
        compiled.tuned_fraction,
    )
