"""Checkpoints: own ones with a checksum, the official Once-for-All code's, and those of other trainings."""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import pickle
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ofa_tvm.errors import UserError
from ofa_tvm.files import require_file, write_atomic

_SHOWN = 5
_SEAL = b"ofa-tvm sha256 "
_SEAL_BYTES = len(_SEAL) + 2 * hashlib.sha256().digest_size
# Where trainings keep their weights. Averaged ones come first: they are what such a training validates.
_WRAPPERS = (
    "state_dict_ema", "model_ema", "ema_state_dict", "ema", "state_dict", "model_state_dict", "model_state",
    "model", "net", "network", "weights", "params",
)  # fmt: skip
# What DataParallel, torch.compile, FSDP and activation checkpointing put into names.
_WRAPPED = re.compile(r"(?<![^.])(module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_COUNTERS = ("n_averaged",)  # of torch.optim.swa_utils.AveragedModel: no weights


def read_tensors(path: str | os.PathLike[str]) -> Any:
    """What a torch file holds, tensors and plain values, if it is as it was written.

    Own files carry a SHA-256. Of others, the checksums of the zip format are compared where they have any
    (files that torch wrote before 1.6 have none).

    Raises
    ------
    UserError
        If the file is absent, damaged, no torch file, or needs arbitrary code to load.
    """
    require_file(path)
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"cannot read the checkpoint {path}: {error.strerror or error}") from error
    if not _is_whole(data):
        raise UserError(f"{path} is damaged: its contents do not match its checksum; copy it anew")
    try:
        # Settings that other trainings keep beside the weights; it is a class without behaviour.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for files that are not its own
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        if isinstance(error, pickle.UnpicklingError):
            reason = "it holds something else"  # torch's text recommends loading it unsafely
        raise UserError(
            f"{path} is not a checkpoint that can be loaded safely (tensors only): {reason}"
        ) from error


def _is_whole(data: bytes) -> bool:
    sealed, seal = data[:-_SEAL_BYTES], data[-_SEAL_BYTES:]
    if seal.startswith(_SEAL):
        return seal == _SEAL + hashlib.sha256(sealed).hexdigest().encode()
    if not data.startswith(b"PK\x03\x04"):
        return True
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if not any(member.CRC for member in archive.infolist()):
                return True  # torch can be told not to compute them
            return archive.testzip() is None
    except Exception:  # zipfile raises many types for broken headers
        return False


def read_checkpoint(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """State dict of a file, and what else its wrapper holds.

    Raises
    ------
    UserError
        If the file is absent, damaged, is no checkpoint, or needs arbitrary code to load.
    """
    content = read_tensors(path)
    extra: dict[str, Any] = {}
    while isinstance(content, Mapping):
        wrapper = next((key for key in _WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if wrapper is None:
            break
        extra |= {key: value for key, value in content.items() if key not in _WRAPPERS}
        content = content[wrapper]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise UserError(f"{path} holds no state dict (a mapping from names to tensors)")
    return {str(name): tensor for name, tensor in content.items() if name not in _COUNTERS}, extra


def n_classes(path: str | Path) -> int:
    """Classes of the network in a checkpoint, whichever version of the official code named it.

    Raises
    ------
    UserError
        If the file cannot be read or holds no classifier.
    """
    if (found := classes_in(read_checkpoint(path)[0])) is None:
        raise UserError(f"the weights in {path} have no classifier; they are no supernet's")
    return found


def classes_in(state: Mapping[str, Tensor]) -> int | None:
    """Classes of the network that a state dict is of; None where it has no classifier."""
    for name, tensor in state.items():
        if re.search(r"\bclassifier\.(linear\.)*weight$", _WRAPPED.sub("", name)) and tensor.ndim == 2:
            return len(tensor)
    return None


def write_checkpoint(content: Mapping[str, Any], path: str | Path) -> None:
    """Write tensors and plain values with a checksum, whole or not at all.

    The checksum is the zip file's comment (`ofa-tvm sha256 ` and the digest of all bytes before it), which
    other readers of torch files pass over.

    Raises
    ------
    UserError
        If the file cannot be written, as on a full disk.
    """
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    sealed = buffer.getvalue()[:-2] + _SEAL_BYTES.to_bytes(2, "little")  # the comment's length ends the file
    write_atomic(path, sealed + _SEAL + hashlib.sha256(sealed).hexdigest().encode())


def weights_hash(net: nn.Module) -> str:
    """Hex digest of a network's parameters; running statistics do not count, each evaluation has its own."""
    digest = hashlib.sha256()
    for name, parameter in net.named_parameters():
        digest.update(f"{name}{tuple(parameter.shape)}{parameter.dtype}".encode())
        digest.update(parameter.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _canonical(name: str) -> str:
    """A name in which the spellings of all versions of the official code agree."""
    name = _WRAPPED.sub("", name).replace(".mobile_inverted_conv.", ".conv.")
    return re.sub(r"\b(bn|conv|linear)(\.\1)+\b", r"\1", name)


def _common_prefix(names: list[str]) -> str:
    """What every name begins with, up to a dot, as where the network was an attribute of another module."""
    first, last = min(names).split("."), max(names).split(".")
    depth = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), 0)
    return "".join(f"{part}." for part in first[:depth])


@dataclass(frozen=True)
class Match:
    """How the tensors of a file go with a network's.

    Attributes
    ----------
    renamed
        Those of the file by the network's names.
    missing, surplus, misshapen
        Names that only the network has, only the file has, and what is said of those of other shapes.
    """

    renamed: Mapping[str, Tensor]
    missing: tuple[str, ...]
    surplus: tuple[str, ...]
    misshapen: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether the network can take the file's tensors."""
        return not (self.missing or self.surplus or self.misshapen)


def matched(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Match:
    """Find a network's tensors in a state dict, whichever version of the official code named it.

    Names may have the prefixes of DataParallel, `torch.compile` and the like, or one that all share. Counts
    of batches (`num_batches_tracked`), which nothing depends on, may be missing.
    """
    by_canonical = {_canonical(name): name for name in own}
    plain = {name: _canonical(name) for name in state}
    if plain and not set(plain.values()) & set(by_canonical):
        prefix = len(_common_prefix(list(plain.values())))
        plain = {name: canonical[prefix:] for name, canonical in plain.items()}
    renamed: dict[str, Tensor] = {}
    surplus: list[str] = []
    for name, tensor in state.items():
        target = name if name in own else by_canonical.get(plain[name])
        if target is None or target in renamed:
            surplus.append(name)
        else:
            renamed[target] = tensor
    for name in own:
        if name.endswith("num_batches_tracked"):
            renamed.setdefault(name, own[name])
    missing = [name for name in own if name not in renamed]
    misshapen = [
        f"{name} is {_shape(tensor)}, the network has {_shape(own[name])}"
        for name, tensor in renamed.items()
        if tensor.shape != own[name].shape
    ]
    return Match(renamed, tuple(missing), tuple(surplus), tuple(misshapen))


def load_weights(module: nn.Module, state: Mapping[str, Tensor], source: str | Path) -> None:
    """Copy a state dict into a module; see `matched` for the names it may have.

    Raises
    ------
    UserError
        If tensors are missing, surplus or of another shape, or hold values that are no finite real numbers;
        the message names them, nothing is changed.
    """
    own = module.state_dict()
    match = matched(own, state)
    problems = [
        f"{title}: {_listed(names)}"
        for title, names in (
            ("missing", match.missing),
            ("surplus", match.surplus),
            ("misshapen", match.misshapen),
        )
        if names
    ]
    if problems:
        raise UserError(
            f"the weights in {source} do not fit this network ({'; '.join(problems)}); "
            "check the search space and the number of classes"
        )
    unfit = [name for name, tensor in match.renamed.items() if not _is_finite(tensor, own[name].dtype)]
    if unfit:
        raise UserError(
            f"the weights in {source} are not finite numbers ({_listed(unfit)}): that training diverged, or "
            "the file is damaged; take an earlier checkpoint"
        )
    module.load_state_dict(dict(match.renamed))


def _is_finite(tensor: Tensor, dtype: torch.dtype) -> bool:
    """Whether all values are real numbers that a type can hold."""
    if tensor.is_complex() or tensor.is_quantized or tensor.layout != torch.strided:
        return False
    return bool(torch.isfinite(tensor.to(dtype)).all())


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a scalar"
