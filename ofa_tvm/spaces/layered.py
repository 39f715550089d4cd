"""What latency predictors need of a space: that it can list its layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from ofa_tvm.spaces.network import Layer


class LayeredSpace(Protocol):
    """A space whose architectures are choices, the resolution last, and have layers of known shapes."""

    def __hash__(self) -> int: ...

    @property
    def name(self) -> str: ...

    @property
    def resolutions(self) -> tuple[int, ...]:
        """Input sides; the last gene picks one."""

    @property
    def default_resolutions(self) -> tuple[int, ...]: ...

    @property
    def usual_classes(self) -> int:
        """Classes of the networks that the space was published with."""

    @property
    def cardinalities(self) -> np.ndarray:
        """Number of choices of each gene, shape (n_genes,)."""

    def parse(self, text: str) -> Any:
        """An architecture from JSON; it has `to_json` and `r`, and equal ones are equal networks."""

    def validate(self, arch: Any) -> None:
        """Raise `UsageError` if the architecture is not in the space."""

    def max_arch(self) -> Any: ...

    def min_arch(self) -> Any: ...

    def encode(self, archs: Sequence[Any]) -> np.ndarray:
        """Genes of architectures, (n, n_genes)."""

    def decode(self, genes: np.ndarray) -> list[Any]:
        """Architectures of genes."""

    def sample_genes(
        self, rng: np.random.Generator, n: int, resolutions: Sequence[int] | None = None
    ) -> np.ndarray:
        """`n` random architectures as genes."""

    def canonical(self, genes: np.ndarray) -> np.ndarray:
        """Genes whose rows are equal where the networks are."""

    def layers(self, arch: Any, n_classes: int = 1000) -> tuple[Layer, ...]:
        """Operators in execution order."""
