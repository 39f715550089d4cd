"""What `manifest.yaml` holds, as types."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from ofa_tvm.deploy.manifest_schema import FORMAT, MANIFEST_SCHEMA
from ofa_tvm.errors import UserError
from ofa_tvm.images import Preprocessing
from ofa_tvm.measurement import Measurement
from ofa_tvm.number_formats import DType
from ofa_tvm.runtime import TensorSpec
from ofa_tvm.spaces import Arch
from ofa_tvm.targets import Target, Variant
from ofa_tvm.targets.target import Unit
from ofa_tvm.yamlfile import read_yaml


@dataclass(frozen=True)
class TargetEntry:
    """What the module was compiled for: the target's name and kind, TVM's settings, threads."""

    name: str
    kind: str
    tvm: Mapping[str, Any]
    threads: int

    @classmethod
    def of(cls, target: Target) -> TargetEntry:
        """What a manifest says of a target."""
        return cls(target.name, target.kind, dict(target.tvm), target.threads)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> TargetEntry:
        """From the file's table, or from what a module says of itself."""
        known = {"name": "x86", "kind": "x86", "tvm": {}, "threads": 1, **content}
        return cls(**_known(cls, known))


@dataclass(frozen=True)
class LatencyEntry:
    """Costs of one inference in `unit`, "ms" or "Minstr", None where not known; `how` is the measurement."""

    budget: float | None
    predicted: float | None
    measured: float | None
    unit: Unit
    how: Measurement | None = None

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> LatencyEntry:
        """From the file's table."""
        known = {"budget": None, "predicted": None, "measured": None, "unit": "ms", **content}
        how = None if "how" not in content else Measurement.from_json(content["how"])
        return cls(**known | {"how": how})


@dataclass(frozen=True)
class AccuracyEntry:
    """Accuracies, 0..1; None where not known.

    Attributes
    ----------
    predicted, measured
        By the search's predictor, and through the module.
    data
        What it was measured on.
    float32, change
        Of a module in another number format: the same network's on the same images in float32, and the
        difference to it. Of a module that was not run: the first alone.
    """

    predicted: float | None
    measured: float | None
    data: str = ""
    float32: float | None = None
    change: float | None = None

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> AccuracyEntry:
        """From the file's table."""
        return cls(**{"predicted": None, "measured": None, **content})


@dataclass(frozen=True)
class CandidateEntry:
    """A subnet that a search measured; accuracies are shares, costs and noise in the latency's unit."""

    arch: Arch
    round: int
    predicted_accuracy: float
    validation_accuracy: float | None
    predicted: float
    measured: float
    noise: float
    within: bool

    @property
    def accuracy(self) -> float:
        """On the validation split if it was measured, else as predicted."""
        return self.predicted_accuracy if self.validation_accuracy is None else self.validation_accuracy

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> CandidateEntry:
        """From the file's table.

        Raises
        ------
        UserError
            If its architecture is none.
        """
        optional: dict[str, Any] = {"validation_accuracy": None, "noise": 0.0}
        return cls(**_known(cls, {**optional, **content, "arch": Arch.from_dict(content["arch"])}))


@dataclass(frozen=True)
class SearchEntry:
    """How the subnet was found: rounds, and every candidate in order (round 0: measured before)."""

    rounds: int
    candidates: tuple[CandidateEntry, ...]

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> SearchEntry:
        """From the file's table."""
        candidates = tuple(map(CandidateEntry.from_dict, content.get("candidates", ())))
        return cls(content.get("rounds", 0), candidates)


@dataclass(frozen=True)
class KernelEntry:
    """One of the module's distinct kernels.

    Attributes
    ----------
    name
        Text of its signature.
    calls
        In one inference.
    schedule
        Where its schedule is from: see `ofa_tvm.compiler.KernelUse`.
    cost
        Of one call by the tuning log, in the latency's unit.
    inside_us
        Time of all its calls inside the network.
    """

    name: str
    calls: int
    schedule: str
    cost: float | None
    inside_us: float | None = None

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> KernelEntry:
        """From the file's table."""
        return cls(**_known(cls, {"calls": 1, "schedule": "", "cost": None, **content}))


@dataclass(frozen=True)
class CheckEntry:
    """Number format, share of kernel time that is tuned, and differences to what it was checked against.

    The relative differences are shares of the output's largest value, in all and by kind of input.
    """

    dtype: DType
    against: str | None = None
    max_abs_difference: float | None = None
    max_rel_difference: float | None = None
    max_rel_difference_by_input: Mapping[str, float] = field(default_factory=dict)
    tuned_fraction: float | None = None

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> CheckEntry:
        """From the file's table."""
        return cls(**_known(cls, {"dtype": "float32", **content}))


@dataclass(frozen=True)
class QuantizationEntry:
    """How a network in int8 came by its integers.

    Attributes
    ----------
    trained
        Whether its weights were trained for it; else they were rounded after training.
    calibration
        What the ranges of its feature maps were estimated on.
    maps
        Scale and zero point of each feature map, by the layer that makes it.
    """

    trained: bool
    calibration: str
    maps: Mapping[str, tuple[float, int]]

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> QuantizationEntry:
        """From the file's table."""
        maps = {name: (float(scale), int(zero)) for name, (scale, zero) in content["maps"].items()}
        return cls(content["trained"], content["calibration"], maps)


@dataclass(frozen=True)
class Manifest:
    """All that an artefact says of itself; what the file says nothing of has its default.

    Attributes
    ----------
    target
        What it is for.
    space, arch
        The subnet.
    latency, accuracy
        What it costs and how good it is.
    search
        How it was found.
    kernels
        What it consists of, in order of execution.
    inputs, outputs, preprocessing, labels
        How to call it.
    check
        Whether it computes what it should.
    quantization
        Of a network in int8.
    created, versions, sha256
        UTC in ISO format, packages that made it, and every file's checksum.
    """

    target: TargetEntry
    space: str | None = None
    arch: Arch | None = None
    latency: LatencyEntry = LatencyEntry(None, None, None, "ms")
    accuracy: AccuracyEntry = AccuracyEntry(None, None)
    search: SearchEntry = SearchEntry(0, ())
    kernels: tuple[KernelEntry, ...] = ()
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    preprocessing: Preprocessing | None = None
    labels: tuple[str, ...] = ()
    check: CheckEntry = CheckEntry("float32")
    quantization: QuantizationEntry | None = None
    created: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    sha256: Mapping[str, str] = field(default_factory=dict)

    @property
    def variant(self) -> Variant:
        """The target's modules that this one can be compared with."""
        emulated = self.latency.unit == "Minstr"
        batch = self.inputs[0].shape[0] if self.space and self.inputs else 1
        return Variant(self.target.name, self.target.threads, self.check.dtype, batch, emulated)

    def to_dict(self) -> dict[str, Any]:
        """Plain values in the file's order, without what equals its default; `from_dict` reads them back."""
        content = {"format": FORMAT, **_plain(self)}
        return {name: content[name] for name in MANIFEST_SCHEMA["properties"] if name in content}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Manifest:
        """Inverse of `to_dict`, of what the schema allows.

        Raises
        ------
        UserError
            If an architecture or the preprocessing is none.
        """
        return cls(**{name: _READERS.get(name, _same)(content[name]) for name in _known(cls, content)})

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Read a `manifest.yaml`.

        Raises
        ------
        UserError
            If it cannot be read or breaks the schema, with line and key.
        """
        content = read_yaml(path, MANIFEST_SCHEMA)
        try:
            return cls.from_dict(content)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error


def _tensors(content: Sequence[Mapping[str, Any]]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(item["name"], tuple(item["shape"]), item["dtype"]) for item in content)


def _same(value: Any) -> Any:
    return value


_READERS: Mapping[str, Callable[[Any], Any]] = {
    "target": TargetEntry.from_dict,
    "arch": Arch.from_dict,
    "latency": LatencyEntry.from_dict,
    "accuracy": AccuracyEntry.from_dict,
    "search": SearchEntry.from_dict,
    "kernels": lambda content: tuple(map(KernelEntry.from_dict, content)),
    "inputs": _tensors,
    "outputs": _tensors,
    "preprocessing": Preprocessing.from_dict,
    "labels": tuple,
    "check": CheckEntry.from_dict,
    "quantization": QuantizationEntry.from_dict,
}


def _known(entry: type, content: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a table that an entry has fields for: another version may have written more."""
    names = {item.name for item in fields(entry)}
    return {name: value for name, value in content.items() if name in names}


def _plain(value: Any) -> Any:
    match value:
        case Measurement():
            return value.to_json()
        case Arch() | Preprocessing():
            return value.to_dict()
        case Mapping():
            return {name: _plain(item) for name, item in value.items()}
        case tuple() | list():
            return [_plain(item) for item in value]
        case _ if is_dataclass(value):
            items = ((item, getattr(value, item.name)) for item in fields(value))
            return {item.name: _plain(found) for item, found in items if found != _default(item)}
        case _:
            return value


def _default(item: Field[Any]) -> Any:
    return item.default if item.default_factory is MISSING else item.default_factory()
