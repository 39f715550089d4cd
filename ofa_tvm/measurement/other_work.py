"""How much of a machine's time other programs took while something was timed (Linux: /proc/stat)."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# Of a line's columns those in which a CPU works; 3 and 4 are idle, and guests count as user already.
_WORK = (0, 1, 2, 5, 6, 7)
_TICKS = 4  # by which a count of a CPU's ticks may be off

BUSY = 0.05  # share of the CPUs in use from which on other work is worth a note


@dataclass(frozen=True)
class OtherWork:
    """What other programs did meanwhile.

    Attributes
    ----------
    here
        Share of the time of the CPUs in use that went to others, 0..1.
    machine
        How many CPUs they kept busy on average, on the whole machine.
    exact_to
        By how much `here` may be off, as the system counts in ticks.
    """

    here: float
    machine: float
    exact_to: float

    @property
    def busy(self) -> bool:
        """Whether they took so much that times are to be compared with care."""
        return self.here > max(BUSY, self.exact_to)


def working_s(proc: Path = Path("/proc")) -> dict[int, float]:
    """Seconds that each CPU has worked since the system started; empty where the system does not say."""
    try:
        text = (proc / "stat").read_text()
    except OSError:
        return {}
    found = {}
    for number, columns in re.findall(r"^cpu(\d+) (.*)$", text, re.MULTILINE):
        ticks = [int(column) for column in columns.split()]
        found[int(number)] = sum(ticks[index] for index in _WORK if index < len(ticks)) * _tick_s()
    return found


def other_work(
    before: Mapping[int, float], after: Mapping[int, float], own_s: float, cpus: Sequence[int], seconds: float
) -> OtherWork | None:
    """What of the work between two looks at `working_s` was not one's own.

    Parameters
    ----------
    before, after
        The two looks.
    own_s
        Processor time in between of those who were pinned to `cpus`.
    cpus
        Their CPUs.
    seconds
        Between the looks.

    Returns
    -------
    OtherWork or None
        None where the system does not say.
    """
    worked = {cpu: after[cpu] - before[cpu] for cpu in after if cpu in before}
    # A sandbox may show the file with zeros in it.
    if not set(cpus) <= worked.keys() or not sum(worked.values()):
        return None
    time_here = seconds * len(cpus)
    return OtherWork(
        here=min(1.0, max(0.0, sum(worked[cpu] for cpu in cpus) - own_s) / time_here),
        machine=max(0.0, sum(worked.values()) - own_s) / seconds,
        exact_to=_TICKS * _tick_s() / seconds,
    )


def _tick_s() -> float:
    return 1 / os.sysconf("SC_CLK_TCK")
