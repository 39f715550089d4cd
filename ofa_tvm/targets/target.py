"""The typed form of a target descriptor."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from ofa_tvm.errors import UsageError, UserError
from ofa_tvm.number_formats import NEEDS, DType, described, supported
from ofa_tvm.process import installed_command
from ofa_tvm.targets.kinds import KINDS, Kind
from ofa_tvm.targets.machine import X86_LEVELS, Machine, needed_flags
from ofa_tvm.targets.schema import MOST_IMAGES, MOST_THREADS
from ofa_tvm.targets.tvm_target import cpu_features, make_tvm_target

if TYPE_CHECKING:
    from tvm.target import Target as TvmTarget

Where = Literal["local", "rpc", "emulator"]
Unit = Literal["ms", "Minstr"]


@dataclass(frozen=True)
class Link:
    """How objects become a shared library.

    `compilers` are command lines tried in order, the first that is installed links; `install` is the command
    that brings one. `zig` is also found as the Python package `ziglang`.
    """

    compilers: tuple[str, ...]
    install: str

    def find(self) -> tuple[str, ...]:
        """Command of the first installed compiler, ready to be followed by its arguments.

        Raises
        ------
        UserError
            If none is installed; the sentence says what to install.
        """
        if command := installed_command(self.compilers):
            return command
        names = ", ".join(self.compilers)
        none = f"{names} is not" if len(self.compilers) == 1 else f"none of {names} is"
        raise UserError(f"no linker: {none} installed; {self.install}")


@dataclass(frozen=True)
class Run:
    """Where a compiled module runs: in a process of this machine, over TVM's RPC, or in an emulator.

    `tracker` is `host:port` and `key` the device's key on it (`where: rpc`); `emulator` is the command and
    `emulator_cpu` the instruction set that it enforces (`where: emulator`); `install` says how to get either.
    `cpus` are the cores that the server of a phone's folder keeps to: "big" (the fastest kind, as with ""),
    "little", "all", or numbers such as "4-7". `wait_s` is how many seconds work waits for
    its only device to come back; 0 for the minute that is usual.
    """

    where: Where = "local"
    tracker: str = ""
    key: str = ""
    emulator: str = ""
    emulator_cpu: str = ""
    install: str = ""
    cpus: str = ""
    wait_s: float = 0.0


@dataclass(frozen=True)
class MeasureSettings:
    """The timing protocol's settings.

    `threads` that the module may use (1: single-thread latency); `unit` of the cost, milliseconds or millions
    of guest instructions; `repeats` timed samples; each sample averages over calls that fill `sample_ms`.
    """

    threads: int = 1
    unit: Unit = "ms"
    repeats: int = 20
    sample_ms: float = 2.0


@dataclass(frozen=True)
class Hardware:
    """What is known of the device; None is unknown. Peak and bandwidth are of the whole device, fp32.

    `simd_bits` is the width of one fused multiply-add unit and `fma_units` how many a core has.
    """

    device: str = ""
    cores: int | None = None
    clock_ghz: float | None = None
    simd_bits: int | None = None
    fma_units: int | None = None
    l1d_kib: float | None = None
    l2_kib: float | None = None
    l3_kib: float | None = None
    ram_gib: float | None = None
    bandwidth_gb_s: float | None = None
    peak_gflops: float | None = None
    sms: int | None = None
    shared_kib: float | None = None


@dataclass(frozen=True)
class Target:
    """One target; see `targets/README.md` for the YAML file that it comes from.

    Attributes
    ----------
    tvm, host
        TVM target dict and, for GPU kinds, that of the host code.
    features
        LLVM features that must be in force for `tvm`; `tvm_target` checks them, and a machine that lacks them
        cannot run the target.
    compatible
        Names of targets whose tuning logs serve this one, most specific first.
    dtype
        Of weights and feature maps; inputs and outputs of a module keep the model's.
    batch
        Images in one call of its modules; models of one's own have it where their first size is dynamic.
    probed
        True if the descriptor was filled from this machine.
    source
        The file that it was read from, "" for a probed one.
    """

    name: str
    kind: Kind
    summary: str
    tvm: Mapping[str, Any] = field(hash=False)
    link: Link
    host: Mapping[str, Any] | None = field(default=None, hash=False)
    run: Run = Run()
    measure: MeasureSettings = MeasureSettings()
    hardware: Hardware = Hardware()
    features: tuple[str, ...] = ()
    compatible: tuple[str, ...] = ()
    dtype: DType = "float32"
    batch: int = 1
    probed: bool = False
    source: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "tvm", MappingProxyType(dict(self.tvm)))
        if self.host is not None:
            object.__setattr__(self, "host", MappingProxyType(dict(self.host)))

    def __reduce__(self) -> tuple[Any, ...]:
        # Mapping proxies do not pickle; worker pools send targets.
        return _rebuild, (self.to_json(),)

    @property
    def threads(self) -> int:
        """Threads that a module for this target uses."""
        return self.measure.threads

    @property
    def unit(self) -> Unit:
        """Unit of a cost on this target: "ms", or "Minstr" (millions of instructions) if emulated."""
        return self.measure.unit

    @property
    def emulated(self) -> bool:
        """Whether it runs in an emulator, so that its costs are instruction counts."""
        return self.run.where == "emulator"

    @property
    def mcpu(self) -> str:
        """LLVM's name of the CPU that the code (on a GPU: the host code) is for; "" if left to LLVM."""
        return str((self.tvm if self.tvm["kind"] == "llvm" else self.host or {}).get("mcpu", ""))

    def tvm_dict(self) -> dict[str, Any]:
        """TVM target dict; CPU code is told the thread count, because schedules depend on it."""
        settings = dict(self.tvm)
        if settings["kind"] == "llvm":
            settings["num-cores"] = self.threads
        if self.host is not None:
            settings["host"] = dict(self.host)
        return settings

    def with_threads(self, threads: int) -> Target:
        """The same target with modules that use `threads` threads.

        Raises
        ------
        UsageError
            If `threads` is below 1 or above 1024, or this machine is the device and has fewer of them.
        """
        if not 1 <= threads <= MOST_THREADS:
            raise UsageError(f"threads must be from 1 to {MOST_THREADS}, not {threads}")
        available = len(os.sched_getaffinity(0))
        if self.run.where == "local" and self.kind == "x86" and threads > available:
            raise UsageError(f"{threads} threads asked for, but this process may use only {available}")
        return dataclasses.replace(self, measure=dataclasses.replace(self.measure, threads=threads))

    def on_tracker(self, tracker: str, key: str) -> Target:
        """The same target on the devices that a tracker (`host:port`) has under a key, measured in ms."""
        return dataclasses.replace(
            self,
            run=Run("rpc", tracker, key, cpus=self.run.cpus, wait_s=self.run.wait_s),
            measure=dataclasses.replace(self.measure, unit="ms"),
        )

    def with_dtype(self, dtype: DType) -> Target:
        """The same target with modules that compute in `dtype`."""
        return dataclasses.replace(self, dtype=dtype)

    def with_batch(self, batch: int) -> Target:
        """The same target with modules that take `batch` images a call.

        Raises
        ------
        UsageError
            If `batch` is below 1 or above 65536.
        """
        if not 1 <= batch <= MOST_IMAGES:
            raise UsageError(f"a batch is 1 to {MOST_IMAGES} images, not {batch}")
        return dataclasses.replace(self, batch=batch)

    def runs_on(self, machine: Machine) -> str:
        """Why `machine` cannot run this target's code in a local process, "" if it can."""
        if self.run.where != "local":
            return f"it runs by {self.run.where}"
        family = KINDS[self.kind].family
        if not family:
            return ""
        if machine.arch != family:
            return f"this machine is {machine.arch}, not {family}"
        missing = [feature for feature in self.features if not machine.has(feature)]
        missing = missing or sorted(flag for flag in needed_flags(self.mcpu) if not machine.has(flag))
        return f"this machine lacks {', '.join(missing)}" if missing else ""

    @property
    def dtypes(self) -> dict[str, str]:
        """The number formats that it has, and how each is computed ("" if that is not known).

        Raises
        ------
        UserError
            If LLVM does not know the CPU, as in `tvm_target`.
        """
        made = self.tvm_target()
        return supported(cpu_features(made) if made.kind.name == "llvm" else None)

    def check_dtype(self) -> None:
        """Refuse a number format that it has not.

        Raises
        ------
        UserError
            The sentence says which targets have it, and which formats this one has.
        """
        formats = self.dtypes
        if self.dtype not in formats:
            needs = NEEDS.get(self.dtype, "is for other targets")
            raise UserError(
                f"target {self.name}: {self.dtype} {needs}; here choose another --dtype or leave it out: "
                f"{described(formats)}"
            )

    def tvm_target(self) -> TvmTarget:
        """TVM's own object for this target, with its CPU name and features really in force.

        TVM takes an unknown `mcpu` with a message and compiles for a generic CPU, so it is asked. A probed
        target whose CPU this LLVM does not know falls back to its instruction-set level.

        Raises
        ------
        UserError
            If LLVM does not know the CPU or a required feature is off.
        """
        fallbacks = [name for name in self.compatible if name in X86_LEVELS] if self.probed else []
        return make_tvm_target(self.name, self.tvm_dict(), self.features, fallbacks, self.source)

    def to_json(self) -> dict[str, Any]:
        """Plain dict of every field (JSON and YAML serialisable); `from_json` reads it back."""
        content = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        content["tvm"] = dict(self.tvm)
        content["host"] = None if self.host is None else dict(self.host)
        for part in ("link", "run", "measure", "hardware"):
            content[part] = dataclasses.asdict(content[part])
        content["link"]["compilers"] = list(self.link.compilers)
        content["features"], content["compatible"] = list(self.features), list(self.compatible)
        return content

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Target:
        """Inverse of `to_json`."""
        known = dict(content)
        link = dict(known.pop("link"))
        return cls(
            link=Link(compilers=tuple(link["compilers"]), install=link["install"]),
            run=Run(**known.pop("run", {})),
            measure=MeasureSettings(**known.pop("measure", {})),
            hardware=Hardware(**known.pop("hardware", {})),
            features=tuple(known.pop("features", ())),
            compatible=tuple(known.pop("compatible", ())),
            **known,
        )

    def to_descriptor(self) -> dict[str, Any]:
        """The descriptor as its YAML file would hold it: without defaults, unknowns and provenance."""
        content = self.to_json()
        del content["probed"], content["source"], content["batch"]
        content["run"] = {"where": self.run.where, **content["run"]}
        content["hardware"] = {key: value for key, value in content["hardware"].items() if value is not None}
        for key in ("run", "hardware"):
            content[key] = {name: value for name, value in content[key].items() if value not in ("", 0.0)}
        if self.dtype == "float32":
            del content["dtype"]
        return {key: value for key, value in content.items() if value not in (None, [], {})}


def _rebuild(content: Mapping[str, Any]) -> Target:
    return Target.from_json(content)
