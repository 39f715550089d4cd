"""Files of fitted models.

A model file is an npz without pickles: a header in JSON (format, kind, space, features, validation) and
arrays.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np

from ofa_tvm.errors import UsageError, UserError, shorten, shown
from ofa_tvm.estimators.contract import SubnetModel
from ofa_tvm.estimators.scales import Learned
from ofa_tvm.files import write_atomic
from ofa_tvm.jsonfile import parse_json
from ofa_tvm.schema import first_problem, key_path
from ofa_tvm.spaces import LayeredSpace
from ofa_tvm.spaces.blocks import BlockStructure, BlockTables

FORMAT = 3
# 1 kept neither the weights of a fit's rows nor, for networks, the names of the features.
_READ = (1, 2, FORMAT)
_MOST_BYTES = 1 << 28
_MOST_LOG_VARIANCE = 100.0
_MOST_WEIGHT = 1e30

# Of headers, for `read_model`.
TEXT: Mapping[str, Any] = {"type": "string"}
NUMBER: Mapping[str, Any] = {"type": "number", "minimum": -1e30, "maximum": 1e30}
COUNT: Mapping[str, Any] = {"type": "integer", "minimum": 0, "maximum": 10**9}
CLASSES: Mapping[str, Any] = {"type": "integer", "minimum": 1, "maximum": 10**6}
FLAG: Mapping[str, Any] = {"type": "boolean"}
SCORES: Mapping[str, Any] = {"type": "object", "additionalProperties": {"type": "float"}}


def between(least: float, most: float) -> dict[str, Any]:
    """Schema of a number."""
    return {"type": "number", "minimum": least, "maximum": most}


def record(properties: Mapping[str, Any]) -> dict[str, Any]:
    """Schema of a mapping with exactly these keys; older files may lack those with a default."""
    return {
        "type": "object",
        "properties": dict(properties),
        "required": _required(properties),
        "additionalProperties": False,
    }


def _required(properties: Mapping[str, Any]) -> list[str]:
    return sorted(key for key, schema in properties.items() if "default" not in schema)


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


def read_model(
    path: str | os.PathLike[str],
    kind: str,
    header_schema: Mapping[str, Any] | None = None,
    arrays: Sequence[str] = (),
    features: Sequence[str] | None = None,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Header and arrays of a model file; every number in the arrays is finite.

    Parameters
    ----------
    kind
        Of the model that is wanted.
    header_schema
        Schemas of the header's keys, each of which must be there; older files may lack those with a default.
    arrays
        Names of those that must be there.
    features
        Names of those that this version fits such models to.

    Raises
    ------
    UserError
        If the file is missing, no model file, damaged, or of another format.
    UsageError
        If it holds a model of another kind.
    """
    header, found = _contents(path)
    if header["kind"] != kind:
        raise UsageError(f"{path} holds a {shorten(str(header['kind']), 40)}, not a {kind}")
    if type(header.get("format")) is not int or header["format"] not in _READ:
        read = " and ".join(map(str, _READ))
        raise UserError(
            f"{path} has format {shown(header.get('format'), 20)}, this version reads {read}; fit it again"
        )
    keys = header_schema or {}
    required = sorted(keys) if header["format"] == FORMAT else _required(keys)
    schema = {"type": "object", "required": required, "properties": keys}
    if (problem := first_problem(header, schema)) is not None:
        where = "".join(f" {key}:" for key in [key_path(problem[0])] if key)
        raise damaged(path, f"in its header{where} {problem[1]}")
    for key, schema in keys.items():
        if "default" in schema:
            header.setdefault(key, schema["default"])
    stored = header.get("features", features if header["format"] == 1 else None)
    if features is not None and (not isinstance(stored, Sequence) or list(stored) != list(features)):
        raise UserError(f"{path} was fitted to other features by another version of ofa-tvm; fit it again")
    for name in arrays:
        if name not in found:
            raise damaged(path, f"it lacks {name}")
    for name, array in found.items():
        if array.dtype.kind not in "iuf" or not np.isfinite(array).all():
            raise damaged(path, f"not all of {shown(name, 40)} are finite numbers")
    return header, found


def damaged(path: str | os.PathLike[str], why: str) -> UserError:
    """What is said of a file that was not written by `write_model`, or not left as it was."""
    return UserError(f"{path} is damaged: {why}; fit it again")


S = TypeVar("S", bound=LayeredSpace)


def space_of(
    path: str | os.PathLike[str],
    header: Mapping[str, Any],
    get: Callable[[str], S],
    given: LayeredSpace | None,
) -> S:
    """The space that a header names: the one that is `given` if it is called so.

    Raises
    ------
    UserError
        If there is none of that name.
    """
    if given is not None and given.name == header["space"]:
        return cast("S", given)
    try:
        return get(header["space"])
    except UsageError as error:
        raise damaged(path, f"it is for the unknown space {shown(header['space'], 40)}") from error


@contextmanager
def rebuilding(path: str | os.PathLike[str]) -> Iterator[None]:
    """Around the making of a model from what `read_model` gave, whose parts may not belong together.

    Raises
    ------
    UserError
        For whatever the arithmetic raises, and for numbers that overflow or are none.
    """
    try:
        with np.errstate(over="raise", invalid="raise", divide="raise"):
            yield
    except (ArithmeticError, LookupError, MemoryError, TypeError, ValueError) as error:
        raise damaged(path, "its parts do not belong together") from error


def check_predictions(path: str | os.PathLike[str], model: SubnetModel) -> None:
    """Refuse a model that was read from a file and gives no numbers.

    Raises
    ------
    UserError
        If the prediction of one of 64 random subnets is not finite.
    """
    with rebuilding(path):
        genes = model.space.sample_genes(np.random.default_rng(0), 64)
        if not np.isfinite(model(genes)).all():
            raise ValueError


def genes_array(path: str | os.PathLike[str], space: LayeredSpace, array: np.ndarray) -> np.ndarray:
    """Genes (n, n_genes) of a model file, int64.

    Raises
    ------
    UserError
        If they are none of the space.
    """
    if array.ndim != 2 or array.shape[1] != len(space.cardinalities) or array.dtype.kind not in "iu":
        raise damaged(path, f"its subnets are none of {space.name}")
    if not len(array) or ((array < 0) | (array >= space.cardinalities)).any():
        raise damaged(path, f"its subnets are none of {space.name}")
    return array.astype(np.int64)


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
        with zipfile.ZipFile(Path(path)) as archive:
            if sum(item.file_size for item in archive.infolist()) > _MOST_BYTES:
                raise ValueError
        with np.load(Path(path), allow_pickle=False) as data:
            arrays = {name: data[name] for name in data.files}
        if not all(isinstance(array, np.ndarray) for array in arrays.values()):
            raise ValueError  # members that are no arrays, numpy gives as bytes
        header: dict[str, Any] = parse_json(arrays.pop("header").tobytes(), nan=True)
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


def learned_arrays(learned: Learned) -> dict[str, np.ndarray]:
    """What a model file keeps of a fit; `learned_of` reads it."""
    arrays = {"log_variances": learned.log_variances}
    return arrays if learned.row_weights is None else arrays | {"row_weights": learned.row_weights}


def learned_of(
    path: str | os.PathLike[str],
    header: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    genes: np.ndarray,
    values: np.ndarray,
    groups: int,
) -> Learned:
    """What a stored fit had learned.

    Parameters
    ----------
    genes, values : training data, whose checksum is in the header
    groups : groups of features that this version has

    Raises
    ------
    UserError
        If the checksum or the number of variances differs, or they are those of no fit.
    """
    if values.shape != (len(genes),) or data_sha256(genes, values) != header["data_sha256"]:
        raise UserError(f"{path} is damaged: its data do not match its checksum")
    variances, weights = arrays["log_variances"], arrays.get("row_weights")
    if not (np.abs(variances) < _MOST_LOG_VARIANCE).all():
        raise damaged(path, "its variances are those of no fit")
    if variances.ndim != 1 or len(variances) != groups + 1:
        raise UserError(f"{path} was fitted by another version of ofa-tvm; remove it and fit it again")
    if weights is None and header["format"] > 1:
        raise damaged(path, "it lacks row_weights")
    if weights is not None and (
        weights.shape != values.shape or not ((weights > 0) & (weights < _MOST_WEIGHT)).all()
    ):
        raise damaged(path, "its row_weights are those of no fit")
    return Learned(variances, weights)
