"""Keeping freed memory for the next step, which is where much of a CPU step's system time goes."""

from __future__ import annotations

import ctypes
import sys
from functools import cache

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


@cache
def keep_freed_memory() -> bool:
    """Have glibc keep what a training step frees instead of handing it back to the kernel.

    Activations are larger than malloc's mmap threshold, so each of them is mapped, cleared page by page and
    unmapped in every step. Holds for the whole process, whose memory stays at its peak; does nothing and
    returns False without glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # musl and the like
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
