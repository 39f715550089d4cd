"""The state of an unfinished training, written so that a kill at any moment loses only the steps since."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ofa_tvm.errors import UserError
from ofa_tvm.progress import SILENT, Progress
from ofa_tvm.supernet.checkpoint import write_checkpoint

KEEP = 2


class CheckpointFolder:
    """Numbered checkpoints, of which the last two are kept: should one be damaged, there is one before it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def paths(self) -> list[Path]:
        """Oldest first."""
        return sorted(self.folder.glob("state-*.pt"))

    def save(self, phase: int, step: int, state: Mapping[str, Any]) -> Path:
        """Write a state atomically under its phase and step, then drop those before the last two.

        Raises
        ------
        UserError
            If it cannot be written, as on a full disk; the states before it are untouched.
        """
        path = self.folder / f"state-{phase:02d}-{step:09d}.pt"
        write_checkpoint(state, path)
        for old in self.paths()[:-KEEP]:
            old.unlink(missing_ok=True)
        return path

    def load_last(self, progress: Progress = SILENT) -> dict[str, Any] | None:
        """The newest state that can be read, or None where there is none.

        Raises
        ------
        UserError
            If there are states and all are damaged.
        """
        paths = self.paths()
        for path in reversed(paths):
            try:
                state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
                progress.say(f"{path} is damaged ({error}); trying the one before it")
                continue
            return state
        if paths:
            raise UserError(f"all checkpoints in {self.folder} are damaged; delete that folder to start anew")
        return None
