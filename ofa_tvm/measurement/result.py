"""What a measurement says, and under which conditions it was taken."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from ofa_tvm.measurement.conditions import CONDITIONS_SCHEMA, Conditions
from ofa_tvm.measurement.protocol import Timing
from ofa_tvm.targets.target import Unit

_TEXT = {"type": "string"}
_COUNT = {"type": "integer", "minimum": 0}
_NUMBER_OR_NONE = {"type": ["number", "null"]}

# Of what `Measurement.to_json` writes; required are the keys that no version left out.
MEASUREMENT_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": [
        *("median_ms", "mad_ms", "repeats", "samples_ms", "calls", "passes", "noisy"),
        *("threads", "cpus", "target", "machine", "date"),
    ],
    "properties": {
        **dict.fromkeys(("median_ms", "mad_ms", "cold_ms"), _NUMBER_OR_NONE),
        **dict.fromkeys(("repeats", "calls", "passes", "threads"), _COUNT),
        **dict.fromkeys(("target", "machine", "date", "device"), _TEXT),
        "samples_ms": {"type": "array", "items": {"type": "number"}},
        "cpus": {"type": "array", "items": _COUNT},
        "noisy": {"type": "boolean"},
        "unit": {"enum": ["ms", "Minstr"]},
        "instructions": {"type": ["integer", "null"]},
        "conditions": CONDITIONS_SCHEMA,
    },
}


@dataclass(frozen=True)
class Measurement:
    """The cost of one call of a module.

    Attributes
    ----------
    median_ms, mad_ms
        Of the samples; None on an emulated device, which has no latency.
    samples_ms
        One entry a sample, each the mean of `calls` calls.
    instructions
        Guest instructions of one call on an emulated device, else None.
    cold_ms
        Median of single calls after the caches were emptied, as after other work; None where not taken.
    device
        Of a tracker's devices the one that measured, as host:port; empty on this machine.
    unit
        "ms", or "Minstr" (millions of guest instructions).
    threads, cpus
        Threads of the module and the CPUs that they were pinned to.
    noisy
        The samples scattered even in the best of `passes` passes: compare with care.
    target, machine, date
        Target's name, processor's name, and UTC time in ISO format.
    conditions
        Heat, clock and pace of the machine meanwhile; None where nothing is known and nothing was slow.
    """

    median_ms: float | None
    mad_ms: float | None
    repeats: int
    samples_ms: tuple[float, ...]
    calls: int
    passes: int
    noisy: bool
    threads: int
    cpus: tuple[int, ...]
    target: str
    machine: str
    date: str
    unit: Unit = "ms"
    instructions: int | None = None
    cold_ms: float | None = None
    device: str = ""
    conditions: Conditions | None = None

    @property
    def cost(self) -> float:
        """The figure in `unit`."""
        if self.median_ms is not None:
            return self.median_ms
        return (self.instructions or 0) / 1e6

    @property
    def slow(self) -> str:
        """Why the machine was slower than it can be meanwhile, as a sentence's part; "" if it was not."""
        return "" if self.conditions is None else self.conditions.sentence

    def percentile_ms(self, q: float) -> float:
        """Percentile `q` (0..100) of the samples; an emulated device has none."""
        return float(np.percentile(self.samples_ms, q))

    def to_json(self) -> dict[str, Any]:
        """Plain dict, JSON serialisable; `from_json` reads it back."""
        content = dataclasses.asdict(self)
        content["samples_ms"] = [round(sample, 7) for sample in self.samples_ms]
        content["cpus"] = list(self.cpus)
        if not self.device:
            del content["device"]
        if self.conditions is None:
            del content["conditions"]
        else:
            content["conditions"] = self.conditions.to_json()
        return content

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Measurement:
        """Inverse of `to_json`, of what `MEASUREMENT_SCHEMA` allows; keys it does not know are ignored."""
        known = {item.name: content[item.name] for item in dataclasses.fields(cls) if item.name in content}
        known |= {"samples_ms": tuple(content["samples_ms"]), "cpus": tuple(content["cpus"])}
        if known.get("conditions") is not None:
            known["conditions"] = Conditions.from_json(content["conditions"])
        return cls(**known)

    @classmethod
    def of(
        cls,
        timing: Timing,
        target: str,
        threads: int,
        cpus: tuple[int, ...],
        machine: str,
        *,
        cold_ms: float | None = None,
        device: str = "",
    ) -> Measurement:
        """A timing taken just now on `machine`."""
        return cls(
            median_ms=timing.median_ms,
            mad_ms=timing.mad_ms,
            repeats=len(timing.samples_ms),
            samples_ms=timing.samples_ms,
            calls=timing.calls,
            passes=timing.passes,
            noisy=timing.noisy,
            threads=threads,
            cpus=cpus,
            target=target,
            machine=machine,
            date=_now(),
            cold_ms=cold_ms,
            device=device,
            conditions=timing.conditions,
        )

    @classmethod
    def emulated(
        cls, instructions: int, target: str, machine: str, *, noisy: bool = False, device: str = ""
    ) -> Measurement:
        """An instruction count; `noisy` says that repetitions did not agree."""
        return cls(
            median_ms=None,
            mad_ms=None,
            repeats=3,
            samples_ms=(),
            calls=1,
            passes=1,
            noisy=noisy,
            threads=1,
            cpus=(),
            target=target,
            machine=machine,
            date=_now(),
            unit="Minstr",
            instructions=instructions,
            device=device,
        )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
