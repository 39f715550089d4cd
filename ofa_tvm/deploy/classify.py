"""From pictures to classes through a compiled module."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ofa_tvm.errors import UserError
from ofa_tvm.images import Preprocessing, open_image
from ofa_tvm.jsonfile import parse_json
from ofa_tvm.runtime import Runner


@dataclass(frozen=True)
class Prediction:
    """One class of one picture."""

    label: str
    index: int
    probability: float


@dataclass(frozen=True)
class Classifier:
    """A runner with what pictures need: preprocessing, and labels (the class numbers if there are none)."""

    runner: Runner
    preprocessing: Preprocessing
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what does not belong together, before memory is taken for pictures.

        Raises
        ------
        UserError
            If the network does not take pictures of the preprocessing's size, or has not a class a label.
        """
        side = self.preprocessing.resolution
        if len(self.runner.inputs) != 1 or len(self.runner.outputs) != 1:
            raise UserError("the network has several inputs or outputs: it is no classifier of pictures")
        (taken,) = self.runner.inputs
        if taken.shape[1:] != (3, side, side):
            raise UserError(
                f"the preprocessing makes pictures of {side} x {side} pixels, but the network's input "
                f"{taken.name} has the shape {taken.shape}; make the artefact anew"
            )
        if self.labels and len(self.labels) != self.n_classes:
            raise UserError(
                f"there are {len(self.labels)} labels for {self.n_classes} classes of the network; "
                "make the artefact anew"
            )

    @classmethod
    def of(cls, runner: Runner, name: str) -> Classifier:
        """Use the labels and preprocessing that the exporter wrote into the ONNX metadata.

        Raises
        ------
        UserError
            If there is no preprocessing; `name` is what the sentence calls the module.
        """
        notes = runner.metadata.get("onnx_metadata", {})
        if "preprocessing" not in notes:
            raise UserError(
                f"{name} does not say how pictures become its input; run its artefact folder instead"
            )
        try:
            labels, preprocessing = parse_json(notes.get("labels", "[]")), parse_json(notes["preprocessing"])
        except ValueError as error:
            raise UserError(f"{name} carries damaged notes: {error}; compile it again") from None
        labels = [] if labels is None else labels
        if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
            raise UserError(f"{name} carries labels that are no list of names; compile it again")
        return cls(runner, Preprocessing.from_dict(preprocessing), tuple(labels))

    @property
    def n_classes(self) -> int:
        """How many classes the network tells apart."""
        return math.prod(self.runner.outputs[0].shape[1:])

    def logits(self, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Network output (n, classes) for network input (n, 3, r, r)."""
        result = self.runner.batch(x)
        return result.reshape(len(result), -1)

    def classify_inputs(self, x: npt.NDArray[np.float32], top_k: int = 1) -> list[list[Prediction]]:
        """The `top_k` likeliest classes of each example of a network input (n, 3, r, r)."""
        logits = self.logits(x).astype(np.float64)
        shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities = shifted / shifted.sum(axis=1, keepdims=True)
        best = np.argsort(-probabilities, axis=1, kind="stable")[:, :top_k]
        return [
            [Prediction(self._label(int(i)), int(i), float(row[i])) for i in order]
            for row, order in zip(probabilities, best, strict=True)
        ]

    def classify(self, images: Sequence[str | os.PathLike[str]], top_k: int = 1) -> list[list[Prediction]]:
        """The `top_k` likeliest classes of each picture file, likeliest first.

        Raises
        ------
        UserError
            If a file is missing or not a picture.
        """
        return [
            self.classify_inputs(self.preprocessing.apply(open_image(image)), top_k)[0] for image in images
        ]

    def _label(self, index: int) -> str:
        return self.labels[index] if index < len(self.labels) else str(index)
