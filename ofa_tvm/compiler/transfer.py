"""Transfer: what tuned kernels tell of similar ones that nobody tuned.

The best tiling hardly depends on a kernel's epilogue and changes slowly with its shape. So a kernel without
a record starts from the tilings of the most similar ones that have one: other resolutions, other widths. Not
of other number formats: how many values a vector register holds decides the tiling.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

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


class _Family:
    """Forms of one family with their tilings."""

    def __init__(self) -> None:
        self._known: dict[_Form, Tiling] = {}
        self._extents: npt.NDArray[np.float64] | None = None  # logarithms, a row a form

    def add(self, form: _Form, tiling: Tiling) -> None:
        if form not in self._known:
            self._extents = None
        self._known[form] = tiling

    def nearest(self, form: _Form) -> list[Tiling]:
        """Tilings of the most similar forms, nearest first."""
        if self._extents is None:
            self._extents = np.log(np.array([known.extents for known in self._known], float))
        far = np.abs(self._extents - np.log(np.array(form.extents, float))).sum(1)
        far += [0.0 if known.operators == form.operators else _OTHER_EPILOGUE for known in self._known]
        order = np.argsort(far, kind="stable")[:_NEIGHBOURS]
        tilings = list(self._known.values())
        return [tilings[number] for number in order if far[number] <= _FARTHEST]


class Transfer:
    """Tilings of tuned kernels, looked up by similarity.

    Parameters
    ----------
    *tables
        Records of a target, of compatible ones, or of the same one with another number of threads.
    """

    def __init__(self, *tables: KernelTable) -> None:
        self._known: defaultdict[tuple[str, tuple[str, ...], int], _Family] = defaultdict(_Family)
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
        known = self._known.get(form.family)
        return tuple(dict.fromkeys(known.nearest(form))) if known else ()

    def _read(self, operator: str) -> None:
        """Traces are read when a kernel of their operator asks: a log that ships has a thousand."""
        for record in self._unread.pop(operator, ()):
            if (tiling := tiling_of(record.trace)) is not None:
                form = _Form.of(record.signature)
                self._known[form.family].add(form, tiling)
