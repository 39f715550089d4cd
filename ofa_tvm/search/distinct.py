"""Which subnets of a population are the same: a gene of a block that is not there makes no difference."""

from __future__ import annotations

import numpy as np

from ofa_tvm.estimators.contract import Function
from ofa_tvm.spaces.space import Space


class RowKeys:
    """A 64-bit number for each subnet that is the same for equal ones (and, surely enough, for no others)."""

    def __init__(self, space: Space) -> None:
        self.space = space
        rng = np.random.default_rng(0x0FA)
        self._multipliers = rng.integers(
            1, 2**63, size=len(space.cardinalities), dtype=np.uint64
        ) | np.uint64(1)

    def __call__(self, genes: np.ndarray) -> np.ndarray:
        """(n, n_genes) -> (n,) uint64."""
        return self.space.canonical(genes).astype(np.uint64) @ self._multipliers


class Remembered:
    """A function of subnets that is asked once about each, however often children repeat it."""

    def __init__(self, function: Function) -> None:
        self._function = function
        self._values: dict[int, float] = {}

    def __call__(self, genes: np.ndarray, keys: np.ndarray) -> np.ndarray:
        """(n, n_genes) and their (n,) `RowKeys` -> (n,)."""
        asked, known = keys.tolist(), self._values
        new = {key: row for row, key in enumerate(asked) if key not in known}
        if new:
            known.update(zip(new, self._function(genes[list(new.values())]).tolist(), strict=True))
        return np.array([known[key] for key in asked])


def best_distinct(keys: np.ndarray, score: np.ndarray, k: int) -> np.ndarray:
    """Row numbers of the `k` best scores among distinct keys, the best first."""
    order = np.argsort(-score, kind="stable")
    _, first = np.unique(keys[order], return_index=True)
    return order[np.sort(first)[:k]]
