"""Whether a machine was held back while something was timed: its clock, its heat, what it says of both."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SLOWER = 0.05  # share by which the reference kernel takes longer from which on a time is marked

_WORTH_SAYING = 0.005

PATTERNS = (
    "sys/class/thermal/thermal_zone*/type",
    "sys/class/thermal/thermal_zone*/temp",
    "sys/class/thermal/cooling_device*/type",
    "sys/class/thermal/cooling_device*/cur_state",
    "sys/devices/system/cpu/cpu*/cpufreq/scaling_cur_freq",
    "sys/devices/system/cpu/cpu*/cpufreq/scaling_max_freq",
    "sys/devices/system/cpu/cpu*/thermal_throttle/core_throttle_count",
    "sys/devices/platform/soc/soc:firmware/get_throttled",
)
"""What Linux tells of it, where it does; paths from the root."""

_OF_CPUS = re.compile(r"cpu|soc|pkg|core|big|little|tsens", re.IGNORECASE)  # of thermal zones
_SLOWS_CPUS = re.compile(r"cpu|processor|cluster|powerclamp", re.IGNORECASE)  # of cooling devices
_RASPBERRY_THROTTLES = (
    0xE  # bits of get_throttled: a capped clock, throttled, at the soft limit of temperature
)

_NUMBER, _NUMBER_OR_NONE = {"type": "number"}, {"type": ["number", "null"]}

CONDITIONS_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        **dict.fromkeys(("slower", "waited_s"), _NUMBER),
        **dict.fromkeys(("temperature_c", "clock_mhz"), _NUMBER_OR_NONE),
        "throttled": {"type": "boolean"},
    },
}


@dataclass(frozen=True)
class Conditions:
    """How the machine was while something was timed.

    Attributes
    ----------
    slower
        Share by which a reference kernel took longer than its fastest on this machine so far.
    temperature_c
        Of the hottest of the CPU's sensors; None where none can be read.
    clock_mhz
        Mean of the CPUs in use; None where it cannot be read.
    throttled
        Whether the system said that it holds the CPUs back.
    waited_s
        Seconds that were waited in all, for it to cool down.
    """

    slower: float = 0.0
    temperature_c: float | None = None
    clock_mhz: float | None = None
    throttled: bool = False
    waited_s: float = 0.0

    @property
    def slow(self) -> bool:
        """Whether times taken then are to be compared with care."""
        return self.throttled or self.slower > SLOWER

    @property
    def sentence(self) -> str:
        """What to know of times taken then; "" if there is nothing."""
        if not self.slow:
            return ""
        heat = "" if self.temperature_c is None else f" at {self.temperature_c:.0f} °C"
        what = f"the CPU was throttled{heat}" if self.throttled else "the CPU ran more slowly than before"
        share = f"a reference kernel took {self.slower:.0%} longer than at its best"
        by = f", {share}" if self.slower > _WORTH_SAYING else ""
        waited = f", after waiting {self.waited_s:.0f} s for it to cool down" if self.waited_s >= 1 else ""
        return what + by + waited

    def to_json(self) -> dict[str, Any]:
        """Plain dict, JSON serialisable, with no more digits than mean something."""
        digits = {"slower": 4, "temperature_c": 1, "clock_mhz": 0, "waited_s": 1}
        content = dataclasses.asdict(self)
        return {
            name: value if value is None or isinstance(value, bool) else round(value, digits[name])
            for name, value in content.items()
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Conditions:
        """Inverse of `to_json`; keys it does not know are ignored."""
        names = {item.name for item in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in content.items() if name in names})


@dataclass(frozen=True)
class SystemLook:
    """What the system's files say at one moment; None and empty where they say nothing.

    Attributes
    ----------
    temperature_c, clock_mhz
        As in `Conditions`.
    limit_mhz
        What the clock may rise to at most, mean of the CPUs in use.
    cooling
        Whether something that slows CPUs down is at work.
    events
        How often cores have been throttled since the system started.
    """

    temperature_c: float | None = None
    clock_mhz: float | None = None
    limit_mhz: float | None = None
    cooling: bool = False
    events: int = 0

    @property
    def blank(self) -> bool:
        """Whether nothing could be read."""
        return self == SystemLook()

    @classmethod
    def of(cls, files: Mapping[str, str], cpus: Collection[int] = ()) -> SystemLook:
        """Read what files say.

        Parameters
        ----------
        files
            Contents by path, of those that match `PATTERNS`; what makes no sense is passed over.
        cpus
            The CPUs in use; all where they are not known.
        """
        kinds = {path.rpartition("/")[0]: text for path, text in files.items() if path.endswith("/type")}
        zones = {
            folder: _number(files.get(f"{folder}/temp")) for folder in kinds if "/thermal_zone" in folder
        }
        sane = {folder: value / 1e3 for folder, value in zones.items() if value and 0 < value < 150e3}
        of_cpus = [value for folder, value in sane.items() if _OF_CPUS.search(kinds[folder])]
        cooling = [
            folder
            for folder, kind in kinds.items()
            if "/cooling_device" in folder and _SLOWS_CPUS.search(kind)
        ]
        states = [_number(files.get(f"{folder}/cur_state")) or 0 for folder in cooling]
        board = _number(files.get("sys/devices/platform/soc/soc:firmware/get_throttled"), 16) or 0
        events = [_number(text) or 0 for path, text in files.items() if path.endswith("core_throttle_count")]
        return cls(
            temperature_c=max(of_cpus or sane.values(), default=None),
            clock_mhz=_mean_mhz(files, "scaling_cur_freq", cpus),
            limit_mhz=_mean_mhz(files, "scaling_max_freq", cpus),
            cooling=any(state > 0 for state in states) or bool(int(board) & _RASPBERRY_THROTTLES),
            events=int(sum(events)),
        )


def system_files(root: Path = Path("/")) -> dict[str, str]:
    """This machine's files that match `PATTERNS`: path below `root` and first line."""
    found = {}
    for pattern in PATTERNS:
        for path in root.glob(pattern):
            try:
                text = path.read_text(errors="replace")
            except OSError:  # a sensor may be there and answer with an error
                continue
            found[str(path.relative_to(root))] = text.partition("\n")[0]
    return found


SystemReader = Callable[[], Mapping[str, str]]


def _number(text: str | None, base: int = 10) -> int | None:
    try:
        return None if text is None else int(text.strip(), base)
    except ValueError:
        return None


def _mean_mhz(files: Mapping[str, str], name: str, cpus: Collection[int]) -> float | None:
    found = {}
    for path, text in files.items():
        if path.endswith(f"/cpufreq/{name}") and (match := re.search(r"/cpu(\d+)/", path)):
            value = _number(text)
            if value is not None and value > 0:
                found[int(match[1])] = value / 1e3
    values = [value for cpu, value in found.items() if cpu in cpus] or list(found.values())
    return sum(values) / len(values) if values else None
