"""What shipping in half precision records: the accuracy it has, and had in float32."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from demo_project import DemoProject
from emulated import arm_target

from ofa_tvm.deploy import Manifest, write_artefact
from ofa_tvm.deploy.manifest import TargetEntry
from ofa_tvm.logs import KernelTable
from ofa_tvm.targets import Target, get_target
from ofa_tvm.workflow.settings import resolve
from ofa_tvm.workflow.ship import build_subnet, confusion_through_module, ready_to_ship


def half_target(name: str) -> Target:
    return (get_target(name) if name == "x86" else arm_target(name)).with_dtype("float16")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["x86", "cortex-a76"])
def test_the_change_of_accuracy_is_measured_and_recorded(
    demo: DemoProject, tmp_path: Path, name: str
) -> None:
    settings, target = resolve("x86", start=demo.folder), half_target(name)
    net, data = settings.supernet(), settings.data()
    arch = net.space.min_arch(32)
    with ExitStack() as files:
        ready = ready_to_ship(net, arch, data, target, KernelTable(), files, calibration_images=64)
        assert ready is not None
        shipped = ready.write(tmp_path / "half")
        full = build_subnet(
            net, arch, data, get_target("x86"), KernelTable(), tmp_path, calibration_images=64
        )
    assert shipped.arch == arch
    recorded = shipped.artefact.manifest.accuracy
    assert recorded.measured == shipped.accuracy
    assert recorded.change == shipped.accuracy_change == shipped.accuracy - recorded.float32
    here = write_artefact(tmp_path / "full", full.so, full.onnx, Manifest(TargetEntry.of(get_target("x86"))))
    # The same network compiled in float32: one of the test images may be classified by a rounding error.
    full_accuracy = confusion_through_module(here, data).accuracy
    assert recorded.float32 == pytest.approx(full_accuracy, abs=1.5 / data.size("test"))
    x = data.batch("test", np.arange(20), 32).numpy()
    difference = np.abs(shipped.artefact.classifier.logits(x) - here.classifier.logits(x))
    assert 0 < difference.max() < 3e-2 * np.abs(here.classifier.logits(x)).max(), "another dtype did compute"


@pytest.mark.slow
def test_in_float32_nothing_changes(demo: DemoProject) -> None:
    assert demo.result.shipped.accuracy_change is None
    assert demo.result.shipped.artefact.manifest.accuracy.change is None


def test_the_answers_behind_the_accuracy_ship_with_it(demo: DemoProject, tmp_path: Path) -> None:
    artefact = demo.result.shipped.artefact
    assert artefact.confusion is not None
    assert artefact.confusion.accuracy == demo.result.shipped.accuracy
    assert artefact.confusion.labels == artefact.manifest.labels
    assert artefact.confusion.images == resolve("x86", start=demo.folder).data().size("test")
    again = write_artefact(tmp_path, artefact.module_path, artefact.onnx_path, artefact.manifest,
                           confusion=artefact.confusion)  # fmt: skip
    assert again.confusion is not None and (again.confusion.counts == artefact.confusion.counts).all()
    # Another module's answers do not stay behind.
    other = write_artefact(tmp_path, artefact.module_path, artefact.onnx_path, artefact.manifest)
    assert other.confusion is None
    assert not (tmp_path / "confusion.json").exists()
