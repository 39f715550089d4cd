"""What verbs print of a confusion matrix: all of it where that fits, else the worst classes and mistakes."""

from __future__ import annotations

from typing import Any

import numpy as np

from ofa_tvm.cli.console import Console
from ofa_tvm.confusion import Confusion
from ofa_tvm.imagenet import shown_label

_LISTED = 10  # of many classes
_MOST_COLUMNS = 16  # of a matrix that people still read
_OTHER = "other"


def show_confusion(console: Console, found: Confusion, title: str) -> None:
    """Top-1 accuracy, then every class and what it was taken for, or the worst ones and the main mistakes."""
    scores = found.classes()
    console.print("")
    console.prose(
        f"{title}: {found.right} of {found.images} images right (top-1 {found.accuracy:.2%}), "
        f"{found.balanced_accuracy:.2%} as the mean of {len(scores)} classes"
    )
    if not (_fits(console, found) and _show_matrix(console, found)):
        _show_worst(console, found)


def confusion_result(found: Confusion) -> dict[str, Any]:
    """All of it as plain data, for scripts; accuracies are 0..1."""
    return {
        "images": found.images,
        "right": found.right,
        "top1": found.accuracy,
        "mean_class_accuracy": found.balanced_accuracy,
        "classes": [
            {"label": s.label, "images": s.images, "right": s.right, "accuracy": s.accuracy}
            for s in found.classes()
        ],
        "mistakes": [
            {"label": m.truth, "taken_for": m.answer, "images": m.images, "of": m.of}
            for m in found.mistakes()
        ],
        "confusion": found.to_dict(),
    }


def _fits(console: Console, found: Confusion) -> bool:
    return len(found.classes()) <= min(_MOST_COLUMNS, console.width // 5)


def _show_matrix(console: Console, found: Confusion) -> bool:
    """Rows are classes that have images, columns answers; False if it is too wide for the terminal."""
    present = np.flatnonzero(found.counts.sum(axis=1))
    inside = found.counts[np.ix_(present, present)]
    outside = found.counts[present].sum(axis=1) - inside.sum(axis=1)
    labels = [shown_label(found.labels[i]) for i in present]
    short = all(len(label) <= 4 for label in labels)
    headings = labels if short else [str(number + 1) for number in range(len(labels))]
    if outside.any():
        inside, headings = np.column_stack([inside, outside]), [*headings, _OTHER]
    names = labels if short else [f"{number + 1} {label}" for number, label in enumerate(labels)]
    rows: list[list[object]] = [
        [name, int(counts.sum()), round(100 * int(row[index]) / int(counts.sum()), 1), *_dashed(row)]
        for index, (name, row, counts) in enumerate(zip(names, inside, found.counts[present], strict=True))
    ]
    columns = ["class", "images", "right %", *headings]
    width = sum(
        2 + max(len(heading), *(len(str(row[i] or 0)) for row in rows)) for i, heading in enumerate(columns)
    )
    if width - 2 > console.width:
        return False
    console.table(columns, rows, title="true classes, and what was answered:")
    return True


def _dashed(counts: np.ndarray) -> list[int | None]:
    return [int(count) or None for count in counts]


def _show_worst(console: Console, found: Confusion) -> None:
    scores, mistakes = found.worst(_LISTED), found.mistakes()
    total = len(found.classes())
    console.table(
        ["images", "right %", "class"],
        [[s.images, round(100 * s.accuracy, 1), shown_label(s.label)] for s in scores],
        title=f"the {len(scores)} worst of {total} classes:" if total > len(scores) else "classes:",
    )
    if not mistakes:
        return
    console.table(
        ["images", "of", "class", "taken for"],
        [[m.images, m.of, shown_label(m.truth), shown_label(m.answer)] for m in mistakes[:_LISTED]],
        title=f"the {min(_LISTED, len(mistakes))} most frequent of {len(mistakes)} mistakes:",
    )
