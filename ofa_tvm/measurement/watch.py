"""Watching a machine while it times: a reference kernel between samples, and its own word on its heat."""

from __future__ import annotations

import hashlib
import statistics
import time
from collections.abc import Callable, Collection, Mapping
from typing import TypeVar

from ofa_tvm.measurement.conditions import Conditions, SystemLook, SystemReader, system_files

T = TypeVar("T")

WAIT_S = 60.0  # for a machine to cool down, before it is taken as it is
_PAUSE_S = 1.0
_LOOK_S = 0.5  # between looks at the system while something is timed
_WHILE_COOL = 3  # tries to sample while the machine is not throttled
_HELD_BACK = 0.99  # of the highest limit of the clock that was seen
_BLOCK = bytes(1 << 16)


def hashing_s() -> float:
    """Seconds of a fixed amount of hashing, which depends on nothing but the clock; of a few, the fastest."""
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        hashlib.sha256(_BLOCK).digest()
        best = min(best, time.perf_counter() - start)
    return best


class Watch:
    """Says how a machine was during each pass of timing, and waits while it is throttled.

    Waiting has a limit, and where it was in vain it is not tried again before the machine was seen cool: one
    that is always hot is taken as it is, and its times are marked.

    Parameters
    ----------
    pace_s
        Runs the reference kernel and returns its seconds.
    read
        The system's files (`conditions.PATTERNS`), by path.
    cpus
        The CPUs in use; all where they are not known.
    wait_s, pause_s
        Longest wait for it to cool down, and how often it is looked at meanwhile.
    """

    def __init__(
        self,
        pace_s: Callable[[], float],
        read: SystemReader,
        *,
        cpus: Collection[int] = (),
        wait_s: float = WAIT_S,
        pause_s: float = _PAUSE_S,
    ) -> None:
        self._pace_s, self._read, self._cpus = pace_s, read, cpus
        self._wait_s, self._pause_s = wait_s, pause_s
        self._best_s = float("inf")
        self._highest_mhz = 0.0
        self._in_vain = False
        self._paces: list[float] = []
        self._before = SystemLook()
        self._waited_s = 0.0
        self._hot = False
        self._looked = 0.0

    @property
    def hopeless(self) -> bool:
        """Whether the machine stayed hot for as long as it is waited for."""
        return self._in_vain

    def start(self) -> None:
        """Before all passes of some subjects: what was waited counts from here."""
        self._waited_s = 0.0

    def begin(self, alive: Callable[[], None]) -> None:
        """Before a pass: waits while the system says that it is throttled; `alive` is called meanwhile."""
        self._paces = []
        self._before = self._look()
        if not self._throttled(self._before):
            self._in_vain = False
        elif not self._in_vain:
            start = time.monotonic()
            while self._throttled(self._before) and time.monotonic() - start < self._wait_s:
                time.sleep(self._pause_s)
                alive()
                self._before = self._look()
            self._waited_s += time.monotonic() - start
            self._in_vain = self._throttled(self._before)
        self._hot = self._throttled(self._before)

    def while_cool(
        self, sample: Callable[[], T], alive: Callable[[], None], stays_hot: Callable[[], None]
    ) -> tuple[T, bool]:
        """What `sample` gave on a machine that was not throttled meanwhile, unless it stays so.

        Parameters
        ----------
        sample
            Times something; called again where it was throttled.
        alive
            Called while it is waited for.
        stays_hot
            Called once when it was waited for in vain.

        Returns
        -------
        samples
            The last ones.
        throttled
            Whether it was throttled while they were taken.
        """
        self.start()
        for attempt in range(1, _WHILE_COOL + 1):
            known = self.hopeless
            self.begin(alive)
            if self.hopeless and not known:
                stays_hot()
            samples = sample()
            found = self.end()
            throttled = found is not None and found.throttled
            if not throttled or self.hopeless or attempt == _WHILE_COOL:
                break
        return samples, throttled

    def tick(self) -> None:
        """Between samples: run the reference kernel, and look at the system now and then."""
        self._paces.append(self._pace_s())
        self._best_s = min(self._best_s, self._paces[-1])
        if time.monotonic() - self._looked > _LOOK_S:
            self._hot = self._throttled(self._look()) or self._hot

    def end(self) -> Conditions | None:
        """After a pass: how the machine was; None where nothing can be read and nothing was slow."""
        after = self._look()
        slower = statistics.median(self._paces) / self._best_s - 1 if self._paces else 0.0
        throttled = self._hot or self._throttled(after) or after.events > self._before.events
        found = Conditions(slower, after.temperature_c, after.clock_mhz, throttled, self._waited_s)
        return None if after.blank and not found.slow else found

    def _look(self) -> SystemLook:
        look = SystemLook.of(self._read(), self._cpus)
        self._looked = time.monotonic()
        self._highest_mhz = max(self._highest_mhz, look.limit_mhz or 0.0)
        return look

    def _throttled(self, look: SystemLook) -> bool:
        # A limit that a user has set is there from the first look on.
        lowered = look.limit_mhz is not None and look.limit_mhz < _HELD_BACK * self._highest_mhz
        return look.cooling or lowered


def local_watch(
    cpus: Collection[int] = (), read: SystemReader = system_files, **settings: float
) -> Watch | None:
    """A watch of this machine for many short samples: only the system is asked, and that twice a second.

    None where the system says nothing, so that nothing is spent on it.
    """
    if SystemLook.of(read()).blank:
        return None
    asked, files = float("-inf"), dict[str, str]()

    def recent() -> Mapping[str, str]:
        nonlocal asked, files
        if time.monotonic() - asked > _LOOK_S:
            files, asked = dict(read()), time.monotonic()
        return files

    return Watch(lambda: 0.0, recent, cpus=cpus, **settings)
