"""Decoding processes that were killed, said in a sentence."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from ofa_tvm.errors import UserError

_TOLD_S = 2.0  # by when the signal of a process's end has come


@contextmanager
def dead_workers_explained() -> Iterator[None]:
    """Around what reads batches of a `DataLoader`.

    Raises
    ------
    UserError
        If one of its processes was killed.
    """
    try:
        yield
    except (RuntimeError, ConnectionError, EOFError) as error:
        if not _worker_died(error):
            raise
        raise UserError(
            "a decoding process was killed, perhaps for want of memory or of room in /dev/shm; the same "
            "command goes on, with fewer --workers (0 needs neither)"
        ) from error


def _worker_died(error: Exception) -> bool:
    """Torch's handler of the signal raises RuntimeError, wherever the program is; a pipe may break before."""
    if isinstance(error, RuntimeError):
        return "DataLoader worker" in str(error)
    try:
        time.sleep(_TOLD_S)
    except RuntimeError as told:
        return "DataLoader worker" in str(told)
    return False
