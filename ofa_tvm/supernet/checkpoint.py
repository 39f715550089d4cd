"""Reading weights: own checkpoints, and those of the official Once-for-All code in its old and new names."""

from __future__ import annotations

import hashlib
import pickle
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ofa_tvm.errors import UserError
from ofa_tvm.files import replacing

_SHOWN = 5


def read_checkpoint(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """State dict of a file, and what else its wrapper holds.

    Raises
    ------
    UserError
        If the file is absent, is no checkpoint, or needs arbitrary code to load.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"cannot read the checkpoint {path}: {error.strerror or error}") from error
    except Exception as error:  # torch raises many types for files that are not its own
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if isinstance(error, pickle.UnpicklingError):
            reason = "it holds something else"  # torch's text recommends loading it unsafely
        raise UserError(
            f"{path} is not a checkpoint that can be loaded safely (tensors only): {reason}"
        ) from error
    extra: dict[str, Any] = {}
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        extra = {key: value for key, value in content.items() if key != "state_dict"}
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise UserError(f"{path} holds no state dict (a mapping from names to tensors)")
    return dict(content), extra


def n_classes(path: str | Path) -> int:
    """Classes of the network in a checkpoint, whichever version of the official code named it.

    Raises
    ------
    UserError
        If the file cannot be read or holds no classifier.
    """
    for name, tensor in read_checkpoint(path)[0].items():
        if re.search(r"\bclassifier\.(linear\.)*weight$", name) and tensor.ndim == 2:
            return len(tensor)
    raise UserError(f"the weights in {path} have no classifier; they are no supernet's")


def write_checkpoint(content: Mapping[str, Any], path: str | Path) -> None:
    """Write tensors and plain values, whole or not at all.

    Raises
    ------
    UserError
        If the file cannot be written, as on a full disk.
    """
    with replacing(path) as temporary:
        try:
            torch.save(dict(content), temporary)
        except RuntimeError as error:  # torch's writer reports a full disk so
            if "DataLoader worker" in str(error):  # which a signal may raise anywhere, here too
                raise
            raise OSError(None, _disk_trouble(temporary.parent, error)) from error


def _disk_trouble(folder: Path, error: RuntimeError) -> str:
    free = shutil.disk_usage(folder).free
    return "the disk is full" if free < 2**20 else f"the disk or a file size limit is full ({error})"


def weights_hash(net: nn.Module) -> str:
    """Hex digest of a network's parameters; running statistics do not count, each evaluation has its own."""
    digest = hashlib.sha256()
    for name, parameter in net.named_parameters():
        digest.update(f"{name}{tuple(parameter.shape)}{parameter.dtype}".encode())
        digest.update(parameter.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _canonical(name: str) -> str:
    """A name in which the spellings of all versions of the official code agree."""
    name = name.removeprefix("module.").replace(".mobile_inverted_conv.", ".conv.")
    return re.sub(r"\b(bn|conv|linear)(\.\1)+\b", r"\1", name)


def load_weights(module: nn.Module, state: Mapping[str, Tensor], source: str | Path) -> None:
    """Copy a state dict into a module, whichever version of the official code named it.

    Raises
    ------
    UserError
        If tensors are missing, surplus or of another shape; the message names them, nothing is changed.
    """
    own = module.state_dict()
    by_canonical = {_canonical(name): name for name in own}
    renamed: dict[str, Tensor] = {}
    surplus: list[str] = []
    for name, tensor in state.items():
        target = name if name in own else by_canonical.get(_canonical(name))
        if target is None or target in renamed:
            surplus.append(name)
        else:
            renamed[target] = tensor
    missing = [name for name in own if name not in renamed]
    misshapen = [
        f"{name} is {_shape(tensor)}, the network has {_shape(own[name])}"
        for name, tensor in renamed.items()
        if tensor.shape != own[name].shape
    ]
    problems = [
        f"{title}: {', '.join(names[:_SHOWN])}"
        + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
        for title, names in (("missing", missing), ("surplus", surplus), ("misshapen", misshapen))
        if names
    ]
    if problems:
        raise UserError(
            f"the weights in {source} do not fit this network ({'; '.join(problems)}); "
            "check the search space and the number of classes"
        )
    module.load_state_dict(renamed)


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a scalar"
