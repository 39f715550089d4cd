"""One line of a tuning log: a kernel, a schedule, and the times that were measured."""

from __future__ import annotations

import json
import statistics
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from ofa_tvm.errors import shown
from ofa_tvm.jsonfile import parse_json
from ofa_tvm.logs.signature import Signature

FORMAT = "ofa-tvm tuning log"
VERSION = 2
_READ = (1, VERSION)  # version 1 told a kernel's operators and shapes in a text, `name`, alone


@dataclass(frozen=True)
class Header:
    """First line of a log: for what and on what it was measured.

    Parameters
    ----------
    target
        Name of the target (for a probed one, LLVM's name of the CPU).
    tvm_target
        TVM's target dict, whose thread count the times hold for.
    machine
        Description of the device.
    versions
        Of tvm and ofa-tvm.
    date
        ISO date on which the log was begun.
    version
        Of the records' form.
    """

    target: str
    tvm_target: Mapping[str, Any]
    machine: str
    versions: Mapping[str, str]
    date: str
    version: int = VERSION

    def to_line(self) -> str:
        """JSON line."""
        return json.dumps({"format": FORMAT, **asdict(self)}, sort_keys=True)

    @classmethod
    def from_line(cls, line: str) -> Header:
        """Inverse of `to_line`.

        Raises
        ------
        ValueError
            If the line is no header of this format and version.
        """
        content = _loads(line)
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise ValueError(f"its first line is not the header of an {FORMAT}")
        if content.get("version") not in _READ:
            raise ValueError(
                f"it has version {shown(content.get('version'), 20)}; this ofa-tvm reads version "
                f"{' and '.join(map(str, _READ))}"
            )
        try:
            fields = {name: content[name] for name in cls.__dataclass_fields__}
        except KeyError as error:
            raise ValueError(f"its header lacks {error}") from error
        for name, value in fields.items():
            wanted = dict if name in ("tvm_target", "versions") else int if name == "version" else str
            if not isinstance(value, wanted):
                raise ValueError(f"its header's {name} cannot be {shown(value, 40)}")
        return cls(**fields)


@dataclass(frozen=True)
class Record:
    """One measured (or failed) schedule of one kernel.

    Parameters
    ----------
    kernel
        Identity of the kernel (`ofa_tvm.compiler.kernels.Kernel.key`).
    signature
        What the kernel computes.
    trace
        MetaSchedule's trace in its JSON form, which rebuilds the schedule.
    times_us
        Samples in microseconds a call; empty if the trial failed or the device is emulated.
    error
        Why it failed, else "".
    instructions
        Guest instructions of one call on an emulated device, which has no time; else None.
    throttled
        Whether the device was too hot to run as fast as it can while this was timed.
    """

    kernel: str
    signature: Signature
    trace: Any
    times_us: tuple[float, ...]
    error: str = ""
    instructions: int | None = None
    throttled: bool = False

    @property
    def name(self) -> str:
        """What the kernel computes, for people."""
        return str(self.signature)

    @property
    def succeeded(self) -> bool:
        """Whether the schedule was measured."""
        return bool(self.times_us) or self.instructions is not None

    @cached_property
    def time_us(self) -> float:
        """Median of the samples; infinite for a failed trial and for an emulated one."""
        return statistics.median(self.times_us) if self.times_us else float("inf")

    @property
    def cost(self) -> float:
        """What one call costs in the unit of its target: ms, or Minstr where it was emulated."""
        return self.time_us / 1e3 if self.instructions is None else self.instructions / 1e6

    def to_line(self) -> str:
        """JSON line."""
        content = asdict(self) | {"times_us": [round(t, 4) for t in self.times_us]}
        content["signature"] = self.signature.to_json()
        if not self.error:
            del content["error"]
        if self.instructions is None:
            del content["instructions"]
        if not self.throttled:
            del content["throttled"]
        body = json.dumps(content, separators=(",", ":"))[:-1]
        return body + _seal(body)

    @classmethod
    def from_line(cls, line: str) -> Record:
        """Inverse of `to_line`.

        Raises
        ------
        ValueError
            If the line is not a record: cut short, edited, or with impossible times.
        """
        content = _loads(line)
        if not isinstance(content, dict) or not {"kernel", "trace", "times_us"} <= content.keys():
            raise ValueError("it lacks the fields of a record")
        text = line.strip()
        if text[-_SEAL_LENGTH:] != _seal(text[:-_SEAL_LENGTH]):
            raise ValueError("its checksum is wrong: the line was edited or damaged")
        times = content["times_us"]
        plausible = isinstance(times, list) and all(type(t) in (int, float) and t > 0 for t in times)
        count = content.get("instructions")
        plausible &= count is None or (type(count) is int and count > 0 and not times)
        texts = (content["kernel"], content.get("error", ""))
        if not plausible or not all(isinstance(text, str) for text in texts):
            raise ValueError("its times or its kernel are not valid")
        return cls(
            kernel=content["kernel"],
            signature=_signature(content),
            trace=content["trace"],
            times_us=tuple(float(t) for t in times),
            error=content.get("error", ""),
            instructions=count,
            throttled=content.get("throttled") is True,
        )


def _signature(content: Mapping[str, Any]) -> Signature:
    if "signature" in content:
        return Signature.from_json(content["signature"])
    return Signature.parse(str(content.get("name", "")))


def _loads(line: str) -> Any:
    try:
        return parse_json(line)
    except ValueError as error:
        raise ValueError(f"it is not whole JSON: cut short or edited ({error})") from error


def _seal(body: str) -> str:
    """End of a line: a checksum of all before it, since an edited schedule can crash TVM when replayed."""
    return f',"crc":"{zlib.crc32(body.encode()):08x}"}}'


_SEAL_LENGTH = len(_seal(""))
