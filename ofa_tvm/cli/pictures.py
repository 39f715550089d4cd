"""Which pictures a user names, singly or in folders, and which class the folder of each says it is of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ofa_tvm.errors import UserError
from ofa_tvm.imagenet import N_CLASSES, imagenet_names, is_wordnet_id
from ofa_tvm.images import SUFFIXES
from ofa_tvm.trees import files_below, is_hidden

ARRAY = ".npy"


@dataclass(frozen=True)
class Picture:
    """A file to classify.

    Attributes
    ----------
    path
        Where it lies.
    named
        Whether it was named itself; else it was found in a folder.
    """

    path: Path
    named: bool

    @property
    def folder(self) -> str:
        """Name of the folder that it lies in."""
        return self.path.absolute().parent.name


def pictures(paths: Sequence[Path]) -> list[Picture]:
    """Files as named, and all pictures below folders, in order of their names; hidden ones left out.

    Raises
    ------
    UserError
        If a folder holds none, or cannot be read.
    """
    found: list[Picture] = []
    for path in paths:
        if not path.is_dir():
            found.append(Picture(path, True))
            continue
        inside = [
            file
            for file in files_below(path)[0]
            if file.suffix.lower() in (*SUFFIXES, ARRAY) and not is_hidden(file.relative_to(path))
        ]
        if not inside:
            raise UserError(
                f"the folder {path} holds no pictures ({', '.join(SUFFIXES)}) and no {ARRAY} files"
            )
        found += [Picture(file, False) for file in sorted(inside, key=lambda file: file.parts)]
    return found


def class_of(folder: str, labels: Sequence[str], n_classes: int) -> int | None:
    """The output that a folder's name says its pictures are of; None if it is no class of the network.

    It is one of the labels, or, of a network of 1,000 classes, the WordNet id of one of ImageNet's.
    """
    if folder in labels:
        return labels.index(folder)
    if n_classes == N_CLASSES and is_wordnet_id(folder) and folder in imagenet_names():
        return list(imagenet_names()).index(folder)
    return None
