"""The 50 published specialised networks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from test_onnx_graph import assert_same

from ofa_tvm import UserError, build_supernet, get_space
from ofa_tvm.export import load_net_config, published_resolution, read_net_config, to_onnx
from ofa_tvm.spaces import network_layers


def test_all_published_networks(shared_data: Path) -> None:
    folders = sorted((shared_data / "ofa_specialized").iterdir())
    assert len(folders) == 50
    for index, folder in enumerate(folders):
        net = load_net_config(folder)
        resolution = published_resolution(folder)
        assert resolution is not None
        # Each is a subnet of a space that ships, and is recognised as such.
        assert net.arch is not None
        space = get_space(net.space_name)
        assert net.arch.r == resolution
        assert space.params(net.arch) == sum(p.numel() for p in net.parameters())
        layers = network_layers(net.spec, resolution)
        assert sum(layer.macs for layer in layers) == space.macs(net.arch)
        model = to_onnx(net, resolution)
        if index % 10 == 0:
            onnx.checker.check_model(model, full_check=True)
            assert_same(net, model, (1, 3, resolution, resolution))


@pytest.mark.parametrize(
    ("name", "macs"), [("flops-389M", 389e6), ("flops-482M", 482e6), ("flops-595M", 595e6)]
)
def test_macs_are_those_in_the_published_names(name: str, macs: float, shared_data: Path) -> None:
    folder = next((shared_data / "ofa_specialized").glob(f"{name}*"))
    net = load_net_config(folder)
    assert net.arch is not None
    assert get_space(net.space_name).macs(net.arch) == pytest.approx(macs, rel=0.01)


def test_weights_of_a_subnet_load(shared_data: Path, tmp_path: Path) -> None:
    folder = next((shared_data / "ofa_specialized").glob("note10_lat-8ms*"))
    plain = load_net_config(folder)
    assert plain.arch is not None
    sub = build_supernet(plain.space_name).eval().extract(plain.arch)
    older = {k.replace(".conv.", ".mobile_inverted_conv.", 1) if k.startswith("blocks") else k: v
             for k, v in sub.state_dict().items()}  # fmt: skip
    torch.save({"state_dict": older}, tmp_path / "w.pth")
    net = load_net_config(folder, tmp_path / "w.pth")
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 3, 128, 128)).astype(np.float32))
    with torch.no_grad():
        assert torch.equal(net(x), sub(x))


def _config(shared_data: Path) -> dict:
    folder = sorted((shared_data / "ofa_specialized").iterdir())[0]
    return json.loads((folder / "net.config").read_text())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda c: c.pop("blocks"), "lacks the entry 'blocks'"),
        (lambda c: c.update(name="ResNets"), "'ResNets' are not supported"),
        (lambda c: c["first_conv"].update(groups=2), "groups = 2"),
        (lambda c: c["first_conv"].update(act_func="gelu"), "activation 'gelu'"),
        (
            lambda c: c["blocks"][1]["mobile_inverted_conv"].update(expand_ratio=1e-9, mid_channels=None),
            "leaves no channels",
        ),
        (lambda c: c["blocks"].__setitem__(1, 3), "no net.config that can be built"),
    ],
)
def test_damaged_configs(damage, message: str, shared_data: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    config = _config(shared_data)
    damage(config)
    (tmp_path / "net.config").write_text(json.dumps(config))
    with pytest.raises(UserError, match=message):
        read_net_config(tmp_path / "net.config")


def test_missing_and_broken_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read"):
        load_net_config(tmp_path)
    (tmp_path / "net.config").write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        load_net_config(tmp_path)
    assert published_resolution(tmp_path) is None
