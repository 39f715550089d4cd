"""How long each stage of a long run took."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ofa_tvm.files import write_atomic
from ofa_tvm.job import JobProgress
from ofa_tvm.jsonfile import parse_json


class Stages:
    """Seconds by stage, kept in a file so that a resumed run can tell the whole time.

    Parameters
    ----------
    path
        The file; what it holds counts, too.
    job
        What each stage is a phase of.
    """

    def __init__(self, path: Path, job: JobProgress) -> None:
        self._path, self._job = path, job
        self.seconds: dict[str, float] = {}
        if path.is_file():
            try:
                self.seconds = {k: float(v) for k, v in parse_json(path.read_bytes()).items()}
            except (ValueError, AttributeError, TypeError):
                job.say(f"{path} is damaged; times are counted anew")

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the seconds of a block of code; kept whether or not it ends well.

        Raises
        ------
        UserError
            If the file cannot be written.
        """
        # Before the stage: the file also says whose folder this is, should the first one be killed.
        self._save(name, 0.0)
        start = time.monotonic()
        try:
            with self._job.phase(name):
                yield
        finally:
            self._save(name, time.monotonic() - start)

    def _save(self, name: str, seconds: float) -> None:
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds
        write_atomic(self._path, json.dumps(self.seconds))
