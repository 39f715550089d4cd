"""Which of a target's modules: what names the columns, models, logs and budgets that belong to them alone."""

from __future__ import annotations

from dataclasses import dataclass

from ofa_tvm.number_formats import DType
from ofa_tvm.targets.target import Target, Unit


@dataclass(frozen=True)
class Variant:
    """A target, and the settings of its modules that change what they cost.

    Measurements of two variants are never mixed. What a name leaves out is the default: one thread, float32,
    one image, a real device.

    Attributes
    ----------
    target : str
        The target's name.
    threads : int
        Of a module.
    dtype : str
        Of weights and feature maps.
    batch : int
        Images in one inference.
    emulated : bool
        Whether costs are instruction counts of an emulator, not times.
    """

    target: str
    threads: int = 1
    dtype: DType = "float32"
    batch: int = 1
    emulated: bool = False

    @classmethod
    def of(cls, target: Target) -> Variant:
        """The variant that a target's modules are."""
        return cls(target.name, target.threads, target.dtype, target.batch, target.emulated)

    @property
    def unit(self) -> Unit:
        """Of its costs: "ms", or "Minstr" (millions of guest instructions) if emulated."""
        return "Minstr" if self.emulated else "ms"

    @property
    def name(self) -> str:
        """In a project's file names, as in `latency-x86-2threads-float16.csv`."""
        dtype = "" if self.dtype == "float32" else f"-{self.dtype}"
        batch = "" if self.batch == 1 else f"-b{self.batch}"
        emulated = "-emulated" if self.emulated else ""
        return f"{self.target}{emulated}{self._threads}{dtype}{batch}"

    @property
    def log(self) -> str:
        """Folder of its tuning log, which all dtypes and batches share: they are part of a kernel's key.

        So do all thread counts of an emulated device, where instructions are counted, not time.
        """
        return f"{self.target}-emulated" if self.emulated else f"{self.target}{self._threads}"

    @property
    def series(self) -> str:
        """Heading of its column without the unit. Tables of other thread counts are other files."""
        dtype = "" if self.dtype == "float32" else f"_{self.dtype}"
        batch = "" if self.batch == 1 else f"_b{self.batch}"
        return f"{self.target}{dtype}{batch}"

    @property
    def column(self) -> str:
        """Heading of its column in a latency table, as in `x86_float16_b8_ms`."""
        return f"{self.series}_{self.unit.lower()}"

    def options(self, name: str = "") -> str:
        """What verbs take for it on the command line; `name` is the target's as it was typed."""
        threads = f" --threads {self.threads}" if self.threads > 1 else ""
        dtype = f" --dtype {self.dtype}" if self.dtype != "float32" else ""
        batch = f" --batch {self.batch}" if self.batch > 1 else ""
        return f"--target {name or self.target}{threads}{dtype}{batch}"

    @property
    def _threads(self) -> str:
        return "" if self.threads == 1 else f"-{self.threads}threads"
