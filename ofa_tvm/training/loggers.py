"""Losses and accuracies for other programs: as CSV for spreadsheets, as events for TensorBoard."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ofa_tvm import files
from ofa_tvm.errors import UserError
from ofa_tvm.lines import append_line

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

Record = Mapping[str, Any]
"""A line of `metrics.jsonl`: of an epoch with a loss, of a phase's end with accuracies."""


class Logger(Protocol):
    """Told of a training's records, in their order."""

    def restart(self, records: Sequence[Record]) -> None:
        """What is known of the steps before those that follow."""

    def add(self, record: Record) -> None:
        """One more."""

    def close(self) -> None:
        """Nothing follows."""


def loggers(names: Sequence[str], folder: Path, phase_steps: Sequence[int]) -> list[Logger]:
    """Those of a training's settings.

    Parameters
    ----------
    names
        Of "csv" and "tensorboard".
    folder
        The training's.
    phase_steps
        Steps of each phase: curves go on from one to the next.

    Raises
    ------
    UserError
        If a library is missing; says how to install it.
    """
    makers: dict[str, Callable[[], Logger]] = {
        "csv": lambda: CsvLogger(folder),
        "tensorboard": lambda: TensorBoardLogger(folder, phase_steps),
    }

    return [makers[name]() for name in names]


_EPOCHS = ("phase", "epoch", "step", "loss", "seconds")
_ACCURACIES = ("phase", "subnet", "accuracy")


class CsvLogger:
    """`epochs.csv`: phase, epoch, step, loss, seconds; and `accuracies.csv`: phase, subnet, accuracy."""

    def __init__(self, folder: Path) -> None:
        self._epochs, self._accuracies = folder / "epochs.csv", folder / "accuracies.csv"

    def restart(self, records: Sequence[Record]) -> None:
        for path, header in ((self._epochs, _EPOCHS), (self._accuracies, _ACCURACIES)):
            files.write_atomic(path, _row(header) + "\n")
        for record in records:
            self.add(record)

    def add(self, record: Record) -> None:
        if "loss" in record:
            append_line(self._epochs, _row([record[name] for name in _EPOCHS]))
        for subnet, accuracy in record.get("accuracies", {}).items():
            append_line(self._accuracies, _row([record["phase"], subnet, accuracy]))

    def close(self) -> None:
        """Every line is on disk."""


def _row(cells: Sequence[object]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(cells)
    return text.getvalue()


class TensorBoardLogger:
    """Event files in `tensorboard/`: the loss by epoch, accuracies by phase and subnet.

    Raises
    ------
    UserError
        If TensorBoard's library is missing.
    """

    def __init__(self, folder: Path, phase_steps: Sequence[int]) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UserError(
                "--log tensorboard needs TensorBoard's library: pip install tensorboard"
            ) from None
        self._folder, self._steps, self._make = folder / "tensorboard", phase_steps, SummaryWriter
        self._writer: SummaryWriter | None = None

    def restart(self, records: Sequence[Record]) -> None:
        # What an earlier run wrote of steps that are taken again is hidden by the new file.
        first = max((self._position(record) for record in records), default=-1) + 1
        self._writer = self._make(str(self._folder), purge_step=first)

    def add(self, record: Record) -> None:
        if self._writer is None:
            return
        position = self._position(record)
        if "loss" in record:
            self._writer.add_scalar("loss", record["loss"], position)
        for subnet, accuracy in record.get("accuracies", {}).items():
            self._writer.add_scalar(f"accuracy/{subnet}", accuracy, position)
        self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def _position(self, record: Record) -> int:
        """Steps since the training's start."""
        return sum(self._steps[: record["phase_index"]]) + int(record["step"])
