"""Which classes a classifier gets right, and what it takes the others for: counts, and what follows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ofa_tvm.errors import UserError
from ofa_tvm.schema import first_problem, key_path

_COUNT = {"type": "array", "minItems": 3, "maxItems": 3, "items": {"type": "integer", "minimum": 0}}
CONFUSION_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["labels", "counts"],
    "properties": {
        "labels": {"type": "array", "minItems": 1, "items": {"type": "string"}},
        "counts": {"type": "array", "items": _COUNT},
    },
}
"""Of what `Confusion.to_dict` writes; other keys are ignored."""


@dataclass(frozen=True)
class ClassScore:
    """One class that has images.

    Attributes
    ----------
    label, images, right
        Its name, how many images it has, and how many of them were recognised.
    taken_for, taken
        The wrong class that most of the others were taken for, and how many; "" and 0 where all are right.
    """

    label: str
    images: int
    right: int
    taken_for: str = ""
    taken: int = 0

    @property
    def accuracy(self) -> float:
        """Share of its images that were recognised, 0..1."""
        return self.right / self.images


@dataclass(frozen=True)
class Mistake:
    """So many images of one class that were taken for another; `of` is how many the class has."""

    truth: str
    answer: str
    images: int
    of: int


@dataclass(frozen=True, eq=False)
class Confusion:
    """A confusion matrix.

    Attributes
    ----------
    labels
        Of the network's outputs.
    counts
        Images by true class (row) and answer (column), int64 (classes, classes). Classes of which there are
        no images have rows of zeros.
    """

    labels: tuple[str, ...]
    counts: npt.NDArray[np.int64]

    @property
    def images(self) -> int:
        """How many were classified."""
        return int(self.counts.sum())

    @property
    def right(self) -> int:
        """How many of them were recognised."""
        return int(np.trace(self.counts))

    @property
    def accuracy(self) -> float:
        """Share of images that were recognised (top-1), 0..1; NaN without images."""
        return self.right / self.images if self.images else float("nan")

    @property
    def balanced_accuracy(self) -> float:
        """Mean of the classes' accuracies, 0..1, in which a rare class counts as much as a frequent one."""
        scores = self.classes()
        return sum(score.accuracy for score in scores) / len(scores) if scores else float("nan")

    def classes(self) -> tuple[ClassScore, ...]:
        """Every class that has images, in the order of the labels."""
        found = []
        for index in np.flatnonzero(self.counts.sum(axis=1)):
            row = self.counts[index]
            wrong = row.copy()
            wrong[index] = 0
            most = int(wrong.argmax())
            taken = int(wrong[most])
            found.append(
                ClassScore(
                    self.labels[index],
                    int(row.sum()),
                    int(row[index]),
                    self.labels[most] if taken else "",
                    taken,
                )
            )
        return tuple(found)

    def worst(self, most: int | None = None) -> tuple[ClassScore, ...]:
        """Classes with images, the least accurate first; of equal ones the one with more images."""
        return tuple(sorted(self.classes(), key=lambda score: (score.accuracy, -score.images)))[:most]

    def mistakes(self, most: int | None = None) -> tuple[Mistake, ...]:
        """Pairs of classes that were taken for each other, the most frequent first."""
        wrong = self.counts.copy()
        np.fill_diagonal(wrong, 0)
        rows, columns = np.nonzero(wrong)
        order = np.argsort(-wrong[rows, columns], kind="stable")[:most]
        totals = self.counts.sum(axis=1)
        return tuple(
            Mistake(self.labels[t], self.labels[a], int(wrong[t, a]), int(totals[t]))
            for t, a in zip(rows[order], columns[order], strict=True)
        )

    def present(self) -> npt.NDArray[np.int64]:
        """Indices of the classes that have images or were an answer."""
        return np.flatnonzero(self.counts.sum(axis=0) + self.counts.sum(axis=1))

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON: labels, and [true class, answer, images] where there are any."""
        rows, columns = np.nonzero(self.counts)
        return {
            "labels": list(self.labels),
            "counts": [[int(t), int(a), int(self.counts[t, a])] for t, a in zip(rows, columns, strict=True)],
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Confusion:
        """Read what `to_dict` wrote.

        Raises
        ------
        UserError
            If a field is missing, of the wrong type, or counts a class that has no label.
        """
        if (problem := first_problem(content, CONFUSION_SCHEMA)) is not None:
            raise UserError(f"the confusion matrix is broken: {key_path(problem[0])}: {problem[1]}")
        labels = tuple(content["labels"])
        counts = np.zeros((len(labels), len(labels)), np.int64)
        for truth, answer, images in content["counts"]:
            if max(truth, answer) >= len(labels):
                raise UserError(
                    f"the confusion matrix is broken: it counts class {max(truth, answer)} "
                    f"and has {len(labels)} labels"
                )
            counts[truth, answer] = images
        return cls(labels, counts)

    def to_json(self, **notes: Any) -> str:
        """Text of a file, with notes on what it is of."""
        return json.dumps({**notes, **self.to_dict()}, ensure_ascii=False) + "\n"


def confusion(
    targets: Sequence[int] | npt.NDArray[np.int64],
    answers: Sequence[int] | npt.NDArray[np.int64],
    labels: Sequence[str],
) -> Confusion:
    """Count answers by true class.

    Parameters
    ----------
    targets, answers
        Indices into `labels`, one an image.

    Raises
    ------
    ValueError
        If there are not as many answers as targets, or one has no label.
    """
    counts = np.zeros((len(labels), len(labels)), np.int64)
    given = np.asarray(targets, np.int64), np.asarray(answers, np.int64)
    if given[0].shape != given[1].shape:
        raise ValueError(f"{len(given[0])} targets and {len(given[1])} answers")
    if any(array.size and not 0 <= array.min() <= array.max() < len(labels) for array in given):
        raise ValueError(f"a class that is none of {len(labels)}")
    np.add.at(counts, given, 1)
    return Confusion(tuple(labels), counts)
