"""What takes long to make is made once a run, by whichever of its workers (pytest-xdist) asks first."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
from filelock import FileLock

T = TypeVar("T")


class Once:
    """Folders that all workers of a run see.

    Parameters
    ----------
    root
        Where to make them.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def make(self, name: str, make: Callable[[Path], T]) -> T:
        """What `make` returned for the first worker, given an empty folder; the others wait for it."""
        folder, result = self._root / name, self._root / f"{name}.pickle"
        with FileLock(self._root / f"{name}.lock"):
            if not result.exists():
                folder.mkdir(exist_ok=True)
                result.write_bytes(pickle.dumps(make(folder)))
            return pickle.loads(result.read_bytes())


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    base = tmp_path_factory.getbasetemp()  # a worker's lies in the run's
    root = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "once"
    root.mkdir(exist_ok=True)
    return Once(root)
