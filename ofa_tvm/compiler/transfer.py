"""Transfer: what tuned kernels tell of similar ones that nobody tuned.

The best tiling hardly depends on a kernel's epilogue and changes slowly with its shape. So a kernel without
a record starts from the tilings of the most similar ones that have one: other resolutions, other widths. Not
of other number formats: how many values a vector register holds decides the tiling.
"""

from __future__ import annotations

import heapq
import math
from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache

from ofa_tvm.compiler.kernels import Kernel
from ofa_tvm.compiler.tilings import Tiling, tiling_of
from ofa_tvm.logs import KernelTable, Record, Signature

_NEIGHBOURS = 3
_FARTHEST = 3.0  # sum of the logarithms of the extents' ratios: a factor of 20 in all
_UNKNOWN = "float32"  # what logs before version 2, which do not say, are nearly always of
_OTHER_EPILOGUE = 0.3  # as far as a third more of one extent


@dataclass(frozen=True)
class _Form:
    """What decides which kernels are similar: operators, number formats, and the main tensors' extents."""

    operators: tuple[str, ...]
    dtypes: tuple[str, ...]
    extents: tuple[int, ...]

    @classmethod
    @lru_cache(maxsize=8192)
    def of(cls, signature: Signature) -> _Form:
        # Data, weights and result; biases and residuals repeat their extents.
        main = (*signature.shapes[:2], signature.shapes[-1])
        dtypes = signature.dtypes or (_UNKNOWN,) * len(signature.shapes)
        # The result's format is the epilogue's.
        return cls(
            signature.operators, dtypes[:2], tuple(max(1, extent) for shape in main for extent in shape)
        )

    @property
    def family(self) -> tuple[str, tuple[str, ...], int]:
        """Main operator, formats and number of extents: where they differ there is nothing to compare."""
        return self.operators[0], self.dtypes, len(self.extents)

    def distance(self, other: _Form) -> float:
        far = sum(abs(math.log(a / b)) for a, b in zip(self.extents, other.extents, strict=True))
        return far + (_OTHER_EPILOGUE if self.operators != other.operators else 0.0)


class Transfer:
    """Tilings of tuned kernels, looked up by similarity.

    Parameters
    ----------
    *tables
        Records of a target, of compatible ones, or of the same one with another number of threads.
    """

    def __init__(self, *tables: KernelTable) -> None:
        self._known: dict[tuple[str, tuple[str, ...], int], dict[_Form, Tiling]] = {}
        self._unread: defaultdict[str, list[Record]] = defaultdict(list)  # by their main operator
        for table in reversed(tables):
            for records in table.records.values():
                self.learn(records[0])

    def learn(self, best: Record) -> None:
        """Take in the best record of a kernel."""
        self._unread[best.signature.operators[0]].append(best)

    def hints(self, kernel: Kernel) -> tuple[Tiling, ...]:
        """Best tilings of the most similar kernels, nearest first."""
        form = _Form.of(kernel.signature)
        self._read(form.operators[0])
        known = self._known.get(form.family, {})
        near = ((form.distance(other), number) for number, other in enumerate(known))
        nearest = heapq.nsmallest(_NEIGHBOURS, (pair for pair in near if pair[0] <= _FARTHEST))
        tilings = list(known.values())
        return tuple(dict.fromkeys(tilings[number] for _, number in nearest))

    def _read(self, operator: str) -> None:
        """Traces are read when a kernel of their operator asks: a log that ships has a thousand."""
        for record in self._unread.pop(operator, ()):
            if (tiling := tiling_of(record.trace)) is not None:
                form = _Form.of(record.signature)
                self._known.setdefault(form.family, {})[form] = tiling
