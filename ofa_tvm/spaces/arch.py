"""One architecture of a search space, as values a person can read."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ofa_tvm.errors import UsageError, shown
from ofa_tvm.jsonfile import parse_json
from ofa_tvm.schema import LARGEST_INTEGER

# ResNet50-D, the only space with elastic widths: the most blocks per stage, and those that always run.
RESNET_BLOCKS = (4, 4, 6, 4)
RESNET_BASE_BLOCKS = (2, 2, 4, 2)


def blocks_per_stage(n_blocks: int, n_stages: int) -> tuple[int, ...]:
    """Blocks of each stage: equal shares rounded up, the last gets the rest (21 in 6: 4 4 4 4 4 1)."""
    share = math.ceil(n_blocks / n_stages)
    return tuple(max(0, min(share, n_blocks - share * stage)) for stage in range(n_stages))


def _number(value: Any, field: str) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        if hasattr(value, "item"):  # numpy scalars
            return _number(value.item(), field)
        raise UsageError(f"architecture field {field!r} holds {shown(value)}, which is not a number")
    if not abs(value) <= LARGEST_INTEGER:
        raise UsageError(f"architecture field {field!r} holds {shown(value)}, which is not a number")
    return int(value) if float(value).is_integer() else float(value)


@dataclass(frozen=True, eq=False)
class Arch:
    """Values (not indices) of every elastic dimension.

    Two architectures are equal, and hash alike, when the networks they describe are the same: entries of
    blocks that depth switches off are kept but do not count.

    Attributes
    ----------
    ks
        kernel size of each elastic block (empty for ResNet50-D)
    e
        expand ratio of each elastic block
    d
        depth of each stage (ResNet50-D: 2 or 0 for its stem block, then the extra blocks of each stage)
    r
        side of the square input, in pixels
    w
        width indices (ResNet50-D only: two in the stem, then one a stage)

    Raises
    ------
    UsageError
        If a field holds something that is no number.
    """

    ks: tuple[int, ...]
    e: tuple[float | int, ...]
    d: tuple[int, ...]
    r: int
    w: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for field in ("ks", "e", "d", "w"):
            values = getattr(self, field)
            if isinstance(values, str | Mapping) or not hasattr(values, "__iter__"):
                raise UsageError(
                    f"architecture field {field!r} must be a list of numbers, not {shown(values)}"
                )
            object.__setattr__(self, field, tuple(_number(value, field) for value in values))
        object.__setattr__(self, "r", _number(self.r, "r"))
        if not self.d or not self.e:
            raise UsageError("an architecture needs at least one entry in 'd' and in 'e'")

    @property
    def active_blocks(self) -> tuple[bool, ...]:
        """For each entry of `e` and `ks`, whether depth keeps that block; the lengths alone decide."""
        flags: list[bool] = []
        if self.w:
            for most, base, extra in zip(RESNET_BLOCKS, RESNET_BASE_BLOCKS, self.d[1:], strict=False):
                flags += [block < base + extra for block in range(most)]
        else:
            for most, depth in zip(blocks_per_stage(len(self.e), len(self.d)), self.d, strict=True):
                flags += [block < depth for block in range(most)]
        return tuple(flags)

    def _key(self) -> tuple[Any, ...]:
        cached = self.__dict__.get("_cached_key")
        if cached is None:
            on = self.active_blocks
            kernels = tuple(k for k, keep in zip(self.ks, on, strict=False) if keep)
            expands = tuple(e for e, keep in zip(self.e, on, strict=False) if keep)
            # Lengths are part of the key: they say which space the values belong to.
            cached = (len(self.ks), len(self.e), kernels, expands, self.d, self.w, self.r)
            object.__setattr__(self, "_cached_key", cached)
        return cached

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, Arch) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key())

    def replace(self, **changes: Any) -> Arch:
        """A copy with some fields changed, e.g. `arch.replace(r=192)`.

        Raises
        ------
        UsageError
            If there is no such field.
        """
        unknown = set(changes) - {"ks", "e", "d", "r", "w"}
        if unknown:
            raise UsageError(f"an architecture has no field {sorted(unknown)[0]!r} (fields: ks, e, d, r, w)")
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain lists and numbers, for JSON and YAML; `from_dict` reads them back."""
        fields: dict[str, Any] = {} if self.w else {"ks": list(self.ks)}
        fields |= {"e": list(self.e), "d": list(self.d)}
        if self.w:
            fields["w"] = list(self.w)
        return fields | {"r": self.r}

    @staticmethod
    def from_dict(fields: object) -> Arch:
        """Read what `to_dict` gave, or whatever somebody wrote into a file with the same fields.

        Raises
        ------
        UsageError
            If it is no mapping, lacks a field, or has one that is unknown.
        """
        if not isinstance(fields, Mapping):
            raise UsageError('an architecture is a JSON object like {"ks":[..],"e":[..],"d":[..],"r":224}')
        missing = {"e", "d", "r"} | (set() if "w" in fields else {"ks"})
        missing -= set(fields)
        unknown = set(fields) - {"ks", "e", "d", "r", "w"}
        if missing:
            raise UsageError(f"the architecture lacks the field {sorted(missing)[0]!r}")
        if unknown:
            name = shown(min(map(str, unknown)), 40)
            raise UsageError(f"the architecture has an unknown field {name} (known: ks, e, d, r, w)")
        return Arch(
            ks=fields.get("ks", ()), e=fields["e"], d=fields["d"], r=fields["r"], w=fields.get("w", ())
        )

    def to_json(self) -> str:
        """One line of JSON, e.g. `{"ks":[3],"e":[6],"d":[1],"r":224}`; `from_json` reads it back."""
        return json.dumps(self.to_dict(), separators=(",", ":"))

    @staticmethod
    def from_json(text: str) -> Arch:
        """Read what `to_json` wrote, or a hand-written file with the same fields.

        Raises
        ------
        UsageError
            If the text is not JSON, or `from_dict` refuses its fields.
        """
        try:
            fields = parse_json(text, nan=True)
        except ValueError as error:
            raise UsageError(f"the architecture is not valid JSON: {error}") from error
        return Arch.from_dict(fields)
