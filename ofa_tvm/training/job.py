"""A training's task and its folder, and what comes of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from ofa_tvm.errors import UserError
from ofa_tvm.progress import NEVER, Deadline, Progress
from ofa_tvm.training.config import TrainingConfig
from ofa_tvm.training.data import ImageData


@dataclass(frozen=True)
class PhaseResult:
    """Validation accuracies (0..1) at the end of a phase, by subnet ("ks=min d=max @48")."""

    name: str
    accuracies: dict[str, float]


@dataclass(frozen=True)
class TrainingResult:
    """Where the trained network lies, and how each phase ended.

    Attributes
    ----------
    checkpoint
        The network; of a training whose time was up, as it was then.
    phases
        Of such a training the last one is that in which it was.
    steps_left
        Of such a training; the same call goes on with them.
    """

    checkpoint: Path
    phases: tuple[PhaseResult, ...]
    steps_left: int = 0


@dataclass(frozen=True)
class TrainingJob:
    """What a training is given besides its network: settings, data, place, and its share of the work."""

    config: TrainingConfig
    data: ImageData
    out: Path
    device: torch.device
    seed: int
    rank: int
    world: int
    progress: Progress
    deadline: Deadline = NEVER


@contextmanager
def only_one(out: Path) -> Iterator[None]:
    """Hold a folder's lock.

    Raises
    ------
    UserError
        If another process holds it, or the folder cannot be made.
    """
    lock = FileLock(out / ".lock")
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"another process is training in {out}; wait for it or choose another folder"
        ) from None
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}") from error
    try:
        yield
    finally:
        lock.release()
