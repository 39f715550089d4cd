"""Fake quantisation: on the grid, gradients straight through, ranges of a subnet and in its file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ofa_tvm import UsageError, UserError, build_supernet, get_space
from ofa_tvm.compiler.dots import has_short_sums
from ofa_tvm.supernet import Supernet, calibrate, dtype_of, load_subnet, set_dtype
from ofa_tvm.supernet.checkpoint import read_checkpoint, write_checkpoint
from ofa_tvm.supernet.fake_quantization import MapQuantizer, WeightQuantizer, rescaled, weight_codes

SPACE = get_space("ofa_digits")


@pytest.fixture
def net() -> Supernet:
    torch.manual_seed(0)
    net = build_supernet(SPACE, 10)
    set_dtype(net, "int8")
    calibrate(net, [torch.randn(8, 3, 32, 32)])
    return net.eval()


def test_maps_lie_on_a_grid_of_their_range_and_gradients_pass() -> None:
    quantizer = MapQuantizer()
    x = torch.randn(4, 3, 5, 5).contiguous(memory_format=torch.channels_last).requires_grad_()
    assert quantizer(x) is x
    quantizer.enable()
    y = quantizer(x)
    scale = (x.max() - x.min()) / 255
    codes = (y / scale).detach()
    assert torch.allclose(codes, codes.round(), atol=1e-3)
    assert (y - x).abs().max() <= 0.51 * scale
    assert len(codes.round().unique()) <= 256
    y.sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))


def test_evaluation_clips_to_what_was_seen_and_keeps_zero() -> None:
    quantizer = MapQuantizer()
    quantizer.enable()
    quantizer.momentum = 1.0
    quantizer(torch.tensor([0.5, 2.0]))  # relu's maps begin at 0
    quantizer.eval()
    assert quantizer(torch.tensor([-1.0, 0.0, 5.0])).tolist() == [0.0, 0.0, 2.0]
    assert quantizer.scheme() == (np.float32(2 / 255), 0)


def test_a_map_of_zeros_has_a_scale() -> None:
    quantizer = MapQuantizer()
    quantizer.enable()
    assert quantizer(torch.zeros(3)).tolist() == [0.0] * 3
    assert quantizer.scheme()[0] > 0


def test_weights_have_a_grid_for_each_channel_of_the_part_that_is_used() -> None:
    quantizer = WeightQuantizer()
    weight = torch.randn(6, 5, 3, 3)
    weight[0], weight[1] = 0, weight[1] * 100
    assert quantizer(weight) is weight
    quantizer.enabled = True
    codes, scales = weight_codes(weight)
    assert abs(codes).reshape(6, -1).max(1).tolist()[0] == 0
    neighbours = codes[:, :4].reshape(6, 2, 2, 9).astype(int)
    largest = np.maximum(abs(codes).reshape(6, -1).max(1), abs(neighbours.sum(2)).reshape(6, -1).max(1))
    assert set(largest[1:]) <= {126, 127, 128}, "the largest weight or sum of two before rounding is 127"
    torch.testing.assert_close(
        quantizer(weight), torch.from_numpy(codes * scales[:, None, None, None]), rtol=1e-6, atol=0
    )
    narrow = quantizer(weight[:, :2])
    assert not torch.equal(narrow, quantizer(weight)[:, :2])


@pytest.mark.parametrize("shape", [(8, 1, 5, 5), (8, 2, 1, 1), (8, 7, 3, 3), (8, 64)])
def test_two_weights_that_are_neighbours_fit_a_sum_of_16_bits(shape: tuple[int, ...]) -> None:
    """Also where all are as large as they can be; a depthwise convolution's have no neighbours."""
    torch.manual_seed(0)
    for weight in (torch.randn(shape), torch.ones(shape), -torch.rand(shape) - 3):
        codes, _ = weight_codes(weight)
        channels = codes.reshape(8, shape[1], -1)
        fours = np.pad(channels, [(0, 0), (0, -shape[1] % 4), (0, 0)]).swapaxes(1, 2).reshape(8, -1, 4)
        assert shape[1] == 1 or has_short_sums(fours)
        assert abs(codes.astype(int)).max() == 127 or shape[1] > 1
        assert abs(codes.astype(int)).max() >= 63


def test_factors_of_a_batch_norm_go_into_scales_and_signs() -> None:
    codes, scales = weight_codes(torch.randn(4, 2, 1, 1))
    factors = np.array([2.0, -0.5, 0.0, 1e-45])
    new_codes, new_scales = rescaled(codes, scales, factors)
    shape = (4, 1, 1, 1)
    np.testing.assert_allclose(
        new_codes * new_scales.reshape(shape),
        codes * (scales * factors).reshape(shape),
        rtol=1e-6,
        atol=1e-40,
    )
    assert (new_scales > 1e-38).all()


@torch.no_grad()
def test_a_subnet_takes_its_supernets_arithmetic_along(net: Supernet) -> None:
    x = torch.randn(2, 3, 32, 32)
    arch = SPACE.median_arch()
    net.set_active(arch)
    sub = net.extract(arch)
    assert dtype_of(sub) == "int8"
    torch.testing.assert_close(sub(x), net(x))
    set_dtype(sub, "float32")
    assert not torch.allclose(sub(x), net(x), atol=1e-4)
    assert not any("quantize" in name for name in sub.state_dict())


def test_calibration_estimates_ranges_and_leaves_weights_alone(net: Supernet) -> None:
    before = {name: value.clone() for name, value in net.state_dict().items()}
    calibrate(net, [3 * torch.randn(8, 3, 32, 32), torch.randn(4, 3, 32, 32)])
    changed = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    assert {"quantize_input.low", "quantize_pooled.high"} <= changed
    assert not changed & {name for name, _ in net.named_parameters()}


def test_files_say_what_they_were_trained_for(net: Supernet, tmp_path: Path) -> None:
    net.save_checkpoint(tmp_path / "int8.pt")
    other = build_supernet(SPACE, 10)
    other.load_checkpoint(tmp_path / "int8.pt")
    assert dtype_of(other) == "int8"
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in other.state_dict().items())
    sub = net.extract(SPACE.min_arch())
    sub.save_checkpoint(tmp_path / "subnet.pt")
    assert dtype_of(load_subnet(tmp_path / "subnet.pt")) == "int8"
    build_supernet(SPACE, 10).save_checkpoint(tmp_path / "float32.pt")
    other.load_checkpoint(tmp_path / "float32.pt")
    assert dtype_of(other) == "float32"


def test_broken_ranges_are_refused(net: Supernet, tmp_path: Path) -> None:
    net.save_checkpoint(tmp_path / "whole.pt")
    state, extra = read_checkpoint(tmp_path / "whole.pt")

    def message(changed: dict[str, torch.Tensor], dtype: str = "int8") -> str:
        write_checkpoint({**extra, "dtype": dtype, "state_dict": changed}, tmp_path / "broken.pt")
        with pytest.raises(UserError) as error:
            build_supernet(SPACE, 10).load_checkpoint(tmp_path / "broken.pt")
        return str(error.value)

    missing = {name: value for name, value in state.items() if name != "quantize_input.low"}
    assert "lacks the ranges of feature maps (quantize_input.low)" in message(missing)
    turned = {**state, "quantize_input.low": state["quantize_input.high"] + 1}
    assert "ends before it begins (quantize_input.low)" in message(turned)
    assert "not finite" in message({**state, "quantize_input.high": torch.tensor(torch.inf)})
    assert "dtype 'int3'" in message(state, "int3")


def test_a_network_without_quantisers_is_refused() -> None:
    with pytest.raises(UserError, match="a Linear cannot be quantised"):
        set_dtype(nn.Linear(2, 2), "int8")


def test_an_activation_that_no_layer_has_is_named() -> None:
    space = replace(SPACE, name="mine", head_activation="swish")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="unknown activation 'swish'; layers have none, relu, relu6"):
        build_supernet(space, 10)(torch.randn(2, 3, 32, 32))
