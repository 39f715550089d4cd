"""Does the compiled module compute what its ONNX says?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ofa_tvm.agreement import absolute_difference, largest, relative_difference, tolerance
from ofa_tvm.deploy.artefact import Artefact
from ofa_tvm.number_formats import exactness
from ofa_tvm.random_arrays import random_array
from ofa_tvm.reference import reference_session
from ofa_tvm.runtime import TensorSpec

Arrays = list[npt.NDArray[Any]]

_EXAMPLES = 2  # random and natural ones, each of the module's own batch size
_FLOOR = 1e-3  # of an output's largest value over all inputs: the least that a difference is set against


@dataclass(frozen=True)
class Difference:
    """Largest difference to ONNX Runtime over all inputs and outputs.

    Parameters
    ----------
    max_abs
        Absolute.
    max_rel
        As a share of the largest value of the output that it is in. Infinite where one side is finite and the
        other is not, or where the infinities or NaN are others.
    by_input
        `max_rel` by kind of input: "random", "natural", "zeros", "large", "nan", and "images", the user's.
    """

    max_abs: float
    max_rel: float
    by_input: Mapping[str, float]

    @property
    def worst_input(self) -> str:
        """The kind of input that `max_rel` is of."""
        return max(self.by_input, key=self.by_input.__getitem__)

    def accepted(self, dtype: str) -> bool:
        """Whether a module that computes in `dtype` may ship."""
        return self.max_rel <= tolerance("ship", dtype)


def check_against_onnxruntime(
    artefact: Artefact, images: npt.NDArray[np.float32] | None = None
) -> Difference:
    """Compare the artefact's module with ONNX Runtime on the artefact's ONNX.

    Inputs are random, natural (smooth as pictures are, with amplitudes 1/f), zero, large, and random with one
    NaN; those of another dtype than floating point are zero throughout.

    Parameters
    ----------
    artefact
        An opened artefact that runs here, or on the device that it was put `on`.
    images
        The user's own (n, 3, r, r), as the network gets them.

    Raises
    ------
    UserError
        If the module cannot be loaded here.
    """
    session = reference_session(artefact.onnx_path)
    names = [item.name for item in session.get_inputs()]
    run = artefact.runner
    dtype = str(run.metadata.get("target", {}).get("dtype", "float32"))
    pairs: list[tuple[str, Arrays, Arrays]] = []
    for kind, arrays in _inputs(run.inputs, exactness(dtype).large_input, images):
        result = run(*arrays)
        got = list(result) if isinstance(result, tuple) else [result]
        pairs.append((kind, session.run(None, dict(zip(names, arrays, strict=True))), got))
    scales = [max(map(largest, wanted)) for wanted in zip(*(want for _, want, _ in pairs), strict=True)]
    worst_abs, by_input = 0.0, dict.fromkeys((kind for kind, _, _ in pairs), 0.0)
    for kind, wanted, got in pairs:
        for want, found, scale in zip(wanted, got, scales, strict=True):
            worst_abs = max(worst_abs, absolute_difference(want, found))
            relative = relative_difference(want, found, max(_FLOOR * scale, 1e-12))
            by_input[kind] = max(by_input[kind], relative)
    return Difference(worst_abs, max(by_input.values()), by_input)


def _inputs(
    specs: Sequence[TensorSpec], large: float, images: npt.NDArray[np.float32] | None
) -> Iterator[tuple[str, Arrays]]:
    rng = np.random.default_rng(0)

    def random() -> Arrays:
        return [random_array(spec.shape, spec.dtype, rng) for spec in specs]

    for _ in range(_EXAMPLES):
        yield "random", random()
    if images is not None and len(images):
        batch = specs[0].shape[0]
        for start in range(0, len(images), batch):
            yield "images", [np.resize(images[start : start + batch], specs[0].shape)]
    if not any(array.dtype.kind == "f" and array.size for array in random()):
        return
    for _ in range(_EXAMPLES):
        yield "natural", [_natural(array, rng) for array in random()]
    yield "zeros", [np.zeros_like(array) for array in random()]
    yield "large", [array * np.asarray(large).astype(array.dtype) for array in random()]
    broken = random()
    first = next(array for array in broken if array.dtype.kind == "f" and array.size)
    first.flat[first.size // 2] = np.nan
    yield "nan", broken


def _natural(noise: npt.NDArray[Any], rng: np.random.Generator) -> npt.NDArray[Any]:
    """Noise with natural pictures' amplitudes, 1/f over the last two axes (Field 1987), its mean shifted."""
    if noise.dtype.kind != "f" or noise.ndim < 2 or min(noise.shape[-2:]) < 2:
        return noise
    y, x = (np.fft.fftfreq(size)[:, None] * size for size in noise.shape[-2:])
    frequency = np.maximum(np.hypot(y, x.T), 1.0)
    smooth = np.fft.ifft2(np.fft.fft2(noise.astype(np.float64)) / frequency).real
    return (smooth / max(float(smooth.std()), 1e-12) + rng.standard_normal()).astype(noise.dtype)
