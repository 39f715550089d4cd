"""FBNet's space, as data: its layers are known, so that latency predictors work on it; nothing trains it.

Wu et al., FBNet (arXiv 1812.03443), table 1 (blocks) and figure 3 (candidates). The public latency datasets
(HW-NAS-Bench, arXiv 2103.10584; HELP, arXiv 2106.08630) use its 32-pixel variant.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ofa_tvm.errors import UsageError, shorten, shown
from ofa_tvm.jsonfile import parse_json
from ofa_tvm.spaces.network import ConvSpec, Layer, conv_layer, head_layers

SKIP = "skip"


@dataclass(frozen=True)
class OpsArch:
    """An architecture as one operator's name a block.

    Raises
    ------
    UsageError
        If the operators are not a list of names.
    """

    ops: tuple[str, ...]
    r: int

    def to_json(self) -> str:
        """One line of JSON, e.g. `["k3_e1","skip"]`; `FBNetSpace.parse` reads it back."""
        return json.dumps(list(self.ops), separators=(",", ":"))


@dataclass(frozen=True)
class FBNetSpace:
    """One operator for each of the blocks; widths and resolution are fixed.

    Attributes
    ----------
    widths, blocks, strides
        of the stages; the stride is the first block's
    operators
        candidates, named k<kernel>_e<expand>[_g<groups>], and "skip", which is the identity or, where
        the shape changes, a strided 1x1 convolution
    """

    name: str
    resolution: int
    stem_width: int
    stem_stride: int
    widths: tuple[int, ...]
    blocks: tuple[int, ...]
    strides: tuple[int, ...]
    head_width: int
    operators: tuple[str, ...]

    @property
    def resolutions(self) -> tuple[int, ...]:
        return (self.resolution,)

    @property
    def default_resolutions(self) -> tuple[int, ...]:
        return (self.resolution,)

    @property
    def usual_classes(self) -> int:
        """Of CIFAR-100, which the public latency tables are of."""
        return 100

    @property
    def n_blocks(self) -> int:
        return sum(self.blocks)

    @cached_property
    def cardinalities(self) -> np.ndarray:
        """Number of choices of each gene, shape (n_genes,): the blocks, then the one resolution."""
        return np.array([len(self.operators)] * self.n_blocks + [1], dtype=np.int64)

    # ---- single architectures ----

    def parse(self, text: str) -> OpsArch:
        """Read a JSON list of operators.

        Raises
        ------
        UsageError
            If the text is not such a list, or holds an operator that the space lacks.
        """
        try:
            ops = parse_json(text)
        except ValueError as error:
            raise UsageError(f"the architecture is not valid JSON: {error}") from error
        if not isinstance(ops, list) or not all(isinstance(op, str) for op in ops):
            raise UsageError(f'an architecture of {self.name} is a JSON list like ["k3_e1","skip"]')
        arch = OpsArch(tuple(ops), self.resolution)
        self.validate(arch)
        return arch

    def validate(self, arch: OpsArch) -> None:
        """Check that every block has an operator of the space.

        Raises
        ------
        UsageError
            Names the block and what is allowed.
        """
        if not isinstance(arch, OpsArch):
            raise UsageError(f"space {self.name} has one operator a block, not {shorten(arch.to_json(), 80)}")
        if len(arch.ops) != self.n_blocks:
            raise UsageError(
                f"space {self.name} has {self.n_blocks} blocks, the architecture {len(arch.ops)} operators"
            )
        for position, op in enumerate(arch.ops):
            if op not in self.operators:
                raise UsageError(
                    f"operator {shown(op, 30)} of block {position} is not in space {self.name}; "
                    f"choose one of {', '.join(self.operators)}"
                )

    def max_arch(self) -> OpsArch:
        """The largest operator everywhere."""
        return OpsArch(("k5_e6",) * self.n_blocks, self.resolution)

    def min_arch(self) -> OpsArch:
        """Nothing but skips."""
        return OpsArch((SKIP,) * self.n_blocks, self.resolution)

    # ---- populations ----

    def encode(self, archs: Sequence[OpsArch]) -> np.ndarray:
        """Gene indices of architectures, shape (n, n_genes).

        Raises
        ------
        UsageError
            If one is not in the space.
        """
        number = {op: i for i, op in enumerate(self.operators)}
        for arch in archs:
            self.validate(arch)
        return np.array([[*(number[op] for op in arch.ops), 0] for arch in archs], dtype=np.int64).reshape(
            len(archs), self.n_blocks + 1
        )

    def decode(self, genes: np.ndarray) -> list[OpsArch]:
        """Architectures of a population (n, n_genes)."""
        return [
            OpsArch(tuple(self.operators[gene] for gene in row[:-1]), self.resolution)
            for row in np.asarray(genes).tolist()
        ]

    def sample_genes(
        self, rng: np.random.Generator, n: int, resolutions: Sequence[int] | None = None
    ) -> np.ndarray:
        """`n` random architectures, each gene uniform."""
        return rng.integers(self.cardinalities, size=(n, len(self.cardinalities)))

    def canonical(self, genes: np.ndarray) -> np.ndarray:
        """Genes as they are: all of them count, so that equal rows are equal networks."""
        return np.asarray(genes)

    # ---- networks ----

    def layers(self, arch: OpsArch, n_classes: int = 1000) -> tuple[Layer, ...]:
        """Operators of the network, in execution order, with the shapes they see."""
        self.validate(arch)
        layers = [
            conv_layer(ConvSpec("stem", 3, self.stem_width, 3, self.stem_stride, "relu"), self.resolution)
        ]
        width, position = self.stem_width, 0
        for stage, (c_out, blocks, stride) in enumerate(
            zip(self.widths, self.blocks, self.strides, strict=True)
        ):
            for offset in range(blocks):
                layers += _block(
                    arch.ops[position], width, c_out, stride if offset == 0 else 1, layers[-1].h_out,
                    stage, position,
                )  # fmt: skip
                width = c_out
                position += 1
        last = ConvSpec("head", width, self.head_width, 1, 1, "relu")
        return (*layers, *head_layers((last,), (), width, n_classes, layers[-1].h_out))


def _block(op: str, c_in: int, c_out: int, stride: int, side: int, stage: int, block: int) -> list[Layer]:
    out = -(-side // stride)
    name = f"blocks.{block}"
    if op == SKIP:
        if stride == 1 and c_in == c_out:
            return []
        return [Layer(f"{name}.skip", "conv", c_in, c_out, 1, stride, side, out, "relu", False, stage, block)]
    parts = {part[0]: int(part[1:]) for part in op.split("_")}
    mid, groups = c_in * parts["e"], parts.get("g", 1)
    residual = stride == 1 and c_in == c_out
    at = (stage, block)
    return [
        Layer(f"{name}.expand", "conv", c_in, mid, 1, 1, side, side, "relu", False, *at, groups=groups),
        Layer(f"{name}.depthwise", "depthwise", mid, mid, parts["k"], stride, side, out, "relu", False, *at),
        Layer(f"{name}.project", "conv", mid, c_out, 1, 1, out, out, "none", residual, *at, groups=groups),
    ]


def fbnet() -> FBNetSpace:
    """The variant of the public datasets: 32 x 32 pixels (there with 100 classes)."""
    return FBNetSpace(
        name="fbnet",
        resolution=32,
        stem_width=16,
        stem_stride=1,
        widths=(16, 24, 32, 64, 112, 184, 352),
        blocks=(1, 4, 4, 4, 4, 4, 1),
        strides=(1, 1, 2, 2, 1, 2, 1),
        head_width=1504,
        operators=(
            "k3_e1", "k3_e1_g2", "k3_e3", "k3_e6", "k5_e1", "k5_e1_g2", "k5_e3", "k5_e6", SKIP,
        ),
    )  # fmt: skip
