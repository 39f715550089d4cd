"""Where a network's tensors lie: its arguments, its weights, and pieces of one workspace."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from tvm import relax

ALIGNMENT = 128  # bytes; kernels assume 64, and two cache lines are fetched together


@dataclass
class Storage:
    """Memory of one tensor.

    Parameters
    ----------
    bytes
        Its size.
    argument
        Which argument of the network it is, None for what is not handed in.
    weight
        Its place among the weights, None for what is computed.
    first, last
        Steps between which it is alive, in the workspace.
    offset
        Its place in the workspace.
    """

    bytes: int
    argument: int | None = None
    weight: int | None = None
    first: int = 0
    last: int = 0
    offset: int = 0

    @property
    def computed(self) -> bool:
        """Whether it is a piece of the workspace."""
        return self.argument is None and self.weight is None


Placed = tuple[Storage, relax.TensorType]


class Weights:
    """Constants in order of first use, each once, every one from a multiple of `ALIGNMENT` on."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._places: dict[bytes, int] = {}
        self._size = 0

    def place(self, value: np.ndarray) -> int:
        """Where a constant lies."""
        content = np.ascontiguousarray(value).tobytes()
        key = hashlib.sha256(content).digest()
        if key not in self._places:
            self._places[key] = self._size
            self._parts.append(content + bytes(-len(content) % ALIGNMENT))
            self._size += len(self._parts[-1])
        return self._places[key]

    def content(self) -> bytes:
        """All of them."""
        return b"".join(self._parts)


@dataclass
class Plan:
    """What a network computes step by step, and where.

    Parameters
    ----------
    values, tuples
        Where each of its variables lies.
    steps
        Symbol of a kernel and what it is called on.
    storages
        Pieces of the workspace.
    weights
        Its constants.
    """

    values: dict[relax.Var, Placed] = field(default_factory=dict)
    tuples: dict[relax.Var, list[Placed]] = field(default_factory=dict)
    steps: list[tuple[str, list[Placed]]] = field(default_factory=list)
    storages: list[Storage] = field(default_factory=list)
    weights: Weights = field(default_factory=Weights)


def place(storages: Sequence[Storage]) -> int:
    """Set offsets so that pieces alive at the same step do not overlap; returns the bytes of all.

    Largest first, each at the lowest free place.
    """
    placed: list[Storage] = []
    for storage in sorted(storages, key=lambda s: -s.bytes):
        offset = 0
        rivals = [o for o in placed if o.first <= storage.last and storage.first <= o.last]
        for other in sorted(rivals, key=lambda s: s.offset):
            if offset + storage.bytes <= other.offset:
                break
            offset = max(offset, -(-(other.offset + other.bytes) // ALIGNMENT) * ALIGNMENT)
        storage.offset = offset
        placed.append(storage)
    return max((s.offset + s.bytes for s in storages), default=0)
