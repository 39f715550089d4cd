"""A search space: a frozen description of what is elastic, and what follows from it.

Populations are int64 arrays of gene indices, shape (n, n_genes): a row per architecture, a column per choice,
in the order d, ks, e, w, r. Everything that search and predictors do works on whole populations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from ofa_tvm.errors import UsageError
from ofa_tvm.spaces.arch import Arch
from ofa_tvm.spaces.network import Activation, Layer, NetworkSpec, network_layers
from ofa_tvm.spaces.subnets import count_batch, network_of


@dataclass(frozen=True)
class Stage:
    """Blocks that share a resolution.

    Attributes
    ----------
    widths
        output channels to choose from (one where the width is not elastic)
    blocks
        the most blocks it can have
    depths
        values of its entry in `Arch.d`; the stage runs `base_blocks + d` blocks
    stride
        of its first block
    """

    widths: tuple[int, ...]
    stride: int
    blocks: int
    depths: tuple[int, ...]
    activation: Activation = "relu"
    se: bool = False
    base_blocks: int = 0


@dataclass(frozen=True)
class Space:
    """A search space: what there is to choose, and what is fixed.

    Attributes
    ----------
    name
        What it is asked for by.
    family
        "mbconv": a static first block, then stages of inverted bottlenecks; "resnet": stages of bottlenecks.
    stem_widths
        Choices for the stem's convolution and for what follows it (MBConv: the static first block; ResNet:
        the stem's last convolution).
    stem_activation, first_activation
        Of the stem, and of the static first block.
    stages
        Of elastic blocks, in order.
    kernels
        Sizes of the depthwise convolutions, ascending; empty for ResNet.
    expands
        Ratios of the middle channels, ascending: to the block's input (MBConv) or output (ResNet).
    final_width
        Channels of a 1x1 convolution before the pooling; 0 for none.
    feature_width
        Channels of the last 1x1 convolution before the classifier, which stands after the pooling if
        there is a `final_width`, else before it; 0 for none.
    head_activation
        Of these two.
    bn_eps
        Of every batch norm.
    resolutions
        Input sides that the space allows, ascending.
    default_resolutions
        Those used for tuning and search unless told otherwise.
    stem_depths
        ResNet's values of `d[0]`; empty if the stem is fixed.
    in_channels
        Of the image.
    """

    name: str
    family: Literal["mbconv", "resnet"]
    stem_widths: tuple[tuple[int, ...], tuple[int, ...]]
    stem_activation: Activation
    first_activation: Activation
    stages: tuple[Stage, ...]
    kernels: tuple[int, ...]
    expands: tuple[float | int, ...]
    final_width: int
    feature_width: int
    head_activation: Activation
    bn_eps: float
    resolutions: tuple[int, ...]
    default_resolutions: tuple[int, ...]
    stem_depths: tuple[int, ...] = ()
    in_channels: int = 3
    usual_classes: int = 1000

    # ---- what there is to choose ----

    @property
    def n_blocks(self) -> int:
        """Elastic blocks, that is entries of `Arch.e`."""
        return sum(stage.blocks for stage in self.stages)

    @property
    def elastic_width(self) -> bool:
        """Whether `Arch.w` has entries."""
        return len(self.stages[0].widths) > 1

    @property
    def median_resolution(self) -> int:
        """The middle one of the default input sides."""
        return self.default_resolutions[len(self.default_resolutions) // 2]

    @cached_property
    def _fields(self) -> dict[str, tuple[tuple[float | int, ...], ...]]:
        """Choices of every entry of every field of `Arch`, in gene order."""
        depths = tuple(stage.depths for stage in self.stages)
        return {
            "d": ((self.stem_depths, *depths) if self.stem_depths else depths),
            "ks": (self.kernels,) * self.n_blocks if self.family == "mbconv" else (),
            "e": (self.expands,) * self.n_blocks,
            "w": (
                tuple(tuple(range(len(w))) for w in (*self.stem_widths, *(s.widths for s in self.stages)))
                if self.elastic_width
                else ()
            ),
            "r": (self.resolutions,),
        }

    @cached_property
    def choices(self) -> tuple[tuple[float | int, ...], ...]:
        """Values that each gene stands for, ascending."""
        return tuple(options for field in self._fields.values() for options in field)

    @cached_property
    def gene_names(self) -> tuple[str, ...]:
        """Field and position of each gene, e.g. `d0`, `ks7`; the last is `r`."""
        return tuple(
            field if field == "r" else f"{field}{i}"
            for field, entries in self._fields.items()
            for i in range(len(entries))
        )

    @cached_property
    def cardinalities(self) -> np.ndarray:
        """Number of choices of each gene, shape (n_genes,)."""
        return np.array([len(options) for options in self.choices], dtype=np.int64)

    @cached_property
    def _columns(self) -> dict[str, slice]:
        columns, start = {}, 0
        for field, entries in self._fields.items():
            columns[field] = slice(start, start + len(entries))
            start += len(entries)
        return columns

    def columns(self, field: str) -> slice:
        """Columns of a population that hold the genes of an `Arch` field ("d", "ks", "e", "w" or "r")."""
        return self._columns[field]

    @cached_property
    def size(self) -> int:
        """Distinct subnets (an exact integer), resolutions not counted."""
        per_block = len(self.expands) * (len(self.kernels) if self.family == "mbconv" else 1)
        total = math.prod(
            sum(per_block ** (stage.base_blocks + depth) for depth in stage.depths) for stage in self.stages
        )
        total *= len(self.stem_depths) or 1
        return total * math.prod(len(options) for options in self._fields["w"])

    # ---- single architectures ----

    def parse(self, text: str) -> Arch:
        """An architecture of this space from JSON.

        Raises
        ------
        UsageError
            If the text is no architecture, or not one of this space.
        """
        arch = Arch.from_json(text)
        self.validate(arch)
        return arch

    def validate(self, arch: Arch) -> None:
        """Check that every value is one the space offers, switched-off blocks included.

        Raises
        ------
        UsageError
            Names the field, the value and what is allowed.
        """
        self._check(arch, ("d", "ks", "e", "w", "r"))

    def _check(self, arch: Arch, fields: Sequence[str]) -> None:
        for field in fields:
            entries = self._fields[field]
            values = (arch.r,) if field == "r" else getattr(arch, field)
            if len(values) != len(entries):
                raise UsageError(
                    f"space {self.name} wants {len(entries)} entries in {field!r}, "
                    f"the architecture has {len(values)}"
                )
            for position, (value, options) in enumerate(zip(values, entries, strict=True)):
                if value not in options:
                    where = "r" if field == "r" else f"{field}[{position}]"
                    raise UsageError(
                        f"{where} = {value} is not in space {self.name}; choose {_listed(options)}"
                    )

    def _pick(self, positions: Sequence[int], resolution: int | None) -> Arch:
        arch = self.decode(np.array([positions]))[0]
        if resolution is not None:
            arch = arch.replace(r=resolution)
            self.validate(arch)
        return arch

    def min_arch(self, r: int | None = None) -> Arch:
        """Smallest choice everywhere; the smallest default resolution unless `r` is given."""
        return self._pick([0] * len(self.choices), min(self.default_resolutions) if r is None else r)

    def max_arch(self, r: int | None = None) -> Arch:
        """Largest choice everywhere; the largest default resolution unless `r` is given."""
        return self._pick(
            [len(c) - 1 for c in self.choices], max(self.default_resolutions) if r is None else r
        )

    def median_arch(self, r: int | None = None) -> Arch:
        """Middle choice everywhere; `median_resolution` unless `r` is given."""
        return self._pick([len(c) // 2 for c in self.choices], self.median_resolution if r is None else r)

    def sample(self, rng: np.random.Generator) -> Arch:
        """One architecture, each dimension uniform and independent."""
        return self.decode(self.sample_genes(rng, 1))[0]

    # ---- populations ----

    def encode(self, archs: Sequence[Arch]) -> np.ndarray:
        """Gene indices of architectures, shape (n, n_genes).

        Raises
        ------
        UsageError
            If one is not in the space.
        """
        genes = np.zeros((len(archs), len(self.choices)), dtype=np.int64)
        if not archs:
            return genes
        for arch in archs:
            if tuple(map(len, (arch.d, arch.ks, arch.e, arch.w))) != self._lengths:
                self.validate(arch)
        values = np.array([(*arch.d, *arch.ks, *arch.e, *arch.w, arch.r) for arch in archs])
        known = np.zeros(values.shape, dtype=bool)
        for column, options in enumerate(self.choices):
            for index, option in enumerate(options):
                hit = values[:, column] == option
                genes[hit, column] = index
                known[:, column] |= hit
        for row in np.flatnonzero(~known.all(axis=1)).tolist():
            self.validate(archs[row])
        return genes

    @cached_property
    def _lengths(self) -> tuple[int, ...]:
        return tuple(len(self._fields[field]) for field in ("d", "ks", "e", "w"))

    def decode(self, genes: np.ndarray) -> list[Arch]:
        """Architectures of a population (n, n_genes).

        Raises
        ------
        UsageError
            If the array has another width, or an index that no choice has.
        """
        genes = np.asarray(genes)
        if genes.ndim != 2 or genes.shape[1] != len(self.choices):
            raise UsageError(
                f"space {self.name} has {len(self.choices)} genes; got an array of shape {genes.shape}"
            )
        if ((genes < 0) | (genes >= self.cardinalities)).any():
            raise UsageError(f"the population holds gene indices that space {self.name} does not have")
        columns = self._columns
        archs = []
        for row in genes.tolist():
            values = [options[index] for options, index in zip(self.choices, row, strict=True)]
            parts = {field: tuple(values[columns[field]]) for field in ("d", "ks", "e", "w")}
            archs.append(Arch(**parts, r=values[-1]))
        return archs

    def _resolution_genes(self, resolutions: Sequence[int] | None) -> np.ndarray:
        if resolutions is None:
            return np.arange(len(self.resolutions))
        unknown = [r for r in resolutions if r not in self.resolutions]
        if unknown or not len(resolutions):
            raise UsageError(
                f"resolution {unknown[0] if unknown else '(none given)'} is not in space {self.name}; "
                f"choose {_listed(self.resolutions)}"
            )
        return np.array([self.resolutions.index(r) for r in resolutions])

    def sample_genes(
        self, rng: np.random.Generator, n: int, resolutions: Sequence[int] | None = None
    ) -> np.ndarray:
        """`n` random architectures, each gene uniform; resolutions only from those given, if any.

        Raises
        ------
        UsageError
            If a resolution is not in the space.
        """
        genes = rng.integers(self.cardinalities, size=(n, len(self.choices)))
        if resolutions is not None:
            genes[:, -1] = rng.choice(self._resolution_genes(resolutions), size=n)
        return genes

    def mutate(
        self,
        genes: np.ndarray,
        rng: np.random.Generator,
        probability: float,
        resolutions: Sequence[int] | None = None,
    ) -> np.ndarray:
        """A copy in which each gene is redrawn with `probability` (it may draw its old value again)."""
        fresh = self.sample_genes(rng, len(genes), resolutions)
        return np.where(rng.random(genes.shape) < probability, fresh, genes)

    def crossover(self, a: np.ndarray, b: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Children of two populations of the same shape: each gene from either parent with equal chance."""
        return np.where(rng.random(a.shape) < 0.5, a, b)

    def active_blocks(self, genes: np.ndarray) -> np.ndarray:
        """Which elastic blocks each architecture runs, bool (n, n_blocks)."""
        depth_genes = genes[:, self._columns["d"]][:, -len(self.stages) :]
        parts = []
        for column, stage in enumerate(self.stages):
            runs = stage.base_blocks + np.array(stage.depths)[depth_genes[:, column]]
            parts.append(np.arange(stage.blocks) < runs[:, None])
        return np.concatenate(parts, axis=1)

    def active(self, genes: np.ndarray) -> np.ndarray:
        """Which genes count, bool (n, n_genes): those of blocks that depth switches off do not."""
        mask = np.ones(genes.shape, dtype=bool)
        blocks = self.active_blocks(genes)
        mask[:, self._columns["e"]] = blocks
        if self.kernels and self.family == "mbconv":
            mask[:, self._columns["ks"]] = blocks
        return mask

    def canonical(self, genes: np.ndarray) -> np.ndarray:
        """A copy whose genes that do not count are 0: equal rows are equal networks."""
        return np.where(self.active(genes), genes, 0)

    # ---- networks ----

    def network(self, arch: Arch, n_classes: int = 1000) -> NetworkSpec:
        """The subnet that `arch` describes; `arch.r` plays no part, so that it may be any.

        Raises
        ------
        UsageError
            If the architecture is not in the space.
        """
        self._check(arch, ("d", "ks", "e", "w"))
        return network_of(self, arch, n_classes)

    def layers(self, arch: Arch, n_classes: int = 1000) -> tuple[Layer, ...]:
        """Operators of the extracted subnet, in execution order, with the shapes they see at `arch.r`."""
        return network_layers(self.network(arch, n_classes), arch.r)

    def macs(self, arch: Arch, n_classes: int = 1000) -> int:
        """Multiply-accumulates of the subnet for one image at `arch.r` (conv, linear, SE; no batch norm)."""
        return sum(layer.macs for layer in self.layers(arch, n_classes))

    def params(self, arch: Arch, n_classes: int = 1000) -> int:
        """Trainable values of the extracted subnet."""
        return sum(layer.params for layer in self.layers(arch, n_classes))

    def macs_batch(self, genes: np.ndarray, n_classes: int = 1000) -> np.ndarray:
        """`macs` of a whole population, int64 (n,)."""
        return count_batch(self, genes, "macs", n_classes)

    def params_batch(self, genes: np.ndarray, n_classes: int = 1000) -> np.ndarray:
        """`params` of a whole population, int64 (n,)."""
        return count_batch(self, genes, "params", n_classes)


def _listed(options: Sequence[float | int]) -> str:
    if len(options) > 6:
        return f"one of {options[0]}, {options[1]}, ... {options[-1]}"
    return "one of " + ", ".join(map(str, options)) if len(options) > 1 else str(options[0])
