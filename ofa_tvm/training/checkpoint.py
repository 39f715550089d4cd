"""The state of an unfinished training, written so that a kill at any moment loses only the steps since."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ofa_tvm.errors import UserError
from ofa_tvm.progress import SILENT, Progress
from ofa_tvm.supernet.checkpoint import read_tensors, write_checkpoint

KEEP = 2


class CheckpointFolder:
    """Numbered checkpoints, of which the last two are kept: should one be damaged, there is one before it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def paths(self) -> list[Path]:
        """Oldest first."""
        return sorted(self.folder.glob("state-*.pt"))

    def position(self) -> tuple[int, int]:
        """Phase and step of the newest one, by its name; (0, 0) if there is none."""
        for path in reversed(self.paths()):
            numbers = path.stem.split("-")[1:]
            if len(numbers) == 2 and all(number.isdecimal() for number in numbers):
                return int(numbers[0]), int(numbers[1])
        return 0, 0

    def save(self, phase: int, step: int, state: Mapping[str, Any]) -> Path:
        """Write a state atomically under its phase and step, then drop all but the last two up to there.

        Raises
        ------
        UserError
            If it cannot be written, as on a full disk; the states before it are untouched.
        """
        path = self.folder / f"state-{phase:02d}-{step:09d}.pt"
        write_checkpoint(state, path)
        past = [other for other in self.paths() if other <= path]
        later = [other for other in self.paths() if other > path]  # could not be read, or this were not made
        for old in (*past[:-KEEP], *later):
            old.unlink(missing_ok=True)
        return path

    def load_last(self, keys: Collection[str] = (), progress: Progress = SILENT) -> dict[str, Any] | None:
        """The newest state that can be read and has these keys, or None where there is none.

        Raises
        ------
        UserError
            If there are states and all are damaged.
        """
        paths = self.paths()
        for path in reversed(paths):
            try:
                state = read_tensors(path)
            except UserError as error:
                progress.say(f"{error}; trying the state before it")
                continue
            if not isinstance(state, dict) or not set(keys) <= state.keys():
                progress.say(f"{path} holds no state of a training; trying the one before it")
                continue
            return state
        if paths:
            raise UserError(f"all checkpoints in {self.folder} are damaged; delete that folder to start anew")
        return None
