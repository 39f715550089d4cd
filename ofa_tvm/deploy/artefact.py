"""The artefact folder: written whole or not at all, checked whenever it is opened."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ofa_tvm.confusion import Confusion
from ofa_tvm.deploy.bare import RUNTIME, BareRuntime
from ofa_tvm.deploy.classify import Classifier, Prediction
from ofa_tvm.deploy.manifest import Manifest
from ofa_tvm.deploy.manifest_schema import MANIFEST_SCHEMA
from ofa_tvm.devices.runner import SCRIPT
from ofa_tvm.errors import UsageError, UserError
from ofa_tvm.files import sha256, write_atomic
from ofa_tvm.jsonfile import parse_json
from ofa_tvm.runtime import Runner, load_for
from ofa_tvm.targets import Target
from ofa_tvm.temporaries import exchange, remove_dead, temporary_beside
from ofa_tvm.yamlfile import write_yaml

MODULE, ONNX, MANIFEST = "model.so", "model.onnx", "manifest.yaml"
CONFUSION = "confusion.json"  # classes that the module got right on test images, and its mistakes


@dataclass(frozen=True)
class Artefact:
    """An opened artefact: every file is there and has the checksum that the manifest states."""

    folder: Path
    manifest: Manifest
    device: Target | None = None

    def on(self, target: Target | None) -> Artefact:
        """The same artefact, run on a target's device instead of this machine."""
        return replace(self, device=target)

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Artefact:
        """Open and check an artefact folder.

        Raises
        ------
        UserError
            If it is missing or no artefact, its manifest is broken (with line and key), or a file is missing
            or differs from its checksum.
        """
        root = Path(folder)
        if not root.is_dir():
            raise UserError(f"no artefact folder {root}; `ofa-tvm search -o {root}` writes one")
        if not (root / MANIFEST).is_file():
            raise UserError(f"{root} is not an artefact: it holds no {MANIFEST}")
        manifest = Manifest.read(root / MANIFEST)
        require_files(root, manifest)
        return cls(root, manifest)

    @property
    def module_path(self) -> Path:
        """The compiled module."""
        return self.folder / MODULE

    @property
    def onnx_path(self) -> Path:
        """The network that it was compiled from."""
        return self.folder / ONNX

    @cached_property
    def runner(self) -> Runner:
        """The loaded module.

        Raises
        ------
        UserError
            If it can run neither on this machine nor in the emulator.
        """
        return Runner(load_for(self.module_path, self.device))

    @cached_property
    def classifier(self) -> Classifier:
        """The loaded module with its preprocessing and labels.

        Raises
        ------
        UserError
            If the manifest has no preprocessing.
        """
        if self.manifest.preprocessing is None:
            raise UserError(f"{self.folder / MANIFEST} says nothing of preprocessing: it takes no pictures")
        return Classifier(self.runner, self.manifest.preprocessing, self.manifest.labels)

    @cached_property
    def confusion(self) -> Confusion | None:
        """How the module answered on the images of the manifest's accuracy; None where that is not known.

        Raises
        ------
        UserError
            If the file is damaged.
        """
        path = self.folder / CONFUSION
        if CONFUSION not in self.manifest.sha256:
            return None
        try:
            return Confusion.from_dict(parse_json(path.read_bytes()))
        except (OSError, ValueError, UserError) as error:
            raise UserError(f"cannot read {path}: {error}") from error

    def classify(self, images: Sequence[str | os.PathLike[str]], top_k: int = 1) -> list[list[Prediction]]:
        """The `top_k` likeliest classes of each picture file; see `Classifier.classify`."""
        return self.classifier.classify(images, top_k)


def require_files(root: Path, manifest: Manifest) -> None:
    """Refuse a folder whose files are not those that its manifest is of.

    Raises
    ------
    UserError
        If one is missing or differs from its checksum.
    """
    for name, digest in manifest.sha256.items():
        if not (root / name).is_file():
            raise UserError(f"{root / name} is missing from the artefact; copy the whole folder again")
        if sha256(root / name) != digest:
            raise UserError(
                f"{root / name} is damaged or was changed (its sha256 is not the manifest's); "
                "copy the folder again or make the artefact anew"
            )


def write_artefact(
    folder: str | os.PathLike[str],
    so: str | os.PathLike[str],
    onnx: str | os.PathLike[str],
    manifest: Manifest,
    *,
    confusion: Confusion | None = None,
    runtime: BareRuntime | None = None,
) -> Artefact:
    """Write an artefact folder: all of it appears at once, or nothing changes.

    An artefact that is already there is replaced; other files in its folder stay.

    Parameters
    ----------
    folder
        Where to.
    so, onnx
        Compiled module and its ONNX; both are copied.
    manifest
        What is known of the module. Labels, preprocessing, inputs and outputs come from the ONNX file unless
        given; date, versions and checksums are added.
    confusion
        How the module answered on test images.
    runtime
        What the folder brings along, to run on a bare device (`bare_runtime`).

    Raises
    ------
    UsageError
        If `folder` holds something that is not an artefact.
    UserError
        If a file cannot be read or written, or the manifest breaks the schema.
    """
    root = Path(folder)
    if root.exists() and not root.is_dir():
        raise UsageError(f"{root} is a file; name a folder for the artefact")
    if root.is_dir() and any(root.iterdir()) and not (root / MANIFEST).is_file():
        raise UsageError(f"{root} is not empty and not an artefact; choose another folder")
    remove_dead(root.parent, root.name)
    stage = temporary_beside(root)
    try:
        stage.mkdir(parents=True)
        _keep_other_files(root, stage)
        _copy(Path(so), stage / MODULE)
        _copy(Path(onnx), stage / ONNX)
        if confusion is not None:
            write_atomic(stage / CONFUSION, confusion.to_json(data=manifest.accuracy.data))
        if runtime is not None:
            runtime.write(stage, MODULE)
        write_atomic(stage / MANIFEST, write_yaml(_complete(manifest, stage)))
        Manifest.read(stage / MANIFEST)
        _swap(stage, root)
    except OSError as error:
        raise UserError(f"cannot write the artefact {root}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    return Artefact.open(root)


def _copy(source: Path, destination: Path) -> None:
    if not source.is_file():
        raise UserError(f"cannot write the artefact: {source} does not exist")
    write_atomic(destination, source.read_bytes())


def _keep_other_files(root: Path, stage: Path) -> None:
    if not root.is_dir():
        return
    for path in root.iterdir():
        if path.name in (MODULE, ONNX, MANIFEST, CONFUSION, RUNTIME, SCRIPT):
            continue
        if path.is_dir():
            shutil.copytree(path, stage / path.name)
        else:
            shutil.copy2(path, stage / path.name)


def _swap(stage: Path, root: Path) -> None:
    if root.exists():
        shutil.rmtree(exchange(stage, root))
    else:
        stage.rename(root)


def _complete(manifest: Manifest, stage: Path) -> dict[str, Any]:
    maybe = [stage / CONFUSION, *sorted((stage / RUNTIME).glob("*")), stage / SCRIPT]
    files = [stage / MODULE, stage / ONNX, *(file for file in maybe if file.is_file())]
    content = {
        **_from_onnx(stage / ONNX),
        **manifest.to_dict(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": _versions(),
        "sha256": {str(file.relative_to(stage)): sha256(file) for file in files},
    }
    ordered = {key: content[key] for key in MANIFEST_SCHEMA["properties"] if key in content}
    # Through JSON, so that numpy scalars fail or become plain here and not in the reader.
    return dict(json.loads(json.dumps(ordered)))


def _from_onnx(path: Path) -> dict[str, Any]:
    import onnx

    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf's DecodeError has no stable public home
        raise UserError(f"cannot write the artefact: {path.name} is not an ONNX file") from error
    notes = {item.key: item.value for item in model.metadata_props}
    content: dict[str, Any] = {
        "inputs": [_tensor(value) for value in model.graph.input],
        "outputs": [_tensor(value) for value in model.graph.output],
    }
    for key in ("labels", "preprocessing"):
        try:
            value = parse_json(notes.get(key, "null"))
        except ValueError as error:
            raise UserError(f"{path.name} has metadata {key!r} that is not JSON: {error}") from None
        if value:
            content[key] = value
    return content


def _tensor(value: Any) -> dict[str, Any]:
    from onnx import helper

    kind = value.type.tensor_type
    return {
        "name": value.name,
        "shape": [size.dim_value for size in kind.shape.dim],
        "dtype": str(helper.tensor_dtype_to_np_dtype(kind.elem_type)),
    }


def _versions() -> dict[str, str]:
    from ofa_tvm import __version__

    found = {"ofa-tvm": __version__}
    for name in ("apache-tvm", "onnx"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # a runtime copied by hand has no package record
            continue
    return found
