"""The kernel union holds every kernel of every subnet, and finds a block's kernels by its layers."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

import ofa_tvm
from ofa_tvm.compiler.build import kernel_calls, kernels_of, lower_onnx
from ofa_tvm.errors import UserError
from ofa_tvm.export import to_onnx
from ofa_tvm.spaces import Layer
from ofa_tvm.spaces.blocks import split_blocks
from ofa_tvm.supernet import calibrate, set_dtype
from ofa_tvm.targets import DType, Target, get_target
from ofa_tvm.tuning import KernelUnion, allot, kernel_union, union

N_CLASSES = 10


@pytest.fixture(scope="module")
def target() -> Target:
    torch.set_num_threads(1)
    return get_target("x86")


@pytest.fixture(scope="module")
def digits(target: Target) -> KernelUnion:
    return kernel_union(ofa_tvm.get_space("ofa_digits"), [32], target, n_classes=N_CLASSES)


def blocks(layers: tuple[Layer, ...]) -> list[tuple[Layer, ...]]:
    return list(split_blocks(layers).values())


@pytest.mark.parametrize(
    ("name", "subnets", "dtype"),
    [
        pytest.param("ofa_digits", 15, "float32", marks=pytest.mark.slow),
        pytest.param("ofa_digits", 8, "int8", marks=pytest.mark.slow),
        pytest.param("ofa_mbv3_w1.0", 5, "float32", marks=pytest.mark.slow),
        pytest.param("ofa_mbv3_w1.2", 2, "float32", marks=pytest.mark.slow),
        pytest.param("ofa_proxyless_w1.3", 4, "float32", marks=pytest.mark.slow),
        pytest.param("ofa_proxyless_w1.3", 2, "int8", marks=pytest.mark.slow),
        pytest.param("ofa_resnet50", 5, "float32", marks=pytest.mark.slow),
        pytest.param("ofa_resnet50", 5, "int8", marks=pytest.mark.slow),
    ],
)
def test_union_holds_every_kernel_of_every_subnet(
    name: str, subnets: int, dtype: DType, target: Target
) -> None:
    space, target = ofa_tvm.get_space(name), target.with_dtype(dtype)
    resolution = space.resolutions[0]
    found = kernel_union(space, [resolution], target, n_classes=N_CLASSES)
    known = {kernel.key for kernel in found.kernels}
    assert len(known) == len(found.kernels)

    net = ofa_tvm.build_supernet(space, n_classes=N_CLASSES).eval()
    rng = np.random.default_rng(11)
    archs = [space.min_arch(resolution), space.max_arch(resolution)]
    archs += [space.sample(rng).replace(r=resolution) for _ in range(subnets)]
    used: set[str] = set()
    for arch in archs:
        network = net.extract(arch)
        if dtype == "int8":  # the union's ranges are other ones, of noise
            set_dtype(network, dtype)
            calibrate(network, [0.5 + torch.rand(4, 3, arch.r, arch.r)])
        mod = lower_onnx(to_onnx(network, arch.r, 1), target)
        kernels = kernels_of(mod)
        missing = [kernel.name for kernel in kernels.values() if kernel.key not in known]
        assert not missing, arch
        used |= {kernel.key for kernel in kernels.values()}
        # The blocks' kernels, one block after the other, are the network's.
        listed = [key for block in blocks(space.layers(arch, N_CLASSES)) for key in found.of_block(block)]
        assert listed == [kernels[call].key for call in kernel_calls(mod)]
    assert len(used) > 0.5 * len(known), "the union holds much that no subnet needs"


@pytest.mark.slow
def test_resolutions_and_batches_have_their_own_kernels(digits: KernelUnion, target: Target) -> None:
    space = ofa_tvm.get_space("ofa_digits")
    small, both, batch = (
        {kernel.key for kernel in union.kernels}
        for union in (
            digits,
            kernel_union(space, [32, 48], target, n_classes=N_CLASSES),
            kernel_union(space, [32], target.with_batch(2), n_classes=N_CLASSES),
        )
    )
    assert small < both
    assert 1.5 * len(small) < len(both) < 2 * len(small)  # what follows the pooling is shared
    assert len(small & batch) < 0.1 * len(small)


def test_a_block_outside_the_union_has_no_kernels(digits: KernelUnion) -> None:
    space = ofa_tvm.get_space("ofa_digits")
    assert digits.of_block(blocks(space.layers(space.max_arch(40), N_CLASSES))[1]) == ()
    assert min(kernel.calls for kernel in digits.kernels) >= 1


def test_mean_calls_are_those_of_sampled_subnets(
    digits: KernelUnion, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = ofa_tvm.get_space("ofa_digits")
    monkeypatch.setattr(union, "_SAMPLED", 4)
    calls = digits.mean_calls(space, [32], N_CLASSES, seed=3)
    net = ofa_tvm.build_supernet(space, n_classes=N_CLASSES).eval()
    counted: Counter[str] = Counter()
    for arch in space.decode(space.sample_genes(np.random.default_rng(3), 4, [32])):
        mod = lower_onnx(to_onnx(net.extract(arch), 32, 1), target)
        kernels = kernels_of(mod)
        counted.update(kernels[call].key for call in kernel_calls(mod))
    assert calls == {kernel.key: counted[kernel.key] / 4 for kernel in digits.kernels}


def test_trials_follow_the_work(digits: KernelUnion) -> None:
    calls = digits.mean_calls(ofa_tvm.get_space("ofa_digits"), [32], N_CLASSES)
    work = {kernel.key: calls[kernel.key] * kernel.flops for kernel in digits.kernels}
    wanted = allot(digits.kernels, 10, calls)
    order = sorted(work, key=lambda key: work[key])
    assert [wanted[key] for key in order] == sorted(wanted.values())
    assert (min(wanted.values()), max(wanted.values())) == (5, 20)


def test_a_space_that_describes_another_network_is_refused(target: Target) -> None:
    """Were blocks cut at other kernels than their own, every latency would be that of other layers."""
    space = ofa_tvm.get_space("ofa_digits")
    arch = space.min_arch(32)
    net = ofa_tvm.build_supernet(space, n_classes=N_CLASSES).eval()
    mod = lower_onnx(to_onnx(net.extract(arch), arch.r, 1), target)
    kernels = kernels_of(mod)
    calls = [kernels[name] for name in kernel_calls(mod)]
    layers = space.layers(arch, N_CLASSES)
    cut = union._blocks(layers, calls, 1)
    assert [key for block in blocks(layers) for key in cut[union._nameless(block)]] == [k.key for k in calls]
    product = next(i for i, kernel in enumerate(calls) if kernel.signature.has_product)
    for wrong in (calls[:product] + calls[product + 1 :], [*calls, calls[product]]):
        with pytest.raises(UserError, match="convolutions and products"):
            union._blocks(layers, wrong, 1)
    # As many products, but not these: two of other sizes that change places, a layer of another width, and
    # twice the images.
    last = max(i for i, kernel in enumerate(calls) if kernel.signature.has_product)
    swapped = list(calls)
    swapped[product], swapped[last] = calls[last], calls[product]
    wider = tuple(replace(a, c_out=a.c_out + 1) if a.kind == "depthwise" else a for a in layers)
    for wrong_layers, wrong, batch in ((layers, swapped, 1), (wider, calls, 1), (layers, calls, 2)):
        with pytest.raises(UserError, match="in its place the network computes"):
            union._blocks(wrong_layers, wrong, batch)
