"""Weights in every spelling of the official code and in others' wrappers; what is damaged is refused."""

from __future__ import annotations

import argparse
import math
import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ofa_tvm import UserError, build_supernet
from ofa_tvm.supernet import Supernet
from ofa_tvm.supernet.checkpoint import n_classes, read_checkpoint, write_checkpoint


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
    "DataParallel twice": lambda name: f"module.module.{name}",
    "compiled": lambda name: f"_orig_mod.{name}",
    "compiled, then DataParallel": lambda name: f"module._orig_mod.{name}",
    "compiled in parts": lambda name: name.replace(".conv.", "._orig_mod.conv."),
    "an attribute of another module": lambda name: f"model.net.{name}",
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
    "wrap",
    [
        lambda state: {"model": state},
        lambda state: {"model": {"state_dict": state}, "epoch": 3},
        lambda state: {"net": state, "acc": 0.9, "arch": "resnet50"},
        lambda state: {"model_state_dict": state, "optimizer_state_dict": {"state": {}}},
        lambda state: {"state_dict_ema": {f"module.{k}": v for k, v in state.items()}, "arch": "ofa"},
        lambda state: {"model": state, "args": argparse.Namespace(lr=0.1)},
        lambda state: {"model_ema": {"n_averaged": torch.tensor(5), **state}},
        # Averaged weights count where there are both.
        lambda state: {"state_dict": {k: v + 1 for k, v in state.items()}, "state_dict_ema": state},
        lambda state: {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")},
    ],
)
def test_files_of_other_trainings(nets: dict[str, Supernet], wrap: Callable, tmp_path: Path) -> None:
    net = nets["ofa_digits"]
    wanted = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    torch.save(wrap(wanted), tmp_path / "w.pth")
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(1)
    net.load_checkpoint(tmp_path / "w.pth")
    assert n_classes(tmp_path / "w.pth") == 4
    assert all(torch.equal(tensor, net.state_dict()[name]) for name, tensor in wanted.items())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e300, 1j])
@pytest.mark.parametrize("name", ["classifier.linear.linear.bias", "first_conv.bn.running_var"])
def test_weights_that_are_no_finite_numbers_are_refused(
    nets: dict[str, Supernet], name: str, value: complex, tmp_path: Path
) -> None:
    net = nets["ofa_digits"]
    before = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    name = next(key for key in before if key.startswith(name.split(".")[0]) and key.endswith(name[-4:]))
    wide = before[name].to(torch.complex128 if isinstance(value, complex) else torch.float64)
    wide[1] = value
    torch.save({**before, name: wide}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=rf"not finite numbers \({re.escape(name)}\)"):
        net.load_checkpoint(tmp_path / "w.pth")
    assert all(torch.equal(tensor, net.state_dict()[key]) for key, tensor in before.items())


def test_no_flipped_bit_and_no_cut_goes_unnoticed(tmp_path: Path) -> None:
    """At every byte of a file: it is refused, or, where the bit says nothing, the tensors are right."""
    rng, path = random.Random(0), tmp_path / "w.pt"
    content = {"state_dict": {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2)}, "epoch": 3}

    def reads_right(data: bytes) -> bool:
        path.write_bytes(data)
        try:
            state, extra = read_checkpoint(path)
        except UserError as error:
            assert len(str(error)) < 400
            return False
        assert state.keys() == {"a", "b"} and extra == {"epoch": 3}
        assert all(torch.equal(tensor, content["state_dict"][name]) for name, tensor in state.items())
        return True

    # What torch writes has padding, which carries nothing; what is sealed has none but the seal's own name.
    for write, step, harmless in ((write_checkpoint, 1, 15), (torch.save, 7, 1500 // 7)):
        write(content, path)
        whole = path.read_bytes()
        bits = [(position, 1 << rng.randrange(8)) for position in range(0, len(whole), step)]
        flipped = [whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1 :] for at, bit in bits]
        assert sum(map(reads_right, flipped)) <= harmless
        assert not any(reads_right(whole[:cut]) for cut in range(0, len(whole) - 100, 7))
        assert reads_right(whole)


def test_the_checksum_is_no_others_business(tmp_path: Path) -> None:
    """Any reader of torch files reads a sealed one, and files without checksums of any kind are read here."""
    state = {"a": torch.ones(3)}
    write_checkpoint({"state_dict": state}, tmp_path / "own.pt")
    assert torch.equal(torch.load(tmp_path / "own.pt", weights_only=True)["state_dict"]["a"], state["a"])
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(state, tmp_path / "unchecked.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    for name in ("old.pt", "unchecked.pt"):
        assert torch.equal(read_checkpoint(tmp_path / name)[0]["a"], state["a"])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda s: s.pop("classifier.linear.bias"), r"missing: classifier\.linear\.bias"),
        (lambda s: s.update({"extra.weight": torch.zeros(1)}), r"surplus: extra\.weight"),
        (
            lambda s: s.update({"classifier.linear.bias": torch.zeros(1000)}),
            r"misshapen: classifier\.linear\.bias is 1000, the network has 4.*number of classes",
        ),
        (lambda s: [s.pop(k) for k in list(s) if "blocks.1." in k], "and 12 more"),
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
