"""Lookup tables in the format of the official Once-for-All code: one measured time a block, added up.

A table is a YAML or JSON mapping for one resolution, `<r>_lookup_table.yaml`, from a key that spells out an
operator (`Conv-input:224x224x3-output:112x112x24`) to `{mean: <ms>, std: .., count: ..}`. The official code
knows keys for MobileNetV3 and for ProxylessNAS; for ResNet-50 it has none, so those here are our own, in the
same style.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ofa_tvm.errors import UsageError, UserError, shown
from ofa_tvm.estimators.contract import SubnetModel, as_genes
from ofa_tvm.files import read_text, write_atomic
from ofa_tvm.jsonfile import parse_json
from ofa_tvm.spaces import Arch, Layer
from ofa_tvm.spaces.blocks import BlockTables, block_structure
from ofa_tvm.spaces.space import Space
from ofa_tvm.yamlfile import parse_yaml, write_yaml

_MOST_BYTES = 1 << 24
_STEM = re.compile(r"Conv-input:([0-9]{1,5})x[0-9]+x3-output:.*")
_BLOCK = re.compile(r"blocks\.\d+\.")


def _map(side: int, channels: int) -> str:
    return f"{side}x{side}x{channels}"


def _split_operators(layers: Sequence[Layer]) -> list[list[Layer]]:
    """The operators of one block position, as the tables know them: a whole block is one operator."""
    operators: list[list[Layer]] = []
    previous = ""
    for layer in layers:
        match = _BLOCK.match(layer.name)
        block = match[0] if match else ""
        if block and block == previous:
            operators[-1].append(layer)
        else:
            operators.append([layer])
        previous = block
    return operators


def key_style(space: Space) -> str:
    """Whose keys the tables of a space have: "mbv3", "proxyless" or "resnet50"."""
    if space.family == "resnet":
        return "resnet50"
    return "mbv3" if space.final_width else "proxyless"


def table_keys(layers: Sequence[Layer], style: str) -> list[str]:
    """Keys of the layers of one block position, one an operator.

    Parameters
    ----------
    layers : sequence of Layer
        Of one context of a `Block`.
    style : str
        See `key_style`. MobileNetV3 tables state the middle channels, and whether there is squeeze-excite and
        h-swish; ProxylessNAS tables state the expand ratio alone.
    """
    return [key for key, _ in _keyed_operators(layers, style)]


def _keyed_operators(layers: Sequence[Layer], style: str) -> list[tuple[str, list[Layer]]]:
    keyed: list[tuple[str, list[Layer]]] = []
    pooling: list[Layer] = []
    for operator in _split_operators(layers):
        first, last = operator[0], operator[-1]
        shapes = f"input:{_map(first.h_in, first.c_in)}-output:{_map(last.h_out, last.c_out)}"
        depthwise = next((la for la in operator if la.kind == "depthwise"), None)
        if depthwise is not None:
            expand = depthwise.c_in if style == "mbv3" else round(depthwise.c_in / first.c_in)
            key = (
                f"expanded_conv-{shapes}-expand:{expand}-kernel:{depthwise.kernel}"
                f"-stride:{depthwise.stride}-idskip:{int(last.residual)}"
            )
            if style == "mbv3":
                squeeze = any(la.name.endswith("se.pool") for la in operator)
                key += f"-se:{int(squeeze)}-hs:{int(depthwise.activation == 'h_swish')}"
            keyed.append((key, operator))
        elif len(operator) > 1:  # ResNet's bottleneck
            middle = operator[1]
            projected = any(".downsample" in la.name for la in operator)
            keyed.append(
                (
                    f"bottleneck-{shapes}-mid:{middle.c_out}-kernel:{middle.kernel}"
                    f"-stride:{middle.stride}-downsample:{int(projected)}",
                    operator,
                )
            )
        elif first.kind == "linear":
            # Only MobileNetV3 tables have the pooling apart from the classifier.
            side = pooling[0].h_in if pooling else 1
            key = f"Logits-input:{_map(side, first.c_in)}-output:{first.c_out}"
            keyed.append((key, [*pooling, first]))
        elif first.kind == "pool" and first.h_out == 1:
            if style == "mbv3":
                keyed.append((f"AvgPool2D-{shapes}", operator))
            else:
                pooling = operator
        elif first.kind == "pool":
            keyed.append((f"MaxPool2D-{shapes}", operator))
        elif style == "resnet50":
            keyed.append((f"Conv-{shapes}-stride:{first.stride}-idskip:{int(first.residual)}", operator))
        elif first.kernel > 1:
            keyed.append((f"Conv-{shapes}", operator))
        else:
            keyed.append((f"{'Conv_2' if first.h_in == 1 else 'Conv_1'}-{shapes}", operator))
    return keyed


class LookupTable(SubnetModel):
    """Latency as the sum of a table's entries, as the official code predicts it.

    Parameters
    ----------
    space : Space
        One of Once-for-All's.
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
    n_classes = 1000
    space: Space

    def __init__(self, space: Space, entries: Mapping[int, Mapping[str, float]], source: str = "") -> None:
        self.space = space
        self.resolutions = tuple(sorted(r for r in entries if r in space.resolutions))
        if not self.resolutions:
            raise UserError(f"{source or 'the lookup table'} covers no resolution of the space {space.name}")
        structure = block_structure(space)
        style = key_style(space)
        tables = []
        for block in structure.blocks:
            table = np.full(len(block.contexts), np.inf)
            for i, gene_values in enumerate(np.ndindex(*block.choices)):
                resolution = space.resolutions[gene_values[-1]]
                if resolution not in entries:
                    continue
                lut = entries[resolution]
                total = 0.0
                for key in table_keys(block.contexts[i], style):
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
        return cls(space, read_entries(Path(path)), str(path))

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
        genes = as_genes(self.space, archs)
        values = self(genes)
        if not np.isfinite(values).all():
            i = int(np.flatnonzero(~np.isfinite(values))[0])
            r = self.space.resolutions[genes[i, -1]]
            raise UsageError(
                f"there is no lookup table for resolution {r}; "
                f"covered: {', '.join(map(str, self.resolutions))}"
            )
        return values


def table_entries(
    space: Space, tables: BlockTables, resolutions: Sequence[int], n_classes: int = 1000
) -> dict[int, dict[str, float]]:
    """Entries of lookup tables whose sums are those of block tables: resolution -> key -> ms.

    What lies before the first stage and behind the last is known as a whole; its time is shared out to its
    operators by the bytes and multiply-adds that they take. The constant goes to the first convolution.

    Raises
    ------
    UserError
        If a block takes no time at a resolution, because it was not measured there.
    """
    structure, style = block_structure(space, n_classes), key_style(space)
    entries: dict[int, dict[str, float]] = {r: {} for r in resolutions}
    for block, times in zip(structure.blocks, tables.tables, strict=True):
        for resolution, known in entries.items():
            forms = range(space.resolutions.index(resolution), len(times), block.choices[-1])
            active = [i for i in forms if block.contexts[i]]
            for i in active:
                if not times[i] > 0:
                    raise UserError(
                        f"no time is known for {block.contexts[i][0].name} of {space.name} at resolution "
                        f"{resolution}; tune or measure there first"
                    )
            keyed = [_keyed_operators(block.contexts[i], style) for i in active]
            known.update(_shared_out(keyed, times[active]))
            if block.stage < 0 and tables.constant:
                for first in {operators[0][0] for operators in keyed}:
                    known[first] += tables.constant
    return entries


def _shared_out(
    keyed: Sequence[Sequence[tuple[str, Sequence[Layer]]]], times: np.ndarray
) -> dict[str, float]:
    """Times of operators that add up to those of the forms of a block that they make up, as far as any do;
    what that leaves open follows the operators' sizes."""
    sizes = {
        key: float(sum(la.macs + 8 * la.c_in * la.h_in**2 for la in o)) for form in keyed for key, o in form
    }
    column = {key: j for j, key in enumerate(sizes)}
    design = np.zeros((len(keyed), len(sizes)))
    for i, form in enumerate(keyed):
        for key, _ in form:
            design[i, column[key]] = sizes[key]
    pace = float(np.median(times / design.sum(axis=1)))
    change = np.linalg.lstsq(design, times - pace * design.sum(axis=1), rcond=None)[0]
    shares = np.maximum(pace + change, 1e-3 * pace)
    return {key: float(shares[j] * sizes[key]) for key, j in column.items()}


def write_tables(
    entries: Mapping[int, Mapping[str, float]],
    folder: str | os.PathLike[str],
    suffix: str = "yaml",
    remark: str = "",
) -> list[Path]:
    """Write one file a resolution, `<r>_lookup_table.<suffix>`, as the official tools read them.

    Parameters
    ----------
    suffix : "yaml" or "json"
    remark
        A line for whoever opens a file: a comment in YAML (JSON has none).

    Raises
    ------
    UserError
        If the folder cannot be written.
    """
    files = []
    for resolution, keys in sorted(entries.items()):
        content = {key: {"mean": keys[key], "std": 0.0, "count": 1} for key in sorted(keys)}
        if suffix == "json":
            text = json.dumps(content, indent=1) + "\n"
        else:
            text = (f"# {remark}\n" if remark else "") + write_yaml(content)
        files.append(Path(folder) / f"{resolution}_lookup_table.{suffix}")
        write_atomic(files[-1], text)
    return files


def read_entries(path: Path) -> dict[int, dict[str, float]]:
    """Times by key and resolution of one table, or of all `*_lookup_table.{yaml,json}` of a folder.

    Raises
    ------
    UserError
        If there is none, or one is damaged or holds a time that is not above 0.
    """
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
    return entries


def _read_entries(file: Path) -> dict[str, float]:
    text = read_text(file, _MOST_BYTES)
    try:
        content = parse_json(text) if file.suffix == ".json" else parse_yaml(text)
    except ValueError as error:
        raise UserError(f"{file} is not a lookup table: {error}") from None
    if not isinstance(content, dict) or not content:
        raise UserError(f"{file} is not a lookup table: expected a mapping from operators to times")
    entries = {}
    for key, value in content.items():
        mean: Any = value.get("mean") if isinstance(value, dict) else None
        if type(mean) not in (int, float) or not 0 < mean < math.inf:
            raise UserError(f"{file}: the entry {shown(key, 120)} has no time above 0 under 'mean'")
        entries[str(key)] = float(mean)
    return entries
