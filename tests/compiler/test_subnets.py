"""Subnets of every space compute what ONNX Runtime computes, in channels-last kernels only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx_models import random_inputs, reference

import ofa_tvm
from ofa_tvm.compiler.build import kernel_calls, kernels_of, lower_onnx
from ofa_tvm.compiler.traces import scheduled_by_trace
from ofa_tvm.logs import KernelTable, find_records
from ofa_tvm.spaces import Arch
from ofa_tvm.targets import Target, get_target

Exporter = Callable[[str, Arch, int], onnx.ModelProto]


@pytest.fixture(scope="module")
def target() -> Target:
    return get_target("x86")


@pytest.fixture(scope="module")
def exported() -> Exporter:
    """ONNX models of subnets; every supernet is built once, its batch norms with statistics that matter."""
    import torch

    from ofa_tvm.export import to_onnx

    torch.set_num_threads(1)
    nets: dict[str, torch.nn.Module] = {}

    def export(space: str, arch: Arch, batch: int) -> onnx.ModelProto:
        if space not in nets:
            torch.manual_seed(0)
            nets[space] = net = ofa_tvm.build_supernet(ofa_tvm.get_space(space), n_classes=10).eval()
            for module in net.modules():
                if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                    module.running_mean.uniform_(-0.2, 0.2)
                    module.running_var.uniform_(0.5, 1.5)
        return to_onnx(nets[space].extract(arch), arch.r, batch)

    return export


def assert_equal(model: onnx.ModelProto, target: Target, path: Path) -> ofa_tvm.compiler.CompiledModule:
    compiled = ofa_tvm.compile(model, target, path, records=KernelTable())
    (image,) = random_inputs(model)
    (expected,) = reference(model, [image])
    got = ofa_tvm.load(path)(image)
    assert expected.std() > 0
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-5 * float(np.abs(expected).max()))
    assert {use.origin for use in compiled.kernels} == {"default"}
    return compiled


@pytest.mark.slow
@pytest.mark.parametrize("name", ["x86-64-v3", "x86-64-v4"])
def test_the_log_that_ships_covers_its_spaces(name: str, exported: Exporter) -> None:
    """Every kernel of random subnets has a record whose trace fits: nobody has to tune for them."""
    target = get_target(name)
    records = find_records(target)
    assert not records.problems
    for space, resolutions in {"ofa_digits": (32, 48), "ofa_mbv3_w1.0": (128, 160, 192, 224)}.items():
        for arch, r in zip(archs(space, len(resolutions), seed=5), resolutions, strict=True):
            found = kernels_of(lower_onnx(exported(space, arch.replace(r=r), 1), target))
            for kernel in found.values():
                best = records.best(kernel.key)
                if kernel.name.endswith("->1x10") and space != "ofa_digits":
                    continue  # the classifier: the log is for 1,000 classes
                assert best is not None, f"{kernel.name} of {space} at {r} is not in the log"
                scheduled_by_trace(kernel.mod, best.trace)


def archs(space: str, count: int, seed: int) -> list[Arch]:
    rng = np.random.default_rng(seed)
    return [ofa_tvm.get_space(space).sample(rng) for _ in range(count)]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_digits_subnets(seed: int, exported: Exporter, target: Target, tmp_path: Path) -> None:
    (arch,) = archs("ofa_digits", 1, seed)
    assert_equal(exported("ofa_digits", arch, 1), target, tmp_path / "m.so")


@pytest.mark.slow
@pytest.mark.parametrize("corner", ["min_arch", "max_arch"])
def test_extreme_digits_subnets(corner: str, exported: Exporter, target: Target, tmp_path: Path) -> None:
    arch = getattr(ofa_tvm.get_space("ofa_digits"), corner)()
    assert_equal(exported("ofa_digits", arch, 1), target, tmp_path / "m.so")


@pytest.mark.slow
@pytest.mark.usefixtures("all_cpus")
def test_digits_in_batches_and_threads(exported: Exporter, target: Target, tmp_path: Path) -> None:
    (arch,) = archs("ofa_digits", 1, 7)
    assert_equal(exported("ofa_digits", arch, 2), target.with_threads(2), tmp_path / "m.so")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["x86-64-v2", "x86-64-v3"])
def test_digits_on_older_cpus(name: str, exported: Exporter, tmp_path: Path) -> None:
    (arch,) = archs("ofa_digits", 1, 8)
    assert_equal(exported("ofa_digits", arch, 1), get_target(name), tmp_path / "m.so")


@pytest.mark.slow
@pytest.mark.parametrize("space", ["ofa_mbv3_w1.0", "ofa_mbv3_w1.2", "ofa_proxyless_w1.3", "ofa_resnet50"])
def test_imagenet_subnets(space: str, exported: Exporter, target: Target, tmp_path: Path) -> None:
    found = ofa_tvm.get_space(space)
    (arch,) = archs(space, 1, 3)
    assert_equal(exported(space, arch.replace(r=found.resolutions[0]), 1), target, tmp_path / "m.so")


@pytest.mark.parametrize("space", ["ofa_digits", "ofa_mbv3_w1.0", "ofa_proxyless_w1.3", "ofa_resnet50"])
def test_only_the_image_is_permuted(space: str, exported: Exporter, target: Target) -> None:
    found = ofa_tvm.get_space(space)
    mod = lower_onnx(exported(space, found.median_arch(found.resolutions[0]), 1), target)
    calls = kernel_calls(mod)
    assert [name for name in calls if "transpose" in name] == calls[:1]
    assert not any("clip" in name and not name.startswith("fused") for name in calls)


def test_activations_and_shortcuts_are_fused(exported: Exporter, target: Target) -> None:
    """As many kernels as layers, but for the permuted image and the gates of squeeze-and-excitation."""
    space = ofa_tvm.get_space("ofa_mbv3_w1.0")
    arch = space.max_arch(128)
    calls = kernel_calls(lower_onnx(exported("ofa_mbv3_w1.0", arch, 1), target))
    layers = space.layers(arch, 10)
    gates = sum(layer.kind == "pool" for layer in layers) - 1
    assert gates == 12
    assert len(calls) == len(layers) + gates + 1


@pytest.mark.slow
def test_compiling_again_generates_nothing(
    exported: Exporter, target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel_cache = tmp_path / "cache"  # other workers of the suite write to the one that is shared
    monkeypatch.setenv("OFA_TVM_CACHE", str(kernel_cache))
    (arch,) = archs("ofa_digits", 1, 9)
    model = exported("ofa_digits", arch, 1)
    ofa_tvm.compile(model, target, tmp_path / "first.so")
    before = {path: path.stat().st_mtime_ns for path in kernel_cache.rglob("*.o")}
    assert before
    ofa_tvm.compile(model, target, tmp_path / "second.so")
    assert {path: path.stat().st_mtime_ns for path in kernel_cache.rglob("*.o")} == before
