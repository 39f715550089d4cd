"""Calling a compiled module with arrays."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ofa_tvm.errors import UsageError
from ofa_tvm.measurement.module import LoadedModule, TensorSpec, output_arrays, set_threads
from ofa_tvm.measurement.remote import load_for
from ofa_tvm.targets import Target

Arrays = npt.NDArray[Any] | tuple[npt.NDArray[Any], ...]


class Runner:
    """A compiled network as a function: arrays in, an array (or a tuple of them) out.

    It needs the TVM runtime and nothing else, and uses the threads that the module was compiled for.
    """

    def __init__(self, module: LoadedModule) -> None:
        self._module = module
        if not module.remote:
            set_threads(module.threads)

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Names, shapes and dtypes that a call takes."""
        return self._module.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Names, shapes and dtypes that a call returns."""
        return self._module.outputs

    @property
    def metadata(self) -> Mapping[str, Any]:
        """What the compiler wrote into the module: target, ONNX metadata, versions."""
        return self._module.metadata

    def __call__(self, *arrays: npt.ArrayLike) -> Arrays:
        """Run the network once.

        Parameters
        ----------
        arrays
            One an input, of exactly its shape and dtype (images: float32, NCHW).

        Returns
        -------
        ndarray or tuple of ndarray
            The output; a tuple if the network has several.

        Raises
        ------
        UsageError
            If the number of arrays, a shape or a dtype is wrong.
        """
        if len(arrays) != len(self.inputs):
            names = ", ".join(spec.name for spec in self.inputs)
            raise UsageError(
                f"{self._module.path.name} takes {len(self.inputs)} inputs ({names}), not {len(arrays)}"
            )
        tensors = [
            self._module.tensor(_checked(array, spec))
            for array, spec in zip(arrays, self.inputs, strict=True)
        ]
        outputs = output_arrays(self._module.main(*tensors))
        return outputs[0] if len(outputs) == 1 else outputs

    def batch(self, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Run a network of one input and one output over any number of examples.

        Parameters
        ----------
        x
            (n, ...); cut into the module's batch size, the last piece filled up with its own last example.

        Returns
        -------
        ndarray
            (n, ...)

        Raises
        ------
        UsageError
            If the network has several inputs or outputs, or `x` has another shape or dtype.
        """
        if len(self.inputs) != 1 or len(self.outputs) != 1:
            raise UsageError(f"{self._module.path.name} has several inputs or outputs; call it on each batch")
        spec = self.inputs[0]
        size = spec.shape[0]
        if x.ndim != len(spec.shape) or x.shape[1:] != spec.shape[1:] or not len(x):
            raise UsageError(f"input {spec.name} takes examples of shape {spec.shape[1:]}, not {x.shape[1:]}")
        pieces = []
        for start in range(0, len(x), size):
            piece = x[start : start + size]
            filled = np.concatenate([piece, np.repeat(piece[-1:], size - len(piece), axis=0)])
            result = self(filled)
            assert isinstance(result, np.ndarray)
            pieces.append(result[: len(piece)])
        return np.concatenate(pieces)


def _checked(array: npt.ArrayLike, spec: TensorSpec) -> npt.NDArray[Any]:
    value = np.asarray(array)
    if value.shape != spec.shape:
        raise UsageError(f"input {spec.name} must have shape {spec.shape}, not {value.shape}")
    if value.dtype != np.dtype(spec.dtype):
        raise UsageError(
            f"input {spec.name} must be {spec.dtype}, not {value.dtype}; use .astype({spec.dtype!r})"
        )
    return np.asarray(value, order="C")  # ascontiguousarray would make a number an array of one


def load(path: str | os.PathLike[str], target: Target | None = None) -> Runner:
    """Load a compiled module, or the one in an artefact folder (whose checksums are then checked).

    Parameters
    ----------
    path
        The `.so` or the folder.
    target
        The device to run on, where it is not this machine. AArch64 code runs in the emulator on machines of
        another family, which computes the same and says nothing of speed.

    Raises
    ------
    UserError
        If it is missing, damaged, or for a machine that is not at hand.
    """
    if Path(path).is_dir():
        from ofa_tvm.deploy.artefact import Artefact

        return Artefact.open(path).on(target).runner
    return Runner(load_for(Path(path), target))
