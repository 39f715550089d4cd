"""Which kind of thing a path is, by what is in it more than by what it is called."""

from __future__ import annotations

import gzip
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ofa_tvm.deploy.artefact import MANIFEST
from ofa_tvm.errors import UserError, shorten
from ofa_tvm.files import require_file
from ofa_tvm.jsonfile import parse_json
from ofa_tvm.workflow.info.description import Description, refusal
from ofa_tvm.workflow.info.others import (
    describe_array,
    describe_picture,
    describe_tar,
    describe_zip,
    is_picture,
    known_kind,
)
from ofa_tvm.workflow.project import NAME

_HEAD_BYTES = 1 << 16
_MOST_BYTES = 1 << 26
_ELF, _ZIP, _NUMPY = b"\x7fELF", b"PK\x03\x04", b"\x93NUMPY"
_OPENERS: Mapping[bytes, Callable[[Path], Any]] = {b"\x1f\x8b": gzip.open, b"\xfd7zXZ": lzma.open}
_PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_TEXTS = {
    ".py": "is a Python program",
    ".ipynb": "is a notebook",
    ".md": "is a Markdown text",
    ".toml": "is a TOML file",
}
_PREDICTOR, _TORCH = "header.npy", "data.pkl"  # members of the archives that predictors and checkpoints are


def describe(path: Path) -> Description:
    """What a file or folder is, for what, how it was made, whether it is of use here, and what to do next.

    Nothing of it runs: modules are not loaded, checkpoints are read as tensors and plain values. torch is
    loaded for checkpoints and published networks alone, TVM never.

    Raises
    ------
    UserError
        If it is not there, cannot be read, is damaged so that nothing can be said, or is nothing that ofa-tvm
        makes or takes; says what it seems to be.
    """
    if path.is_dir():
        from ofa_tvm.workflow.info.folders import describe_folder

        return describe_folder(path)
    require_file(path)
    head = _head(path)
    if head.startswith(_ELF):
        from ofa_tvm.workflow.info.compiled import describe_module

        return describe_module(path)
    if head.startswith(_ZIP):
        return _archive(path)
    if head.startswith(_PICKLES) or (head and path.suffix in (".pt", ".pth")):
        return _checkpoint(path)
    if head.startswith(_NUMPY):
        return describe_array(path)
    if (known := known_kind(head)) is not None:
        raise refusal(path, *known)
    if is_picture(path):
        return describe_picture(path)
    if tarfile.is_tarfile(path):
        return _tar(path, head)
    return _text_or_onnx(path, head)


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as handle:
            head = handle.read(_HEAD_BYTES)
    except FileNotFoundError:
        raise UserError(f"there is no file or folder {path}") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"cannot read {shorten(str(path), 100)}: {reason}") from error
    if not head:
        raise refusal(path, "is an empty file")
    return head


def _archive(path: Path) -> Description:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError):
        names = []
    if _PREDICTOR in names or path.suffix == ".model":
        from ofa_tvm.workflow.info.predictors import describe_predictor

        return describe_predictor(path)
    if any(name.rpartition("/")[2] == _TORCH for name in names) or path.suffix in (".pt", ".pth"):
        return _checkpoint(path)
    return describe_zip(path)


def _checkpoint(path: Path) -> Description:
    from ofa_tvm.workflow.info.checkpoints import describe_checkpoint

    return describe_checkpoint(path)


def _tar(path: Path, head: bytes) -> Description:
    if head.startswith(tuple(_OPENERS)):
        raise refusal(
            path, "is a packed tar archive", f"unpack it first (tar xf {path}), then ask about what is in it"
        )
    return describe_tar(path)


def _text_or_onnx(path: Path, head: bytes) -> Description:
    opener = next((opener for magic, opener in _OPENERS.items() if head.startswith(magic)), None)
    if opener is not None:
        try:
            with opener(path) as handle:
                head = handle.read(_HEAD_BYTES)
        except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
            raise UserError(
                f"{path} is a packed file that is damaged ({shorten(str(error), 80)}); copy it anew"
            ) from error
    try:
        text = head.decode("utf-8-sig", "ignore" if len(head) == _HEAD_BYTES else "strict")
        text = "" if "\0" in text else text
    except UnicodeDecodeError:
        text = ""
    if text and path.suffix != ".onnx":
        return _text(path, text, packed=opener is not None)
    if path.suffix == ".onnx" or head[:1] == b"\x08":  # the field that exporters write first
        from ofa_tvm.workflow.info.networks import describe_onnx

        try:
            return describe_onnx(path)
        except UserError:
            if path.suffix == ".onnx":
                raise
    raise refusal(path, "is a binary file of a kind that ofa-tvm does not know")


def _text(path: Path, head: str, *, packed: bool) -> Description:
    from ofa_tvm.workflow.info.tables import describe_table, is_table

    start = head.lstrip("\ufeff \t\r\n")
    if is_table(start):
        return describe_table(path)
    kind = _TEXTS.get(path.suffix)
    if kind is None and start.startswith("{"):
        return _json(path, start, packed=packed)
    if path.suffix in (".yaml", ".yml"):
        return _yaml(path)
    if start[:15].lower().startswith(("<!doctype html", "<html")):
        raise refusal(path, "is a web page", "open it in a browser; `ofa-tvm report` writes such pages")
    if path.suffix == ".csv":
        first = shorten(start.partition("\n")[0].strip(), 60)
        raise refusal(
            path,
            f"is a table whose first column is not of subnets (its heading is {first!r})",
            "info takes tables of latencies and accuracies, which begin with the column arch",
        )
    raise refusal(path, kind or "is a text file of a kind that ofa-tvm does not know")


def _yaml(path: Path) -> Description:
    from ofa_tvm.workflow.info.texts import describe_yaml

    if path.name != NAME and (found := describe_yaml(path)) is not None:
        return found
    if path.name not in (NAME, MANIFEST):
        raise refusal(path, f"is an artefact's manifest, which is called {MANIFEST}", "rename it")
    return describe(path.parent)


def _json(path: Path, head: str, *, packed: bool) -> Description:
    """JSON lines by their first one, else a JSON document."""
    first = head.partition("\n")[0]
    try:
        line = parse_json(first, nan=True)
    except ValueError:
        line = None
    if path.name == "stages.json":
        return describe(path.parent)
    lined = path.suffix == ".jsonl" or packed or "\n{" in head
    if isinstance(line, dict) and (lined or "format" in line):
        return _json_lines(path, line)
    from ofa_tvm.workflow.info.texts import describe_json

    try:
        content = parse_json(_content(path).decode("utf-8-sig"), nan=True)
    except (ValueError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} begins as JSON and is none: {shorten(str(error), 100)}; copy it anew"
        ) from None
    return describe_json(path, content)


def _json_lines(path: Path, first: Mapping[str, Any]) -> Description:
    from ofa_tvm.workflow.info import tables
    from ofa_tvm.workflow.info.trainings import describe_metrics
    from ofa_tvm.workflow.info.tuning import describe_log

    if "format" in first or {"kernel", "trace"} <= first.keys():
        return describe_log(path)
    lines = [line for line in _content(path).decode("utf-8", "replace").splitlines() if line.strip()]
    if path.name.endswith(".meta.jsonl"):
        return tables.describe_notes(path)
    if {"key", "arch", "accuracy"} <= first.keys():
        return tables.describe_evaluations(path, _readable(lines))
    if "phase" in first and "phase_index" in first:
        return describe_metrics(path)
    if "d" in first and "r" in first:
        return tables.describe_archs(path, lines)
    raise refusal(path, f"holds JSON lines with the keys {', '.join(map(str, list(first)[:6]))}")


def _readable(lines: list[str]) -> list[dict[str, Any]]:
    """Lines that are JSON; a torn one is left out."""
    found = []
    for line in lines:
        try:
            content = parse_json(line)
        except ValueError:
            continue
        if isinstance(content, dict):
            found.append(content)
    return found


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as handle:
            data = handle.read(_MOST_BYTES + 1)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    if len(data) > _MOST_BYTES:
        raise refusal(path, f"is a text file of more than {_MOST_BYTES >> 20} MiB")
    return data
