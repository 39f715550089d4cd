"""Every tensor name, parameter count and output of the official implementation."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from golden import SPACES, golden_case, golden_state, read_cases

from ofa_tvm import build_supernet


@pytest.mark.parametrize("name", SPACES)
def test_outputs_equal_the_official_ones(name: str, shared_data: Path, tmp_path: Path) -> None:
    golden = read_cases(shared_data, name)
    net = build_supernet(name)
    assert {key: list(tensor.shape) for key, tensor in net.state_dict().items()} == golden["state_dict"]
    assert sum(p.numel() for p in net.parameters()) == golden["supernet_params"]
    torch.save({"state_dict": golden_state(golden["state_dict"])}, tmp_path / "official.pth")
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-4)):
        net.to(dtype).eval()
        net.load_checkpoint(tmp_path / "official.pth")
        for case in golden["cases"] if dtype == torch.float64 else golden["cases"][:2]:
            arch, x = golden_case(case)
            net.set_active(arch)
            sub = net.extract(arch)
            assert sum(p.numel() for p in sub.parameters()) == case["params"]
            with torch.no_grad():
                active, extracted = net(x.to(dtype))[0], sub(x.to(dtype))[0]
            expected = torch.tensor(case["logits_first8"], dtype=torch.float64)
            for logits in (active, extracted):
                error = (logits[:8].double() - expected).abs().max().item()
                assert error <= tolerance * case["logits_abs_max"]
                assert logits.abs().max().item() == pytest.approx(case["logits_abs_max"], rel=tolerance)
                # A sum of 1000 logits: errors of each may add up.
                total = abs(logits.double().sum().item() - case["logits_sum"])
                assert total <= 1000 * tolerance * case["logits_abs_max"]
