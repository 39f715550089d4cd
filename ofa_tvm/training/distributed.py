"""Several processes under torchrun: who computes what, and adding up gradients."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, distributed, nn

from ofa_tvm.errors import UsageError, shown


@dataclass(frozen=True)
class Rank:
    """One of several processes that share some work.

    Attributes
    ----------
    index
        0 is the one that talks.
    processes
        How many there are, on all machines.
    """

    index: int
    processes: int

    @classmethod
    def here(cls) -> Self:
        """By torchrun's variables where they are set, else alone.

        Raises
        ------
        UsageError
            If they are no numbers that fit.
        """
        index, processes = (os.environ.get(name) for name in ("RANK", "WORLD_SIZE"))
        if index is None or processes is None:
            return cls(0, 1)
        if not (index.isdecimal() and processes.isdecimal() and int(index) < int(processes)):
            raise UsageError(
                f"RANK is {shown(index)} of WORLD_SIZE {shown(processes)}; torchrun sets both, or unset them"
            )
        return cls(int(index), int(processes))


ALONE = Rank(0, 1)


def choose_device(name: str) -> torch.device:
    """ "auto" is CUDA where there is one, else the CPU; under torchrun each process has a GPU of its own.

    Raises
    ------
    UsageError
        If the device is unknown or absent.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"unknown device {shown(name)}; use auto, cpu or cuda") from error
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"device {shown(name)} cannot be trained on; use auto, cpu or cuda")
    if device.type == "cpu":
        return device
    if not torch.cuda.is_available():
        raise UsageError("this machine has no CUDA device that torch can use; use device cpu")
    index = int(os.environ.get("LOCAL_RANK", "0")) if device.index is None else device.index
    if index >= torch.cuda.device_count():
        raise UsageError(f"there is no CUDA device {index}; this machine has {torch.cuda.device_count()}")
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


@contextmanager
def process_group(device: torch.device) -> Iterator[tuple[int, int]]:
    """(rank, processes): joins torchrun's group where its variables are set, else (0, 1)."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        yield 0, 1
        return
    ours = not distributed.is_initialized()
    if ours:
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield distributed.get_rank(), distributed.get_world_size()
    finally:
        if ours:
            distributed.destroy_process_group()


def add_up_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by the sum over processes, in one message.

    All processes train the same subnets, so the same parameters have gradients in all of them.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.reshape(-1) for g in gradients])
    distributed.all_reduce(flat)
    for gradient, summed in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(summed.view(gradient.shape))


def add_up(value: float, device: torch.device) -> float:
    """Sum of a number over processes."""
    return float(add_up_values(np.array([value]), device)[0])


def add_up_values(values: npt.NDArray[np.float64], device: torch.device) -> npt.NDArray[np.float64]:
    """Elementwise sum of small arrays over processes."""
    total: Tensor = torch.from_numpy(values).to(device)
    distributed.all_reduce(total)
    summed: npt.NDArray[np.float64] = total.cpu().numpy()
    return summed
