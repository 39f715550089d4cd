"""The lines that a training leaves of itself: a loss each epoch, accuracies each phase."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ofa_tvm import files
from ofa_tvm.jsonfile import parse_json
from ofa_tvm.lines import append_line


@dataclass(frozen=True)
class Metrics:
    """`metrics.jsonl`; of several processes one is `active` and writes."""

    path: Path
    active: bool

    def append(self, record: dict[str, Any]) -> None:
        """Add a line."""
        if self.active:
            append_line(self.path, json.dumps(record))

    def keep(self, phase: int, step: int) -> None:
        """Drop the lines of steps that will be taken again."""
        if not self.active or not self.path.exists():
            return
        kept = []
        for line in self.path.read_text(errors="replace").split("\n"):
            try:
                record = parse_json(line, nan=True)
                if (record["phase_index"], record["step"]) <= (phase, step):
                    kept.append(line + "\n")
            except (ValueError, KeyError, TypeError):  # cut short, or no line of ours
                continue
        files.write_atomic(self.path, "".join(kept))
