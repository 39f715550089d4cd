"""Lookup tables in the format of the official Once-for-All code: one measured time a block, added up.

A table is a YAML or JSON mapping for one resolution, `<r>_lookup_table.yaml`, from a key that spells out an
operator (`Conv-input:224x224x3-output:112x112x24`) to `{mean: <ms>, std: .., count: ..}`.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import yaml

from ofa_tvm.errors import UsageError, UserError
from ofa_tvm.spaces import Arch, Layer
from ofa_tvm.spaces.blocks import BlockTables, block_structure
from ofa_tvm.spaces.space import Space

_STEM = re.compile(r"Conv-input:(\d+)x\d+x\d+-output:.*")


def _map(side: int, channels: int) -> str:
    return f"{side}x{side}x{channels}"


def _split_operators(layers: Sequence[Layer]) -> list[list[Layer]]:
    """The operators of one block position, as the tables know them: an inverted residual is one operator."""
    operators: list[list[Layer]] = []
    previous = ""
    for layer in layers:
        block = layer.name.split(".conv.")[0]
        if block != layer.name and block == previous:
            operators[-1].append(layer)
        else:
            operators.append([layer])
        previous = block
    return operators


def table_keys(layers: Sequence[Layer], *, expand_as_channels: bool) -> list[str]:
    """Keys of the layers of one block position.

    Parameters
    ----------
    layers : sequence of Layer
        Of one context of a `Block`.
    expand_as_channels : bool
        MobileNetV3 tables state the middle channels, and whether there is squeeze-excite and h-swish;
        ProxylessNAS tables state the expand ratio alone.
    """
    keys: list[str] = []
    pooled_side = 1
    for operator in _split_operators(layers):
        first, last = operator[0], operator[-1]
        shapes = f"input:{_map(first.h_in, first.c_in)}-output:{_map(last.h_out, last.c_out)}"
        depthwise = next((la for la in operator if la.kind == "depthwise"), None)
        if depthwise is not None:
            expand = depthwise.c_in if expand_as_channels else round(depthwise.c_in / first.c_in)
            key = (
                f"expanded_conv-{shapes}-expand:{expand}-kernel:{depthwise.kernel}"
                f"-stride:{depthwise.stride}-idskip:{int(last.residual)}"
            )
            if expand_as_channels:
                squeeze = any(la.name.endswith("se.pool") for la in operator)
                key += f"-se:{int(squeeze)}-hs:{int(depthwise.activation == 'h_swish')}"
            keys.append(key)
        elif first.kind == "linear":
            # ProxylessNAS counts the pooling as part of the classifier.
            side = 1 if expand_as_channels else pooled_side
            keys.append(f"Logits-input:{_map(side, first.c_in)}-output:{first.c_out}")
        elif first.kind == "pool":
            pooled_side = first.h_in
            if expand_as_channels:
                keys.append(f"AvgPool2D-{shapes}")
        elif first.kernel > 1:
            keys.append(f"Conv-{shapes}")
        else:
            keys.append(f"{'Conv_2' if first.h_in == 1 else 'Conv_1'}-{shapes}")
    return keys


class LookupTable:
    """Latency as the sum of a table's entries, as the official code predicts it.

    Parameters
    ----------
    space : Space
        Of the mbconv family.
    entries : mapping of int to mapping of str to float
        For each resolution, key -> milliseconds.
    source : str
        For messages.

    Attributes
    ----------
    resolutions : tuple of int
        Those that the tables cover.
    tables : BlockTables
        Infinite for what the tables lack.

    Raises
    ------
    UserError
        If the tables are for another space: an operator of it is missing at a resolution that they cover.
    """

    unit = "ms"

    def __init__(self, space: Space, entries: Mapping[int, Mapping[str, float]], source: str = "") -> None:
        if space.family != "mbconv":
            raise UsageError(f"lookup tables of {space.name} cannot be read yet; use a latency predictor")
        self.space = space
        self.resolutions = tuple(sorted(r for r in entries if r in space.resolutions))
        if not self.resolutions:
            raise UserError(f"{source or 'the lookup table'} covers no resolution of the space {space.name}")
        structure = block_structure(space)
        has_final_expand = space.final_width > 0
        tables = []
        for block in structure.blocks:
            table = np.full(len(block.contexts), np.inf)
            for i, gene_values in enumerate(np.ndindex(*block.choices)):
                resolution = space.resolutions[gene_values[-1]]
                if resolution not in entries:
                    continue
                lut = entries[resolution]
                total = 0.0
                for key in table_keys(block.contexts[i], expand_as_channels=has_final_expand):
                    if key not in lut:
                        raise UserError(
                            f"{source or 'the lookup table'} has no entry {key} at resolution {resolution}; "
                            f"it was made for another space than {space.name}"
                        )
                    total += lut[key]
                table[i] = total
            tables.append(table)
        self.tables = BlockTables(structure, tables)

    @classmethod
    def read(cls, path: str | os.PathLike[str], space: Space) -> LookupTable:
        """Read one table, or all `*_lookup_table.{yaml,json}` of a folder.

        Raises
        ------
        UserError
            If there is none, one is damaged, holds a time that is not above 0, or is for another space.
        """
        path = Path(path)
        if path.is_dir():
            files = sorted(p for p in path.iterdir() if re.fullmatch(r".*lookup_table\.(ya?ml|json)", p.name))
            if not files:
                raise UserError(f"{path} holds no lookup tables (<resolution>_lookup_table.yaml or .json)")
        else:
            files = [path]
        entries: dict[int, dict[str, float]] = {}
        for file in files:
            lut = _read_entries(file)
            stems = [int(match[1]) for key in lut if (match := _STEM.fullmatch(key))]
            if not stems:
                raise UserError(f"{file} has no entry Conv-input:..., so its resolution is unknown")
            for resolution in stems:
                entries.setdefault(resolution, {}).update(lut)
        return cls(space, entries, str(path))

    def __call__(self, genes: np.ndarray) -> np.ndarray:
        """Milliseconds of a population (n, n_genes); infinite at resolutions without a table."""
        return self.tables(genes)

    def predict(self, archs: Sequence[Arch] | np.ndarray) -> np.ndarray:
        """Milliseconds of n architectures or genes.

        Raises
        ------
        UsageError
            If one has a resolution without a table.
        """
        genes = archs if isinstance(archs, np.ndarray) else self.space.encode(archs)
        values = self(genes)
        if not np.isfinite(values).all():
            i = int(np.flatnonzero(~np.isfinite(values))[0])
            r = self.space.resolutions[genes[i, -1]]
            raise UsageError(
                f"there is no lookup table for resolution {r}; "
                f"covered: {', '.join(map(str, self.resolutions))}"
            )
        return values


def _read_entries(file: Path) -> dict[str, float]:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"cannot read the lookup table {file}: {getattr(error, 'strerror', None) or error}"
        ) from error
    try:
        content = json.loads(text) if file.suffix == ".json" else yaml.safe_load(text)
    except (json.JSONDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{file} is not a lookup table: {reason}") from error
    if not isinstance(content, dict) or not content:
        raise UserError(f"{file} is not a lookup table: expected a mapping from operators to times")
    entries = {}
    for key, value in content.items():
        mean = value.get("mean") if isinstance(value, dict) else None
        if (
            not isinstance(mean, int | float)
            or isinstance(mean, bool)
            or not math.isfinite(mean)
            or mean <= 0
        ):
            raise UserError(f"{file}: the entry {key} has no time above 0 under 'mean'")
        entries[str(key)] = float(mean)
    return entries
