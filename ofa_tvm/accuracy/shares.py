"""Which of several processes evaluates which subnet: each its share first, then what others have not done.

Processes do not talk to each other. What is done is in the cache that they share; what is being done is
claimed by a lock that the system takes back when its process ends, however it ends. So one that dies loses
the subnet that it was at, which another one takes.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from ofa_tvm.accuracy.cache import AccuracyCache
from ofa_tvm.errors import UserError
from ofa_tvm.progress import NEVER, Deadline
from ofa_tvm.spaces import Arch
from ofa_tvm.training.distributed import Rank

_POLL_S = 0.2
# So long, or so many evaluations long, without news of the last subnets, and rank 0 evaluates them as well.
_PATIENCE_S = 60.0
_PATIENCE = 10


class Claims:
    """Claims of subnets, one byte range a subnet of a file that stays empty; a context manager.

    POSIX record locks: unlike files of their own they need no cleaning up after a kill, and a network file
    system has them between machines.

    Parameters
    ----------
    path
        Of the file; None grants every claim.

    Raises
    ------
    UserError
        If the file cannot be made.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._descriptor = -1

    def __enter__(self) -> Self:
        if self._path is not None:
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            except OSError as error:
                raise UserError(f"cannot write {self._path}: {error.strerror}") from error
        return self

    def __exit__(self, *_: object) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)  # lets go of all

    def take(self, arch: Arch) -> bool:
        """Whether no other process has claimed the subnet; if so, it is this one's until `release`."""
        if self._descriptor < 0:
            return True
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _offset(arch))
        except OSError as error:
            return error.errno not in (errno.EAGAIN, errno.EACCES)  # else a file system without locks
        return True

    def release(self, arch: Arch) -> None:
        """Let others have it."""
        if self._descriptor >= 0:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, _offset(arch))


def claims_file(cache: str | Path) -> Path:
    """Where claims of what is not in a cache yet are made."""
    # Not the cache itself: who appends to it would wait for those who have claims, or lose its own.
    path = Path(cache)
    return path.with_name(f".{path.name}.claims")


def _offset(arch: Arch) -> int:
    return int.from_bytes(hashlib.sha256(arch.to_json().encode()).digest()[:7])


def share(
    archs: Sequence[Arch],
    cache: AccuracyCache,
    evaluate: Callable[[Arch], None],
    claims: Claims,
    rank: Rank,
    tell: Callable[[], None],
    deadline: Deadline = NEVER,
) -> None:
    """Return when all subnets are in the cache, each evaluated by one of the processes that share them.

    Once the deadline is over none is begun but this process's first: called again and again, it gets on.

    Parameters
    ----------
    archs
        Distinct, the same for all processes.
    cache
        What is done.
    evaluate
        Puts one into the cache.
    claims
        What is being done, of all processes.
    rank
        Which of them this is.
    tell
        Called when something was done, here or elsewhere.
    deadline
        Ends it earlier.
    """
    own = set(archs[rank.index :: rank.processes])
    # From the end of the others' shares, where they come last.
    order = [*archs[rank.index :: rank.processes], *(a for a in reversed(archs) if a not in own)]
    slowest, news, count = 0.0, time.monotonic(), len(cache.known)
    while left := [arch for arch in order if arch not in cache.known]:
        for arch in left:
            if deadline.is_over and slowest:
                return
            cache.refresh()
            if arch in cache.known or not claims.take(arch):
                continue
            try:
                cache.refresh()  # it may have been finished before it was claimed
                if arch not in cache.known:
                    start = time.monotonic()
                    evaluate(arch)
                    slowest = max(slowest, time.monotonic() - start)
            finally:
                claims.release(arch)
            tell()
        tell()
        if deadline.is_over:
            return
        if len(cache.known) > count:
            news, count = time.monotonic(), len(cache.known)
        elif time.monotonic() - news > max(_PATIENCE_S, _PATIENCE * slowest):
            # A machine that hangs keeps its claims. The value is the same, whoever computes it.
            if rank.index:
                return
            evaluate(next(arch for arch in left if arch not in cache.known))
        elif any(arch not in cache.known for arch in left):
            time.sleep(_POLL_S)
