"""What a kernel computes, as data: its operators, and the shapes and number formats of its tensors."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from ofa_tvm.errors import shown

Shape = tuple[int, ...]

# Of a convolution by Winograd's filtering, which is three kernels, the last: the layer's outputs are its.
_PRODUCTS = frozenset({"conv2d", "depthwise-conv2d", "matmul", "winograd-output"})
_SCALAR = "scalar"
_SIZE = rf"(?:{_SCALAR}|[0-9]{{1,18}}(?:x[0-9]{{1,18}})*)"
_TEXT = re.compile(rf"([^ ]+) ((?:{_SIZE}(?:,{_SIZE})*)?)->({_SIZE})")


@dataclass(frozen=True)
class Signature:
    """What a kernel computes; kernels that are not the same can share one (other strides, constants).

    Its text, `matmul+add+relu 196x80,5x80x16,1x80->196x80`, is for people, and is what logs before version 2
    and manifests hold; `parse` is the one place that reads it.

    Parameters
    ----------
    operators
        In the order of computation; the first is the one whose result the others work on.
    shapes
        Of the tensors that it is called with, the result last.
    dtypes
        Number format of each tensor; () where it is not known, in what was read from text.
    """

    operators: tuple[str, ...]
    shapes: tuple[Shape, ...]
    dtypes: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """The operators alone, as text."""
        return "+".join(self.operators)

    @property
    def has_product(self) -> bool:
        """Whether it computes a convolution or a matrix product, of which each layer of a network has one."""
        return not _PRODUCTS.isdisjoint(self.operators)

    @property
    def in_integers(self) -> bool:
        """Whether it adds products of bytes."""
        return self.has_product and self.dtypes[:1] in (("uint8",), ("int8",))

    def __str__(self) -> str:
        sizes = ["x".join(map(str, shape)) or _SCALAR for shape in self.shapes]
        return f"{self.kind} {','.join(sizes[:-1])}->{sizes[-1]}"

    @classmethod
    def parse(cls, text: str) -> Signature:
        """Inverse of `str`, but for the number formats, which the text lacks.

        Raises
        ------
        ValueError
            If the text is no signature's.
        """
        match = _TEXT.fullmatch(text)
        if match is None:
            raise ValueError(f"{shown(text, 60)} names no kernel")
        operators, inputs, result = match.groups()
        sizes = [*(inputs.split(",") if inputs else ()), result]
        shapes = (() if size == _SCALAR else tuple(map(int, size.split("x"))) for size in sizes)
        return cls(tuple(operators.split("+")), tuple(shapes))

    def to_json(self) -> dict[str, Any]:
        """Plain dict; `from_json` reads it back."""
        return {
            "operators": list(self.operators),
            "shapes": [list(shape) for shape in self.shapes],
            "dtypes": list(self.dtypes),
        }

    @classmethod
    def from_json(cls, content: object) -> Signature:
        """Inverse of `to_json`.

        Raises
        ------
        ValueError
            If it is not what `to_json` makes.
        """
        if not isinstance(content, dict) or not content.keys() >= {"operators", "shapes", "dtypes"}:
            raise ValueError("its signature lacks operators, shapes or dtypes")
        operators, shapes, dtypes = (content[name] for name in ("operators", "shapes", "dtypes"))
        valid = (
            _is_list_of(str, operators)
            and bool(operators)
            and _is_list_of(list, shapes)
            and bool(shapes)
            and all(_is_list_of(int, shape) and min(shape, default=0) >= 0 for shape in shapes)
            and _is_list_of(str, dtypes)
            and len(dtypes) in (0, len(shapes))
        )
        if not valid:
            raise ValueError("its signature is not valid")
        return cls(tuple(operators), tuple(tuple(shape) for shape in shapes), tuple(dtypes))


def _is_list_of(kind: type, value: object) -> bool:
    return isinstance(value, list) and all(type(entry) is kind for entry in value)
