"""The lines that a training leaves of itself: a loss each epoch, accuracies each phase."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ofa_tvm import files
from ofa_tvm.jsonfile import parse_json
from ofa_tvm.lines import append_line
from ofa_tvm.training.loggers import Logger


@dataclass(frozen=True)
class Metrics:
    """`metrics.jsonl`; of several processes one is `active` and writes.

    Attributes
    ----------
    loggers
        Told of the same.
    """

    path: Path
    active: bool
    loggers: Sequence[Logger] = ()

    def append(self, record: dict[str, Any]) -> None:
        """Add a line."""
        if self.active:
            append_line(self.path, json.dumps(record))
            for logger in self.loggers:
                logger.add(record)

    def keep(self, phase: int, step: int) -> None:
        """Drop the lines of steps that will be taken again."""
        if not self.active:
            return
        kept: list[dict[str, Any]] = []
        lines = self.path.read_text(errors="replace").split("\n") if self.path.exists() else []
        for line in lines:
            try:
                record = parse_json(line, nan=True)
                if (record["phase_index"], record["step"]) <= (phase, step):
                    kept.append(record)
            except (ValueError, KeyError, TypeError):  # cut short, or no line of ours
                continue
        if lines:
            files.write_atomic(self.path, "".join(json.dumps(record) + "\n" for record in kept))
        for logger in self.loggers:
            logger.restart(kept)

    def close(self) -> None:
        """Nothing follows."""
        for logger in self.loggers:
            logger.close()
