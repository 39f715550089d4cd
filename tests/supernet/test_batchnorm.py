"""Re-estimated statistics are those of the data."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ofa_tvm import UserError, build_supernet
from ofa_tvm.supernet import calibrate


def test_statistics_are_weighted_means_over_batches() -> None:
    norm = nn.BatchNorm2d(2)
    net = nn.Sequential(norm)
    assert norm.running_mean is not None
    norm.running_mean.fill_(99)
    batches = [torch.randn(n, 2, 3, 3) * 2 + n for n in (8, 4, 2)]
    weights = torch.tensor([8.0, 4.0, 2.0]) / 14
    calibrate(net.eval(), batches)
    means = torch.stack([batch.mean((0, 2, 3)) for batch in batches])
    variances = torch.stack([batch.var((0, 2, 3)) for batch in batches])
    torch.testing.assert_close(norm.running_mean, (weights[:, None] * means).sum(0))
    torch.testing.assert_close(norm.running_var, (weights[:, None] * variances).sum(0))
    assert norm.momentum == 0.1
    assert not norm.training


def test_supernet_and_subnet_come_to_the_same() -> None:
    net = build_supernet("ofa_digits", 10, dropout=0.5).train()
    arch = net.space.median_arch()
    net.set_active(arch)
    sub = net.extract(arch)
    batches = [torch.randn(16, 3, 40, 40) for _ in range(3)]
    name = "blocks.4.conv.depth_conv.bn.bn.running_mean"
    untouched = net.state_dict()[name].clone()
    calibrate(net, batches)
    calibrate(sub, batches)
    assert net.training
    assert sub.training
    with torch.no_grad():
        torch.testing.assert_close(net.eval()(batches[0]), sub.eval()(batches[0]), rtol=1e-4, atol=1e-4)
    # Depth 3 leaves the stage's fourth block alone.
    assert torch.equal(untouched, net.state_dict()[name])


def test_no_images_is_an_error_and_leaves_the_mode() -> None:
    net = build_supernet("ofa_digits", 10).eval()
    with pytest.raises(UserError, match="no image"):
        calibrate(net, [])
    assert not any(module.training for module in net.modules())
