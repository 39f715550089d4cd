"""What one subnet answers on every image of a split: its confusion matrix, kept in a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ofa_tvm.accuracy.cache import AccuracyCache
from ofa_tvm.accuracy.evaluate import evaluation_key
from ofa_tvm.confusion import Confusion, confusion
from ofa_tvm.errors import UserError
from ofa_tvm.files import write_atomic
from ofa_tvm.jsonfile import parse_json
from ofa_tvm.progress import SILENT, Progress
from ofa_tvm.spaces import Arch
from ofa_tvm.supernet import Supernet, dtype_of
from ofa_tvm.training.data import ImageData, split_name
from ofa_tvm.training.validation import answers, calibrated_subnet


@dataclass(frozen=True)
class SubnetAnswers:
    """A confusion matrix, and what it is of.

    Attributes
    ----------
    key
        Of the evaluation: see `evaluation_key`.
    arch, dtype
        The subnet.
    data, split
        The images.
    confusion
        Its answers.
    """

    key: str
    arch: Arch
    dtype: str
    data: str
    split: str
    confusion: Confusion

    def write(self, path: Path) -> None:
        """Write the file.

        Raises
        ------
        UserError
            If that is not possible.
        """
        notes = {
            "key": self.key,
            "arch": self.arch.to_dict(),
            "dtype": self.dtype,
            "data": self.data,
            "split": self.split,
        }
        write_atomic(path, self.confusion.to_json(**notes))


def read_answers(path: Path) -> SubnetAnswers | None:
    """What `SubnetAnswers.write` wrote; None where there is nothing that can be read."""
    try:
        content = parse_json(path.read_bytes())
        texts = {name: str(content[name]) for name in ("key", "dtype", "data", "split")}
        return SubnetAnswers(
            arch=Arch.from_dict(content["arch"]), confusion=Confusion.from_dict(content), **texts
        )
    except (OSError, ValueError, KeyError, TypeError, UserError):
        return None


def subnet_answers(
    net: Supernet,
    arch: Arch,
    data: ImageData,
    split: str = "val",
    *,
    calibration_images: int = 2000,
    path: Path | None = None,
    cache_path: Path | None = None,
    seed: int = 0,
    progress: Progress = SILENT,
) -> SubnetAnswers:
    """How a subnet classifies a split at its own resolution, with batch statistics of its own.

    Parameters
    ----------
    calibration_images
        Training images behind the statistics.
    path
        File of an earlier answer, which is taken if it is of the same, else replaced.
    cache_path
        Finished evaluations, to which the accuracy is added: see `evaluate_subnets`.

    Raises
    ------
    UsageError
        If the architecture is not in the supernet's space, or the split is unknown.
    UserError
        If a file cannot be written.
    """
    which = split_name(split)
    net.space.validate(arch)
    key = evaluation_key(net, data, which, calibration_images, seed)
    kept = None if path is None else read_answers(path)
    if kept is not None and (kept.key, kept.arch, kept.confusion.labels) == (key, arch, data.labels):
        return kept
    with progress.task("evaluate classes", total=1) as bar:
        sub = calibrated_subnet(net, arch, data, calibration_images, seed)
        targets, given = answers(sub, data, which, arch.r)
        bar.advance(1)
    found = SubnetAnswers(key, arch, dtype_of(net), data.name, which, confusion(targets, given, data.labels))
    if path is not None:
        found.write(path)
    cache = AccuracyCache(cache_path, key)
    if arch not in cache.known:
        cache.add(arch, found.confusion.accuracy)
    return found
