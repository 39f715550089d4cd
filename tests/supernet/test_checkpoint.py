"""Weights in every spelling of the official code; anything else is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ofa_tvm import UserError, build_supernet
from ofa_tvm.supernet import Supernet


def _older(name: str) -> str:
    name = name.replace("blocks.0.conv.", "blocks.0.mobile_inverted_conv.")
    for index in range(1, 30):
        name = name.replace(f"blocks.{index}.conv.", f"blocks.{index}.mobile_inverted_conv.")
    return name


SPELLINGS: dict[str, Callable[[str], str]] = {
    "new": lambda name: name,
    "older block name": _older,
    "plain batch norms": lambda name: name.replace(".bn.bn.", ".bn."),
    "plain convolutions": lambda name: name.replace(".conv.conv.weight", ".conv.weight"),
    "doubled batch norms": lambda name: name.replace(".bn.bn.", ".bn.").replace(".bn.", ".bn.bn."),
    "plain classifier": lambda name: name.replace(".linear.linear.", ".linear."),
    "all of them, from DataParallel": lambda name: "module." + _older(name).replace(".bn.bn.", ".bn."),
}


@pytest.fixture(scope="module")
def nets() -> dict[str, Supernet]:
    return {name: build_supernet(name, 4) for name in ("ofa_digits", "ofa_resnet50")}


@pytest.mark.parametrize(
    ("space", "spelling", "wrapped"),
    [("ofa_digits", spelling, wrapped) for spelling in SPELLINGS for wrapped in (False, True)]
    # Its stem nests one level deeper and its classifier is elastic; 190 MB, so only the two that matter.
    + [("ofa_resnet50", "plain convolutions", False), ("ofa_resnet50", "plain classifier", False)],
)
def test_spellings(
    nets: dict[str, Supernet], space: str, spelling: str, wrapped: bool, tmp_path: Path
) -> None:
    net = nets[space]
    wanted = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    state = {SPELLINGS[spelling](name): tensor for name, tensor in wanted.items()}
    assert len(state) == len(wanted)
    torch.save({"state_dict": state, "epoch": 3} if wrapped else state, tmp_path / "w.pth")
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(1)
    net.load_checkpoint(tmp_path / "w.pth")
    assert all(torch.equal(tensor, net.state_dict()[name]) for name, tensor in wanted.items())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda s: s.pop("classifier.linear.bias"), r"missing: classifier\.linear\.bias"),
        (lambda s: s.update({"extra.weight": torch.zeros(1)}), r"surplus: extra\.weight"),
        (
            lambda s: s.update({"classifier.linear.bias": torch.zeros(1000)}),
            r"misshapen: classifier\.linear\.bias is 1000, the network has 4.*number of classes",
        ),
        (lambda s: [s.pop(k) for k in list(s) if "blocks.1." in k], "and 15 more"),
    ],
)
def test_damaged_files_are_refused_by_name(damage: Callable, message: str, tmp_path: Path) -> None:
    net = build_supernet("ofa_digits", 4)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    state = {name: tensor + 1 for name, tensor in before.items()}
    damage(state)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(UserError, match=message):
        net.load_checkpoint(tmp_path / "w.pth")
    assert all(torch.equal(tensor, net.state_dict()[name]) for name, tensor in before.items())


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    net = build_supernet("ofa_digits", 4)
    with pytest.raises(UserError, match=r"cannot read the checkpoint .*absent\.pth"):
        net.load_checkpoint(tmp_path / "absent.pth")
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(UserError, match=r"text\.pth is not a checkpoint"):
        net.load_checkpoint(tmp_path / "text.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(UserError, match="holds no state dict"):
        net.load_checkpoint(tmp_path / "list.pth")


class _Dangerous:
    def __reduce__(self) -> tuple:
        return (print, ("code from a checkpoint was run",))


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"state_dict": {"a": _Dangerous()}}, tmp_path / "evil.pth")
    with pytest.raises(UserError, match=r"loaded safely \(tensors only\): it holds something else$"):
        build_supernet("ofa_digits", 4).load_checkpoint(tmp_path / "evil.pth")
    assert "was run" not in capsys.readouterr().out
