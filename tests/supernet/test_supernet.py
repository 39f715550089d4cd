"""What makes a supernet one: subnets share weights, and nothing but the network knows which one is active."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ofa_tvm import Arch, UsageError, UserError, build_supernet, get_space, list_spaces
from ofa_tvm.spaces import Layer
from ofa_tvm.supernet import Supernet
from ofa_tvm.supernet.elastic import ElasticDepthwise
from ofa_tvm.supernet.layers import Conv2d


def randomise(net: nn.Module, seed: int = 0) -> None:
    """Weights and statistics with no symmetry that could hide a mistake."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if not tensor.is_floating_point():
                continue
            noise = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
            if name.endswith("running_var"):
                tensor.copy_(1 + 0.3 * noise.abs())
            elif "_matrix" in name:
                tensor.add_(0.1 * noise)
            elif tensor.ndim == 1:
                tensor.add_(0.2 * noise)
            else:
                tensor.copy_(noise * (2 / tensor[0].numel()) ** 0.5)


@pytest.fixture(scope="module", params=list_spaces())
def supernet(request: pytest.FixtureRequest) -> Supernet:
    torch.manual_seed(0)
    net = build_supernet(request.param, n_classes=7).eval()
    randomise(net)
    return net


def some_archs(net: Supernet, n: int, seed: int = 0) -> list[Arch]:
    rng = np.random.default_rng(seed)
    space = net.space
    archs = [space.min_arch(), space.max_arch(), *(space.sample(rng) for _ in range(n))]
    return [arch.replace(r=min(space.resolutions)) for arch in archs]


def images(net: Supernet, n: int = 2, seed: int = 0) -> torch.Tensor:
    r = min(net.space.resolutions)
    return torch.randn(n, 3, r, r, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_extracted_equals_active(supernet: Supernet) -> None:
    x = images(supernet)
    outputs = []
    for arch in some_archs(supernet, 3):
        supernet.set_active(arch)
        assert supernet.active_arch == arch
        sub = supernet.extract(arch)
        outputs.append(supernet(x))
        torch.testing.assert_close(sub(x), outputs[-1], rtol=1e-5, atol=1e-5 * outputs[-1].abs().max().item())
        assert sub.arch == arch
        assert sub.space_name == supernet.space.name
        assert not sub.training
    assert (outputs[0] - outputs[1]).abs().max() > 1e-3


class _Recorder:
    """Operators that really ran, in the terms of `Layer`."""

    def __init__(self, net: nn.Module) -> None:
        self.macs = 0
        self.shapes: list[tuple[int, int, int, int, int]] = []
        for module in net.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.register_forward_hook(self._record)

    def _record(self, module: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        weight = module.weight
        assert isinstance(weight, torch.Tensor)
        self.macs += weight.numel() * (output.shape[2] * output.shape[3] if output.ndim == 4 else 1)
        if isinstance(module, nn.Conv2d):
            shape = (
                module.in_channels,
                module.out_channels,
                module.kernel_size[0],
                inputs[0].shape[2],
                output.shape[2],
            )
            self.shapes.append(shape)


@torch.no_grad()
def test_layers_are_what_the_extracted_network_runs(supernet: Supernet) -> None:
    space = supernet.space
    for arch in some_archs(supernet, 2, seed=1):
        sub = supernet.extract(arch)
        layers = space.layers(arch, n_classes=7)
        assert sum(p.numel() for p in sub.parameters()) == space.params(arch, n_classes=7)
        recorder = _Recorder(sub)
        sub(images(supernet, 1))

        def is_se(layer: Layer) -> bool:
            return ".se." in layer.name

        convs = [layer for layer in layers if layer.kind in ("conv", "depthwise") and not is_se(layer)]
        described = [(v.c_in, v.c_out, v.kernel, v.h_in, v.h_out) for v in convs]
        # A shortcut's projection may run before or after the block's last convolution.
        assert sorted(described) == sorted(recorder.shapes)
        # Squeeze-excites run as functions, unseen by hooks.
        assert recorder.macs + sum(v.macs for v in layers if is_se(v)) == space.macs(arch, n_classes=7)


def test_extracted_weights_are_copies(supernet: Supernet) -> None:
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    sub = supernet.extract(supernet.space.min_arch())
    with torch.no_grad():
        for parameter in sub.parameters():
            parameter.zero_()
    assert all(torch.equal(before[name], tensor) for name, tensor in supernet.state_dict().items())
    assert all(parameter.requires_grad for parameter in sub.parameters())
    assert not any(parameter.is_meta for parameter in sub.parameters())


@torch.no_grad()
@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
def test_convolutions_keep_the_size(kernel: int) -> None:
    assert Conv2d(2, 3, kernel)(torch.zeros(1, 2, 9, 8)).shape == (1, 3, 9, 8)
    assert Conv2d(2, 3, kernel, stride=2)(torch.zeros(1, 2, 9, 8)).shape == (1, 3, 5, 4)


def test_two_supernets_share_no_state() -> None:
    space = get_space("ofa_digits")
    a, b = build_supernet(space, 10).eval(), build_supernet(space, 10).eval()
    b.load_state_dict(a.state_dict())
    x = torch.randn(1, 3, 32, 32)
    largest = b(x)
    a.set_active(space.min_arch())
    assert torch.equal(b(x), largest)
    assert b.active_arch == space.max_arch()
    assert not torch.equal(a(x), largest)


def test_elastic_kernels_start_as_centres_and_use_their_matrices() -> None:
    layer = ElasticDepthwise(4, (3, 5, 7))
    assert torch.equal(layer.weight(4, 7), layer.conv.weight)
    assert torch.equal(layer.weight(3, 5), layer.conv.weight[:3, :, 1:6, 1:6])
    assert torch.equal(layer.weight(4, 3), layer.conv.weight[:, :, 2:5, 2:5])
    with torch.no_grad():
        getattr(layer, "7to5_matrix").mul_(2)
        getattr(layer, "5to3_matrix").mul_(3)
    torch.testing.assert_close(layer.weight(4, 5), 2 * layer.conv.weight[:, :, 1:6, 1:6])
    torch.testing.assert_close(layer.weight(4, 3), 6 * layer.conv.weight[:, :, 2:5, 2:5])


def test_a_smallest_subnet_trains_only_what_it_uses() -> None:
    space = get_space("ofa_digits")
    net = build_supernet(space, 10).train()
    net.set_active(space.min_arch())
    net(torch.randn(4, 3, 32, 32)).square().sum().backward()
    grads = {name: parameter.grad for name, parameter in net.named_parameters()}
    assert grads["blocks.3.conv.point_linear.conv.conv.weight"] is None  # beyond depth 2
    expand = grads["blocks.1.conv.inverted_bottleneck.conv.conv.weight"]
    assert expand is not None
    assert expand[:48].abs().sum() > 0
    assert expand[48:].abs().sum() == 0
    for matrix in ("7to5_matrix", "5to3_matrix"):
        grad = grads[f"blocks.1.conv.depth_conv.conv.{matrix}"]
        assert grad is not None
        assert grad.abs().sum() > 0


@torch.no_grad()
def test_sorting_keeps_the_largest_subnet(supernet: Supernet) -> None:
    space = supernet.space
    net = build_supernet(space, n_classes=7).eval()
    net.load_state_dict(supernet.state_dict())
    x = images(net)
    largest = net(x)
    net.set_active(space.min_arch())
    smallest = net(x)
    net.sort_channels()
    assert (net(x) - smallest).abs().max() > 1e-4  # other channels now come first
    net.set_active(space.max_arch())
    torch.testing.assert_close(net(x), largest, rtol=1e-4, atol=1e-4 * largest.abs().max().item())


@pytest.mark.parametrize("name", ["ofa_digits", "ofa_resnet50"])
@torch.no_grad()
def test_sorting_keeps_subnets_trained_so_far(name: str) -> None:
    net = build_supernet(name, n_classes=7).eval()
    randomise(net)
    space = net.space
    small, middle, large = space.expands
    x = images(net)

    def output(expand: float) -> torch.Tensor:
        net.set_active(space.max_arch().replace(e=(expand,) * space.n_blocks))
        return net(x)

    before = {expand: output(expand) for expand in space.expands}
    net.sort_channels(trained=(large, middle))
    for expand in (large, middle):
        torch.testing.assert_close(output(expand), before[expand], rtol=1e-4, atol=1e-4)
    assert (output(small) - before[small]).abs().max() > 1e-4


@torch.no_grad()
def test_sorting_puts_the_most_important_channels_first() -> None:
    net = build_supernet("ofa_digits")
    randomise(net)
    net.sort_channels()
    for index in range(1, 9):
        state = net.state_dict()
        importance = state[f"blocks.{index}.conv.point_linear.conv.conv.weight"].abs().sum((0, 2, 3))
        assert (importance.diff() <= 1e-5).all()
    se = state["blocks.8.conv.depth_conv.se.fc.expand.weight"].abs().sum((0, 2, 3))
    assert (se.diff() <= 1e-5).all()


def test_bad_architectures_are_refused() -> None:
    net = build_supernet("ofa_digits", 10)
    with pytest.raises(UsageError, match=r"ks\[0\] = 9"):
        net.set_active(net.space.min_arch().replace(ks=(9,) * 8))
    with pytest.raises(UsageError, match="wants 2 entries in 'd'"):
        net.extract(get_space("ofa_mbv3_w1.0").min_arch())
    assert net.active_arch == net.space.max_arch()


def test_dropout_acts_in_training_only() -> None:
    net = build_supernet("ofa_digits", 10, dropout=0.5)
    x = torch.randn(8, 3, 32, 32)
    sub = net.extract(net.space.min_arch())
    with torch.no_grad():
        assert not torch.equal(sub.train()(x), sub.train()(x))
        assert torch.equal(sub.eval()(x), sub.eval()(x))


def test_checkpoint_round_trip(tmp_path: Path) -> None:
    net = build_supernet("ofa_digits", 10)
    net.save_checkpoint(tmp_path / "a.pt")
    other = build_supernet("ofa_digits", 10)
    other.load_checkpoint(tmp_path / "a.pt")
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in net.state_dict().items())
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]
    with pytest.raises(UserError, match="trained with n_classes 10, this supernet has 5"):
        build_supernet("ofa_digits", 5).load_checkpoint(tmp_path / "a.pt")
    with pytest.raises(UserError, match="space ofa_digits"):
        build_supernet("ofa_mbv3_w1.0", 10).load_checkpoint(tmp_path / "a.pt")
