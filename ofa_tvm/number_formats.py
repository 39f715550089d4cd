"""The formats that a network's weights and feature maps may have: names, how exact each is, who has it.

"float16-weights" is float32 but for the weights that are read from memory each time: those of products with a
single row, as in squeeze-and-excitation and in classifiers. "int8" is of quantised networks, which say in
their graphs what is in integers: a target is not told how, only that it should be so.

What becomes of a network's graph in a format is `compiler/formats.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Literal, get_args

DType = Literal["float32", "float16-weights", "float16", "bfloat16", "int8"]
DTYPES: tuple[DType, ...] = get_args(DType)

Arithmetic = Literal["float32", "int8"]
"""What a supernet computes in, whose weights and ranges belong to it; other formats round afterwards."""

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
# bfloat16 keeps 8 bits, and sums are float32: 4e-3 to 1e-2 in subnets of random weights, of any input.
# int8: roundings that fall to the other side make others fall, up to 0.24 in 48 subnets of random weights. A
# scale that is 1.3 times too large made 0.3 in the last block of one, 1.1 and more before.
EXACTNESS: Mapping[DType, Exactness] = {
    "float32": Exactness({"export": 1e-3, "kernel": 1e-3, "measure": 1e-3, "ship": 1e-3}, 100.0),
    "float16-weights": Exactness({"export": 1e-3, "kernel": 2e-3, "measure": 5e-3, "ship": 5e-3}, 100.0),
    "float16": Exactness({"export": 1e-3, "kernel": 2e-2, "measure": 5e-2, "ship": 3e-2}, 8.0),
    "bfloat16": Exactness({"export": 1e-3, "kernel": 2e-2, "measure": 5e-2, "ship": 3e-2}, 100.0),
    "int8": Exactness({"export": 0.4, "kernel": 1e-3, "measure": 0.4, "ship": 0.4}, 100.0),
}


def exactness(dtype: str) -> Exactness:
    """Of a format; other numbers (int32, booleans, doubles) are held to float32's."""
    return next((found for name, found in EXACTNESS.items() if name == dtype), EXACTNESS["float32"])


ELEMENT_BYTES: Mapping[DType, int] = {
    "float32": 4,
    "float16-weights": 4,
    "float16": 2,
    "bfloat16": 2,
    "int8": 1,
}
"""Of a weight or an element of a feature map; of float16-weights, which halves few weights, at most."""

NEEDS = {
    "float16-weights": "is for CPUs that read float16 (x86-64-v3 and later, ARM)",
    "bfloat16": "is for CPUs",
}
"""Of formats that not every target has: which have them."""

_PLAIN = "32-bit products"


def supported(features: AbstractSet[str] | None) -> dict[str, str]:
    """What a target computes in, each format with its instructions.

    Parameters
    ----------
    features
        LLVM's, of the target's CPU; None for a GPU.

    Returns
    -------
    dict
        Names from the widest to the narrowest, and how each is computed; "" where nothing is known of that.
    """
    if features is None:
        return {"float32": "", "float16": "on devices that have it", "int8": _PLAIN}
    found = {"float32": _vectors(features)}
    if reads_half(features):
        found["float16-weights"] = "F16C" if "f16c" in features else "NEON"
    found["float16"] = "fullfp16" if computes_in_half(features) else "storage"
    found["bfloat16"] = bfloat16_products(features) or "storage"
    found["int8"] = byte_products(features)
    return found


def arithmetic(dtype: DType) -> Arithmetic:
    """What the supernet has to compute in whose subnets are compiled to a format."""
    return "int8" if dtype == "int8" else "float32"


def competing(formats: Mapping[str, str]) -> tuple[DType, ...]:
    """Those of a target's formats (`supported`) that may be its fastest, float32 first.

    float16 is left out where it is only stored, integers where no vector instructions are known for bytes.
    """
    slow = {"float16-weights", *(name for name, how in formats.items() if how in ("", "storage", _PLAIN))}
    return "float32", *(name for name in DTYPES if name in formats and name not in {*slow, "float32"})


def described(formats: Mapping[str, str]) -> str:
    """For people."""
    return ", ".join(f"{name} ({how})" if how else name for name, how in formats.items())


def computes_in_half(features: AbstractSet[str]) -> bool:
    """Whether a CPU multiplies and adds float16 vectors: ARM v8.2 and later."""
    return "fullfp16" in features


def reads_half(features: AbstractSet[str]) -> bool:
    """Whether a CPU has an instruction that widens float16: F16C on x86, all of ARM's 64-bit CPUs."""
    return "f16c" in features or "neon" in features


def bfloat16_products(features: AbstractSet[str]) -> str:
    """What multiplies and adds pairs of bfloat16, "" where nothing does; `compiler/pairs.py` makes it."""
    if "avx512bf16" in features:
        return "vdpbf16ps"
    return "bfdot" if {"bf16", "neon"} <= features else ""


def byte_products(features: AbstractSet[str]) -> str:
    """What multiplies and adds bytes in full vectors; `compiler/dots.py` makes it."""
    if "sse2" not in features:
        return "sdot" if "dotprod" in features else "smull"
    if "avx512vnni" in features or ("avxvnni" in features and "avx512f" not in features):
        return "vpdpbusd"
    return "vpmaddwd" if "avx2" in features else "pmaddwd"


def short_byte_sums(features: AbstractSet[str]) -> bool:
    """Whether a CPU multiplies bytes faster whose products, added in pairs, fit 16 bits.

    On x86 without VNNI: `vpmaddubsw` has no other exact use.
    """
    return "ssse3" in features and byte_products(features) in ("vpmaddwd", "pmaddwd")


def _vectors(features: AbstractSet[str]) -> str:
    names = {"avx512f": "AVX-512", "avx2": "AVX2", "avx": "AVX", "sse2": "SSE2", "neon": "NEON"}
    return next((name for feature, name in names.items() if feature in features), "")
