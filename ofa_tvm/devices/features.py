"""What instructions AArch64 code has, read from the code itself: no device is sent what it cannot run."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

_AARCH64 = 183  # e_machine
_CODE = 4  # SHF_EXECINSTR

# Instructions that cores of ARM v8.0 lack, by LLVM's name of the feature: (mask, value) of their encodings,
# from "Data Processing -- Scalar Floating-Point and Advanced SIMD" in the Arm Architecture Reference Manual.
_ENCODINGS = {
    "dotprod": ((0x9FE0FC00, 0x0E809400), (0x9FC0F400, 0x0F80E000)),  # sdot, udot; by element
    "fullfp16": (
        (0x9F60C400, 0x0E400400),  # vectors of halves, two operands
        (0x9F7E0C00, 0x0E780800),  # one operand
        (0x9FC0F400, 0x0F001000),  # fmla, by element
        (0x9FC0F400, 0x0F005000),  # fmls
        (0x9FC0F400, 0x0F009000),  # fmul, fmulx
        (0xFFE00C00, 0x1EE00800),  # scalars, two operands
        (0xFFC00000, 0x1FC00000),  # three
    ),
    "bf16": (
        (0xBFE0FC00, 0x2E40FC00),  # bfdot; by element
        (0xBFC0F400, 0x0F40F000),
        (0xFFE0FC00, 0x6E40EC00),  # bfmmla
        (0xBFE0FC00, 0x2EC0FC00),  # bfmlalb, bfmlalt
        (0xBFFFFC00, 0x0EA16800),  # bfcvtn
        (0xFFFFFC00, 0x1E634000),  # bfcvt
    ),
    "i8mm": (
        (0xDFE0FC00, 0x4E80A400),  # smmla, ummla
        (0xFFE0FC00, 0x4E80AC00),  # usmmla
        (0xBFE0FC00, 0x0E809C00),  # usdot; by element
        (0xBFC0F400, 0x0F00F000),
        (0xBFC0F400, 0x0F80F000),
    ),
}
TOLD = frozenset(_ENCODINGS)
"""Features that `used_features` looks for."""


def used_features(file: Path) -> frozenset[str]:
    """LLVM's names of the features that a library's code makes use of, among `TOLD`; none if not AArch64.

    Instructions count that are there, whether or not they would be reached.
    """
    content = file.read_bytes()
    if (
        len(content) < 64
        or content[:5] != b"\x7fELF\x02"
        or struct.unpack_from("<H", content, 18)[0] != _AARCH64
    ):
        return frozenset()
    (start,) = struct.unpack_from("<Q", content, 40)
    size, count = struct.unpack_from("<HH", content, 58)
    used: set[str] = set()
    for at in range(start, start + size * count, size):
        flags, _, offset, length = struct.unpack_from("<QQQQ", content, at + 8)
        if flags & _CODE and struct.unpack_from("<I", content, at + 4)[0] == 1:
            words = np.unique(np.frombuffer(content, np.dtype("<u4"), length // 4, offset))
            used |= {name for name in TOLD - used if _has(words, name)}
    return frozenset(used)


def _has(words: np.ndarray, name: str) -> bool:
    return any(
        bool(((words & np.uint32(mask)) == np.uint32(value)).any()) for mask, value in _ENCODINGS[name]
    )
