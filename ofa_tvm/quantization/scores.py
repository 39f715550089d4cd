"""How well a quantised model does: classes against labels or against the float32 model, and outputs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ofa_tvm.quantization.static import batches
from ofa_tvm.reference import reference_session

Values = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Score:
    """Of a model on the held-out images.

    Attributes
    ----------
    share
        Of answers that are right, 0..1: the label's class, else the float32 model's. None if the model's
        first output has no classes (axis 1 of two or more).
    error
        Root mean square of the first output's difference from the float32 model's, as a share of its own.
    """

    share: float | None
    error: float


def outputs(model: Path, inputs: Values, batch: int) -> Values:
    """First output for all inputs, in the arithmetic that the file states."""
    session = reference_session(model, threads=0)
    name = session.get_inputs()[0].name
    first = session.get_outputs()[0].name
    found = []
    for part, count in batches(inputs, batch):
        value = np.asarray(session.run([first], {name: part})[0], np.float32)
        found.append(value[:count] if value.ndim and len(value) == len(part) else value[None])
    return np.concatenate(found)


def score(got: Values, reference: Values, labels: npt.NDArray[np.int64] | None) -> Score:
    """Of outputs, given the float32 model's."""
    size = float(np.sqrt(np.mean(np.square(reference, dtype=np.float64))))
    error = float(np.sqrt(np.mean(np.square(got.astype(np.float64) - reference)))) / max(size, 1e-30)
    if reference.ndim < 2 or reference.shape[1] < 2:
        return Score(None, error)
    right = got.argmax(1) == (reference.argmax(1) if labels is None else labels)
    return Score(float(right.mean()), error)


def fitting(
    labels: npt.NDArray[np.int64] | None, classes: int | None, reference: Values
) -> npt.NDArray[np.int64] | None:
    """The labels, if they are classes of outputs like these, and there are as many of them."""
    if labels is None or reference.ndim != 2 or reference.shape[1] < 2:
        return None
    known = reference.shape[1]
    return labels if classes in (None, known) and labels.min() >= 0 and labels.max() < known else None
