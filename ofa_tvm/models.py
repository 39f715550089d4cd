"""What fitted models of subnets share: how they are asked, and their files.

A model file is an npz without pickles: a header in JSON (format, kind, space, features, validation) and
arrays.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np

from ofa_tvm.errors import UsageError, UserError
from ofa_tvm.files import write_atomic
from ofa_tvm.spaces import Arch, LayeredSpace
from ofa_tvm.spaces.blocks import BlockStructure, BlockTables

FORMAT = 1

Function = Callable[[np.ndarray], np.ndarray]
"""Genes (n, n_genes) -> values (n,)."""


def as_genes(space: LayeredSpace, archs: Sequence[Arch] | np.ndarray) -> np.ndarray:
    """A population as genes, whichever way it came: (n, n_genes)."""
    return archs if isinstance(archs, np.ndarray) else space.encode(archs)


class SubnetModel(ABC):
    """A fitted quantity of a space's subnets (scikit-learn's `predict`); calling it takes genes."""

    space: LayeredSpace

    @abstractmethod
    def __call__(self, genes: np.ndarray) -> np.ndarray:
        """`predict` for genes (n, n_genes) -> (n,); what searches call."""

    def predict(self, archs: Sequence[Arch] | np.ndarray) -> np.ndarray:
        """Predictions (n,) for n architectures or their genes, in the unit of the training data."""
        return self(as_genes(self.space, archs))


class UncertainSubnetModel(SubnetModel):
    """A `SubnetModel` that also knows how far off it may be."""

    @abstractmethod
    def _std(self, genes: np.ndarray) -> np.ndarray:
        """Standard deviation (n,) of a measurement around the prediction."""

    @overload
    def predict(self, archs: Sequence[Arch] | np.ndarray, return_std: Literal[False] = ...) -> np.ndarray: ...

    @overload
    def predict(
        self, archs: Sequence[Arch] | np.ndarray, return_std: Literal[True]
    ) -> tuple[np.ndarray, np.ndarray]: ...

    def predict(
        self, archs: Sequence[Arch] | np.ndarray, return_std: bool = False
    ) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """Predictions for a population, in the unit of the training data.

        Parameters
        ----------
        archs : n architectures, or their genes (n, n_genes)
        return_std : bool
            Also return the standard deviation of a measurement around the prediction.

        Returns
        -------
        (n,) array, or two of them
        """
        genes = as_genes(self.space, archs)
        mean = self(genes)
        return (mean, self._std(genes)) if return_std else mean


def write_model(
    path: str | os.PathLike[str], kind: str, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> None:
    """Write a model file.

    Raises
    ------
    UserError
        If the file cannot be written.
    """
    text = json.dumps({"format": FORMAT, "kind": kind, **header})
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer, allow_pickle=False, header=np.frombuffer(text.encode(), dtype=np.uint8), **arrays
    )
    write_atomic(path, buffer.getvalue())


def read_model(path: str | os.PathLike[str], kind: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Header and arrays of a model file.

    Raises
    ------
    UserError
        If the file is missing, no model file, or of another format.
    UsageError
        If it holds a model of another kind.
    """
    header, arrays = _contents(path)
    found = header["kind"]
    if found != kind:
        raise UsageError(f"{path} holds a {found}, not a {kind}")
    if header.get("format") != FORMAT:
        raise UserError(
            f"{path} has format {header.get('format')}, this version reads {FORMAT}; fit it again"
        )
    return header, arrays


def model_kind(path: str | os.PathLike[str]) -> str:
    """What a model file holds, by its header.

    Raises
    ------
    UserError
        If the file is missing or no model file.
    """
    return str(_contents(path)[0]["kind"])


def _contents(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    try:
        with np.load(Path(path), allow_pickle=False) as data:
            arrays = {name: data[name] for name in data.files}
        header: dict[str, Any] = json.loads(arrays.pop("header").tobytes())
        header["kind"]
    except OSError as error:
        raise UserError(f"cannot read the model {path}: {error.strerror or error}") from error
    except Exception as error:  # zipfile, numpy and json each have their own for a damaged file
        raise UserError(f"{path} is not a model file of ofa-tvm, or it is damaged") from error
    return header, arrays


def tables_array(tables: BlockTables) -> np.ndarray:
    """Tables as one array of a model file: all entries, then the constant."""
    return np.append(tables.stacked, tables.constant)


def tables_of(structure: BlockStructure, array: np.ndarray, path: str | os.PathLike[str]) -> BlockTables:
    """What `tables_array` wrote to `path`.

    Raises
    ------
    UserError
        If the space has other blocks by now.
    """
    if array.shape != (sum(len(block.contexts) for block in structure.blocks) + 1,):
        raise UserError(f"{path} was made for another version of {structure.space.name}; fit it again")
    entries = array.astype(np.float64)
    return structure.unstacked(entries[:-1], float(entries[-1]))


def data_sha256(genes: np.ndarray, values: np.ndarray) -> str:
    """Checksum of a model's training data: genes (n, n_genes) and measured values (n,)."""
    digest = hashlib.sha256(np.ascontiguousarray(genes, dtype="<i2").tobytes())
    digest.update(np.ascontiguousarray(values, dtype="<f8").tobytes())
    return digest.hexdigest()


def check_fit(
    path: str | os.PathLike[str],
    header: Mapping[str, Any],
    genes: np.ndarray,
    values: np.ndarray,
    variances: np.ndarray,
    groups: int,
) -> None:
    """Refuse a stored fit that is not what was written, or not of this version.

    Parameters
    ----------
    genes, values : training data, whose checksum is in the header
    variances : of the groups of features and the noise
    groups : groups of features that this version has

    Raises
    ------
    UserError
        If the checksum or the number of variances differs.
    """
    if data_sha256(genes, values) != header["data_sha256"]:
        raise UserError(f"{path} is damaged: its data do not match its checksum")
    if len(variances) != groups + 1:
        raise UserError(f"{path} was fitted by another version of ofa-tvm; remove it and fit it again")
