"""The formats that a network's weights and feature maps may have: names, and how exact each is.

"float16-weights" is float32 but for the weights that are read from memory each time: those of products with a
single row, as in squeeze-and-excitation and in classifiers.

What becomes of a network's graph in a format is `compiler/formats.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

DType = Literal["float32", "float16-weights", "float16"]
DTYPES: tuple[DType, ...] = get_args(DType)

Stage = Literal["export", "kernel", "measure", "ship"]
"""What is compared: "export", the ONNX file with PyTorch's network; "kernel", one kernel by a schedule or on
a device with the same by another; "measure", a module's outputs of random inputs on a device, before it is
timed; "ship", its outputs of many kinds of inputs, before it ships. The last two: with ONNX Runtime's."""


@dataclass(frozen=True)
class Exactness:
    """What may be asked of a computation.

    Attributes
    ----------
    tolerance
        Largest difference from the reference, as a share of its largest value, by stage.
    large_input
        Standard deviation of inputs far beyond any picture, yet not so far that it must overflow.
    """

    tolerance: Mapping[Stage, float]
    large_input: float


# float32: rounding gives 1e-6 to 1e-5; other sums in other orders up to 1e-4. float16 keeps 11 bits of each
# value (up to 65504), and whole networks round many times; random inputs are rounded worse than pictures.
EXACTNESS: Mapping[DType, Exactness] = {
    "float32": Exactness({"export": 1e-3, "kernel": 1e-3, "measure": 1e-3, "ship": 1e-3}, 100.0),
    "float16-weights": Exactness({"export": 1e-3, "kernel": 2e-3, "measure": 5e-3, "ship": 5e-3}, 100.0),
    "float16": Exactness({"export": 1e-3, "kernel": 2e-2, "measure": 5e-2, "ship": 3e-2}, 8.0),
}


def exactness(dtype: str) -> Exactness:
    """Of a format; other numbers (integers, booleans, doubles) are held to float32's."""
    return next((found for name, found in EXACTNESS.items() if name == dtype), EXACTNESS["float32"])
