"""`ofa-tvm.yaml`: what the verbs need not be told again, because it belongs to the project they run in."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from ofa_tvm.errors import UsageError
from ofa_tvm.files import write_atomic
from ofa_tvm.number_formats import Arithmetic
from ofa_tvm.yamlfile import read_yaml, write_yaml

NAME = "ofa-tvm.yaml"
CALIBRATION_IMAGES = 2000  # the paper's
ACCURACY_SAMPLES, LATENCY_SAMPLES = 80, 40  # random subnets that predictors are learned from

PROJECT_SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "space": {"type": "string"},
        "checkpoint": {"type": "string"},
        "int8_checkpoint": {"type": "string"},
        "data": {"type": "string"},
        "bad_images": {"enum": ["refuse", "skip"]},
        "resolutions": {"type": "array", "items": {"type": "integer", "exclusiveMinimum": 0}, "minItems": 1},
        "accuracy_predictor": {"type": "string"},
        "tuning_logs": {"type": "string"},
        "calibration_images": {"type": "integer", "minimum": 1},
    },
}


@dataclass(frozen=True)
class Project:
    """Settings of one project; None is "not set".

    Parameters
    ----------
    folder
        Where the file lies; relative paths in it are relative to this.
    space
        Name of the search space.
    checkpoint
        The trained supernet.
    int8_checkpoint
        The same after it was trained for int8; without it that is done by ranges alone.
    data
        "digits", or a path to images.
    bad_images
        What to do about files there that are no images; part of the project, because the splits are drawn
        among what is left.
    resolutions
        Those to tune for and search in.
    accuracy_predictor
        A fitted predictor.
    tuning_logs
        Folder of this project's tuning logs.
    calibration_images
        Training images behind a subnet's batch statistics, wherever one is evaluated or shipped.
    """

    folder: Path
    space: str = "ofa_mbv3_w1.0"
    checkpoint: Path | None = None
    int8_checkpoint: Path | None = None
    data: str | None = None
    bad_images: Literal["refuse", "skip"] = "refuse"
    resolutions: tuple[int, ...] | None = None
    accuracy_predictor: Path | None = None
    tuning_logs: Path = Path("tuning_logs")
    calibration_images: int = CALIBRATION_IMAGES

    def path(self, value: Path) -> Path:
        """A path of this file as seen from anywhere."""
        return self.folder / value

    def weights(self, dtype: Arithmetic) -> Path | None:
        """The supernet whose subnets compute in `dtype`."""
        given = self.int8_checkpoint if dtype == "int8" and self.int8_checkpoint else self.checkpoint
        return None if given is None else self.path(given)

    def save(self) -> Path:
        """Write `ofa-tvm.yaml` into the folder; returns its path."""
        content: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name != "folder" and value is not None:
                content[field.name] = (
                    list(value)
                    if isinstance(value, tuple)
                    else str(value)
                    if isinstance(value, Path)
                    else value
                )
        file = self.folder / NAME
        write_atomic(file, write_yaml(content))
        return file


def read_project(file: Path) -> Project:
    """Read one `ofa-tvm.yaml`.

    Raises
    ------
    UserError
        If it cannot be read or has an unknown key; the sentence names line and key.
    """
    content = read_yaml(file, PROJECT_SCHEMA)
    for key in ("checkpoint", "int8_checkpoint", "accuracy_predictor", "tuning_logs"):
        if key in content:
            content[key] = Path(content[key])
    if "resolutions" in content:
        content["resolutions"] = tuple(content["resolutions"])
    return Project(folder=file.resolve().parent, **content)


def find_project(start: Path | None = None) -> Project:
    """The nearest project: `ofa-tvm.yaml` in `start` or a folder above it, else the stated defaults.

    Raises
    ------
    UsageError
        If `start` does not exist.
    UserError
        If the file that is found is broken.
    """
    folder = (start or Path.cwd()).resolve()
    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder}")
    for candidate in (folder, *folder.parents):
        if (candidate / NAME).is_file():
            return read_project(candidate / NAME)
    return Project(folder=folder)
