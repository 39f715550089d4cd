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
from ofa_tvm.workflow.ship import accuracy_through_module, build_subnet, ready_to_ship


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
    assert recorded.float32 == pytest.approx(accuracy_through_module(here, data), abs=1.5 / data.size("test"))
    x = data.batch("test", np.arange(20), 32).numpy()
    difference = np.abs(shipped.artefact.classifier.logits(x) - here.classifier.logits(x))
    assert 0 < difference.max() < 3e-2 * np.abs(here.classifier.logits(x)).max(), "another dtype did compute"


@pytest.mark.slow
def test_in_float32_nothing_changes(demo: DemoProject) -> None:
    assert demo.result.shipped.accuracy_change is None
    assert demo.result.shipped.artefact.manifest.accuracy.change is None
