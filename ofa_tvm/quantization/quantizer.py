"""From a float32 model to the QDQ file: the method that costs least, sensitive layers left in float."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy.typing as npt
import onnx

from ofa_tvm.errors import UsageError, UserError
from ofa_tvm.files import replacing
from ofa_tvm.progress import SILENT, Progress, as_progress
from ofa_tvm.quantization.examples import Examples, of_arrays
from ofa_tvm.quantization.scores import Score, Values, fitting, outputs, score
from ofa_tvm.quantization.static import (
    METHODS,
    Method,
    calibrate,
    check_quantizable,
    layers,
    prepared,
    quantized,
)
from ofa_tvm.quantization.weights import WEIGHTS, Weights

_FOR_LAYERS = 32  # held-out images that layers are compared on
_BATCH = 8  # images a call where the model leaves that open


@dataclass(frozen=True)
class LayerEffect:
    """What the integers of one layer cost, all others being in float.

    Attributes
    ----------
    name, operator
        Its node.
    error
        Root mean square of the output's difference from the float32 model's, as a share of its own.
    in_float
        Whether it stays in float.
    """

    name: str
    operator: str
    error: float
    in_float: bool = False


@dataclass(frozen=True)
class Quantized:
    """What `quantize` made, and what it cost.

    Attributes
    ----------
    path
        The QDQ model.
    method
        How ranges were chosen.
    tried
        Score of every method that was tried, with all layers quantised.
    measure
        "accuracy" on the held-out images' labels; "agreement" of the most likely class with the float32
        model's where there are none; "error" of the outputs where there are no classes.
    float32, int8
        Scores of the models.
    weights, other_weights
        How ranges of weights were chosen, and the score by the other way, with all layers quantised.
    layers
        Effect of each layer, the largest first; empty if nobody had to look.
    quantised_layers, calibration_images, held_out_images
        How many.
    notes
        What is wrong with the images, a sentence each.
    """

    path: Path
    method: Method
    tried: dict[Method, Score]
    measure: Literal["accuracy", "agreement", "error"]
    float32: Score
    int8: Score
    layers: tuple[LayerEffect, ...]
    quantised_layers: int
    calibration_images: int
    held_out_images: int
    notes: tuple[str, ...]
    weights: Weights
    other_weights: Score

    @property
    def in_float(self) -> tuple[str, ...]:
        """Layers that stay in float."""
        return tuple(layer.name for layer in self.layers if layer.in_float)

    @property
    def points(self) -> float | None:
        """What quantising cost, in percentage points; None without classes."""
        return _points(self.float32, self.int8)


def _points(before: Score, after: Score) -> float | None:
    return None if before.share is None or after.share is None else 100 * (before.share - after.share)


def quantize(
    model: str | os.PathLike[str],
    images: npt.ArrayLike | Examples,
    output: str | os.PathLike[str],
    *,
    labels: npt.ArrayLike | None = None,
    method: Method | Literal["auto"] = "auto",
    weights: Weights = "short",
    accuracy_drop: float = 0.5,
    per_layer: bool = False,
    seed: int = 0,
    progress: Progress | bool = SILENT,
) -> Quantized:
    """Write a float32 ONNX model as QDQ: uint8 feature maps, int8 weights with a scale an output channel.

    Parameters
    ----------
    model
        ONNX file with one float32 input.
    images
        Network inputs (n, 3, height, width), of which half are held out to measure on; or both as `Examples`.
    output
        The file to write; it appears whole or not at all.
    labels
        Class index of each image; without them the float32 model's answers are what is right.
    method
        How the range of a feature map follows from its values: all of them ("minmax"), the 99.99th
        percentile, or the least entropy. "auto" tries all and takes the best on held-out images.
    weights
        "short" for integers of which two neighbours are 128 together at most, which processors without VNNI
        multiply in less than three quarters of the time; "full" for each channel's largest weight at 127.
    accuracy_drop
        Percentage points that quantising may cost; layers are left in float, those of the largest effect
        first, until it costs no more.
    per_layer
        Measure the effect of every layer also where nothing has to be left in float.
    seed
        Of the split.

    Raises
    ------
    UsageError
        If the model does not exist, or a setting makes no sense.
    UserError
        If the model cannot be quantised, or not within `accuracy_drop`, or the images are unusable.
    """
    from ofa_tvm.compiler.graph import read_onnx

    source, target = Path(model), Path(output)
    if method != "auto" and method not in METHODS:
        raise UsageError(f"there is no method {method!r}; choose auto, {', '.join(METHODS)}")
    if weights not in WEIGHTS:
        raise UsageError(f"weights cannot be {weights!r}; choose {' or '.join(WEIGHTS)}")
    if not 0 <= accuracy_drop <= 100:
        raise UsageError(f"accuracy_drop is in percentage points, 0 to 100, not {accuracy_drop}")
    if target.resolve() == source.resolve():
        raise UsageError(f"{target} is the model itself; name another file for the quantised one")
    network = read_onnx(source)
    check_quantizable(network, str(source))
    examples = images if isinstance(images, Examples) else of_arrays(images, labels, seed=seed)
    batch = _batch(network, examples, str(source))
    methods: Sequence[Method] = METHODS if method == "auto" else (method,)
    with tempfile.TemporaryDirectory(prefix="ofa-tvm-quantize-") as scratch:
        work = _Work(network, examples, batch, Path(scratch), as_progress(progress), str(source), weights)
        result = work.run(methods, accuracy_drop, per_layer)
        made = onnx.load(result.path)
        del made.metadata_props[:]
        made.metadata_props.extend(network.metadata_props)  # labels and preprocessing
        with replacing(target) as temporary:
            onnx.save(made, temporary)
    return Quantized(**{**result.__dict__, "path": target})


def _batch(network: onnx.ModelProto, examples: Examples, name: str) -> int:
    """Images a call."""
    given = {tensor.name for tensor in network.graph.initializer}
    value = next(value for value in network.graph.input if value.name not in given)
    dims = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
    sizes = examples.calibration.shape[1:]
    if len(dims) != len(sizes) + 1 or any(d and d != s for d, s in zip(dims[1:], sizes, strict=True)):
        wanted = " x ".join(str(d or "?") for d in dims[1:])
        raise UserError(f"{name} takes images of {wanted}, not of {' x '.join(map(str, sizes))}")
    return dims[0] or _BATCH


class _Work:
    """One model's quantisation in a folder of its own."""

    def __init__(
        self,
        network: onnx.ModelProto,
        examples: Examples,
        batch: int,
        folder: Path,
        progress: Progress,
        name: str,
        weights: Weights,
    ) -> None:
        self.examples, self.batch, self.folder, self.progress = examples, batch, folder, progress
        self.name, self.weights = name, weights
        try:
            self.source = prepared(network, folder / "float.onnx")
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(f"ONNX Runtime cannot prepare {name} to be quantised: {reason}") from error
        ready = onnx.load(self.source)
        self.names = [node.name for node in ready.graph.node]
        self.operators = layers(ready)
        if not self.operators:
            raise UserError(f"{name} has no layers with constant weights, so integers gain nothing")
        self.reference = outputs(self.source, examples.held_out, batch)
        self.labels = fitting(examples.labels, examples.classes, self.reference)
        self.float32 = score(self.reference, self.reference, self.labels)

    def run(self, methods: Sequence[Method], accuracy_drop: float, per_layer: bool) -> Quantized:
        self.tables = {method: self._calibrated(method) for method in methods}
        tried: dict[Method, Score] = {}
        other: Weights = "full" if self.weights == "short" else "short"
        with self.progress.task("methods", len(methods) + 1) as task:
            for method in methods:
                tried[method] = self._score(self._made(method))
                task.advance(note=method)
            method = min(tried, key=lambda m: (-(tried[m].share or 0.0), tried[m].error))
            otherwise = self._score(self._made(method, weights=other))
            task.advance(note=f"{other} weights")
        best, left_out = tried[method], 0
        allowed = accuracy_drop + 1e-9
        over = (_points(self.float32, best) or 0.0) > allowed
        effects = self._effects(method) if over or per_layer else []
        if over:
            best, left_out = self._within(method, [e.name for e in effects], allowed)
        chosen = [e.name for e in effects[:left_out]]
        return Quantized(
            path=self._made(method, chosen),
            method=method,
            tried=tried,
            measure=self._measure(),
            float32=self.float32,
            int8=best,
            layers=tuple(LayerEffect(e.name, e.operator, e.error, e.name in chosen) for e in effects),
            quantised_layers=len(self.operators) - left_out,
            calibration_images=len(self.examples.calibration),
            held_out_images=len(self.examples.held_out),
            notes=(*self.examples.notes, *self._misfit()),
            weights=self.weights,
            other_weights=otherwise,
        )

    def _misfit(self) -> list[str]:
        if self.examples.labels is None or self.labels is not None:
            return []
        shape = " x ".join(map(str, self.reference.shape[1:]))
        return [
            f"the images have {self.examples.classes or 'other'} classes, the network's output {shape} "
            "values: its answers are compared with those of the float32 model"
        ]

    def _measure(self) -> Literal["accuracy", "agreement", "error"]:
        if self.float32.share is None:
            return "error"
        return "agreement" if self.labels is None else "accuracy"

    def _calibrated(self, method: Method) -> Path:
        inputs = self.examples.calibration
        with self.progress.task(f"ranges ({method})", len(inputs)) as task:
            return calibrate(self.source, method, inputs, self.batch, self.folder / f"{method}.json", task)

    def _made(self, method: Method, leave_out: Sequence[str] = (), weights: Weights | None = None) -> Path:
        made, table = self.folder / "int8.onnx", self.tables[method]
        return quantized(self.source, method, table, made, leave_out, weights or self.weights)

    def _score(self, model: Path, images: Values | None = None) -> Score:
        if images is not None:
            return score(outputs(model, images, self.batch), self.reference[: len(images)], None)
        got = outputs(model, self.examples.held_out, self.batch)
        return score(got, self.reference, self.labels)

    def _effects(self, method: Method) -> list[LayerEffect]:
        """Every layer alone in integers, the largest effect first."""
        images = self.examples.held_out[:_FOR_LAYERS]
        effects = []
        with self.progress.task("layers", len(self.operators)) as task:
            for name, operator in self.operators.items():
                alone = self._made(method, [other for other in self.names if other != name])
                effects.append(LayerEffect(name, operator, self._score(alone, images).error))
                task.advance(note=name)
        return sorted(effects, key=lambda effect: -effect.error)

    def _within(self, method: Method, order: Sequence[str], allowed: float) -> tuple[Score, int]:
        """The fewest layers left in float, of those in order, that keep the cost within what is allowed."""
        scores: dict[int, Score] = {}

        def enough(count: int) -> bool:
            scores[count] = self._score(self._made(method, order[:count]))
            task.advance(note=f"{count} in float")
            return (_points(self.float32, scores[count]) or 0.0) <= allowed

        with self.progress.task("left in float") as task:
            low, high = 0, 1  # too few, and perhaps enough
            while high < len(order) and not enough(high):
                low, high = high, min(2 * high, len(order))
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (low, middle) if enough(middle) else (middle, high)
        if high == len(order):
            raise UserError(
                f"{self.name} cannot be quantised within {allowed:.2g} points: with any layer in integers it "
                "costs more; allow more, or give more images"
            )
        return scores[high], high
