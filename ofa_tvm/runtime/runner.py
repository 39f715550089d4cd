"""Calling a compiled module with arrays."""

from __future__ import annotations

import math
import threading
import warnings
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from ofa_tvm.errors import UsageError
from ofa_tvm.runtime.module import LoadedModule, TensorSpec, VirtualMachine
from ofa_tvm.runtime.threads import on_threads, usable_cpus

Arrays = npt.NDArray[Any] | tuple[npt.NDArray[Any], ...]

_ALIGNMENT = 64  # bytes; what compiled kernels assume of every tensor


class Runner:
    """A compiled network as a function: arrays in, an array (or a tuple of them) out.

    It needs the TVM runtime and nothing else, and uses the threads that the module was compiled for, or as
    many as there are CPUs for this process. Any number of threads may call it at once: every call in flight
    has buffers of its own, and the weights are in memory once. On a GPU and over a connection, calls wait for
    each other.

    Parameters
    ----------
    module
        The loaded module.
    threads
        Threads of a call, where they shall not be the module's own.
    """

    def __init__(self, module: LoadedModule, threads: int | None = None) -> None:
        self._module = module
        wanted = module.threads if threads is None else threads
        self._threads = wanted if module.remote else min(wanted, usable_cpus())
        if self._threads < wanted:
            warnings.warn(
                f"{module.path.name} is for {wanted} threads, but this process may use {self._threads} CPUs: "
                f"it runs on {self._threads}",
                stacklevel=3,
            )
        self._idle = deque([_Context(module, module.vm)])
        self._turn: AbstractContextManager[Any] = (
            threading.Lock() if module.another_vm is None else nullcontext()
        )

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

    @property
    def threads(self) -> int:
        """Threads that a call uses."""
        return self._threads

    def empty_inputs(self) -> tuple[npt.NDArray[Any], ...]:
        """Uninitialised arrays, one an input, to fill and hand to calls, which read them where they are.

        Any other array that does not lie in one piece from a multiple of 64 bytes on is copied first.
        """
        return tuple(_aligned(spec) for spec in self.inputs)

    def __call__(self, *arrays: npt.ArrayLike, out: Arrays | None = None) -> Arrays:
        """Run the network once.

        Parameters
        ----------
        arrays
            One an input, of exactly its shape and dtype (images: float32, NCHW). They are not changed, and
            must not be while the call lasts.
        out
            Where to write the output (a tuple, if there are several), of exactly its shape and dtype. It may
            overlap the inputs.

        Returns
        -------
        ndarray or tuple of ndarray
            The output, the caller's own; a tuple if the network has several. `out`, if given.

        Raises
        ------
        UsageError
            If the number of arrays, a shape or a dtype is wrong, or `out` cannot be written.
        """
        if len(arrays) != len(self.inputs):
            names = ", ".join(spec.name for spec in self.inputs)
            raise UsageError(
                f"{self._module.path.name} takes {len(self.inputs)} inputs ({names}), not {len(arrays)}"
            )
        checked = [_checked(array, spec) for array, spec in zip(arrays, self.inputs, strict=True)]
        results = None if out is None else _checked_out(out, self.outputs)
        if self._module.parallel:
            outputs = on_threads(self._threads, partial(self._run, checked, results))
        else:
            outputs = self._run(checked, results)
        if out is not None:
            return out
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def _run(
        self, arrays: list[npt.NDArray[Any]], out: list[npt.NDArray[Any]] | None
    ) -> list[npt.NDArray[Any]]:
        with self._turn:
            context = self._context()
            outputs = context.run(arrays, out)
            self._idle.append(context)  # not after an error, which may leave it in any state
        return outputs

    def _context(self) -> _Context:
        try:
            return self._idle.pop()
        except IndexError:
            another = self._module.another_vm
            return _Context(self._module, self._module.vm if another is None else another())

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


class _Context:
    """What one call in flight has for itself: a virtual machine and a buffer an input."""

    def __init__(self, module: LoadedModule, vm: VirtualMachine) -> None:
        self._main, self._device = vm.main, module.device
        self._here = module.kind == "llvm" and not module.remote
        self._specs = module.inputs
        self._buffers: list[tuple[npt.NDArray[Any], Any] | None] = [None] * len(module.inputs)

    def run(
        self, arrays: Sequence[npt.NDArray[Any]], out: Sequence[npt.NDArray[Any]] | None
    ) -> list[npt.NDArray[Any]]:
        """The network's outputs, in arrays of their own or in `out`."""
        entry = self._view if self._here else self._sent
        result = self._main(*[entry(array, index) for index, array in enumerate(arrays)])
        tensors = [result] if hasattr(result, "numpy") else list(result)
        # A network may hand out its input, or a constant of its own, so that a view is not enough.
        if not self._here:
            found = [tensor.numpy() for tensor in tensors]
        elif out is None:
            return [np.from_dlpack(tensor).copy() for tensor in tensors]
        else:
            found = [np.from_dlpack(tensor) for tensor in tensors]
        if out is None:
            return found
        for target, value in zip(out, found, strict=True):
            np.copyto(target, value)
        return list(out)

    def _view(self, array: npt.NDArray[Any], index: int) -> Any:
        """The array as a tensor, without a copy where it lies as kernels expect it."""
        import tvm_ffi

        address, read_only = array.__array_interface__["data"]
        if address % _ALIGNMENT == 0 and not read_only and array.flags.c_contiguous:
            return tvm_ffi.from_dlpack(array)
        buffer = self._buffers[index]
        if buffer is None:
            own = _aligned(self._specs[index])
            buffer = self._buffers[index] = own, tvm_ffi.from_dlpack(own)
        np.copyto(buffer[0], array)
        return buffer[1]

    def _sent(self, array: npt.NDArray[Any], _index: int) -> Any:
        import tvm

        return tvm.runtime.tensor(np.require(array, requirements=["C"]), device=self._device)


def _aligned(spec: TensorSpec) -> npt.NDArray[Any]:
    """Uninitialised array that starts at a multiple of `_ALIGNMENT`."""
    dtype = np.dtype(spec.dtype)
    size = math.prod(spec.shape) * dtype.itemsize
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    start = -memory.__array_interface__["data"][0] % _ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(spec.shape)


def _checked(array: npt.ArrayLike, spec: TensorSpec) -> npt.NDArray[Any]:
    value = np.asarray(array)
    if value.shape != spec.shape:
        raise UsageError(f"input {spec.name} must have shape {spec.shape}, not {value.shape}")
    if value.dtype != np.dtype(spec.dtype):
        raise UsageError(
            f"input {spec.name} must be {spec.dtype}, not {value.dtype}; use .astype({spec.dtype!r})"
        )
    return value


def _checked_out(out: Arrays, specs: Sequence[TensorSpec]) -> list[npt.NDArray[Any]]:
    arrays = list(out) if isinstance(out, tuple | list) else [out]
    if len(arrays) != len(specs):
        raise UsageError(f"out must be {len(specs)} arrays, one an output, not {len(arrays)}")
    for array, spec in zip(arrays, specs, strict=True):
        if not isinstance(array, np.ndarray):
            raise UsageError(f"out for {spec.name} must be an array of numpy, not {type(array).__name__}")
        if array.shape != spec.shape or array.dtype != np.dtype(spec.dtype):
            raise UsageError(
                f"out for {spec.name} must be {spec.dtype} of shape {spec.shape}, not {array.dtype} of "
                f"{array.shape}"
            )
        if not array.flags.writeable:
            raise UsageError(f"out for {spec.name} is read-only")
    return arrays
