"""Calling a compiled module with arrays."""

from __future__ import annotations

import math
import threading
import warnings
from collections import deque
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from ofa_tvm.errors import UsageError
from ofa_tvm.runtime.module import LoadedModule, TensorSpec, VirtualMachine
from ofa_tvm.runtime.threads import on_threads, usable_cpus

Arrays = npt.NDArray[Any] | tuple[npt.NDArray[Any], ...]

_SEVERAL = (tuple, list)
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
        self._turn = threading.Lock() if module.another_vm is None else None

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
        # A call finds the caches full of weights: every step of Python here takes several times as long.
        specs = self._module.inputs
        if len(arrays) != len(specs):
            names = ", ".join(spec.name for spec in specs)
            raise UsageError(
                f"{self._module.path.name} takes {len(specs)} inputs ({names}), not {len(arrays)}"
            )
        checked = list(map(_checked, arrays, specs))
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
        if self._turn is not None:
            with self._turn:
                return self._idle[0].run(arrays, out)
        try:
            context = self._idle.pop()
        except IndexError:
            context = self._another_context()
        outputs = context.run(arrays, out)
        self._idle.append(context)  # not after an error, which may leave it in any state
        return outputs

    def _another_context(self) -> _Context:
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
        from tvm_ffi import Tensor, from_dlpack

        self._main, self._device = vm.main, module.device
        self._here = module.kind == "llvm" and not module.remote
        self._tensor, self._from_dlpack = Tensor, from_dlpack
        self._specs = module.inputs
        self._buffers: list[tuple[npt.NDArray[Any], Any] | None] = [None] * len(module.inputs)
        self._places = range(len(module.inputs))

    def run(
        self, arrays: Sequence[npt.NDArray[Any]], out: list[npt.NDArray[Any]] | None
    ) -> list[npt.NDArray[Any]]:
        """The network's outputs, in arrays of their own or in `out`."""
        entry = self._view if self._here else self._sent
        result = self._main(*map(entry, arrays, self._places))
        if isinstance(result, self._tensor):
            result = (result,)
        views = map(np.from_dlpack if self._here else self._fetched, result)
        if out is not None:
            list(map(np.copyto, out, views))
            return out
        # A network may hand out its input, or a constant of its own, so that a view is not enough.
        return list(map(np.ndarray.copy, views) if self._here else views)

    def _view(self, array: npt.NDArray[Any], index: int) -> Any:
        """The array as a tensor, without a copy where it lies as kernels expect it."""
        flags = array.flags
        if flags.c_contiguous and flags.writeable:
            tensor = self._from_dlpack(array)
            if tensor.data_ptr() % _ALIGNMENT == 0:
                return tensor
        buffer = self._buffers[index]
        if buffer is None:
            own = _aligned(self._specs[index])
            buffer = self._buffers[index] = own, self._from_dlpack(own)
        np.copyto(buffer[0], array)
        return buffer[1]

    @staticmethod
    def _fetched(tensor: Any) -> npt.NDArray[Any]:
        array: npt.NDArray[Any] = tensor.numpy()
        return array

    def _sent(self, array: npt.NDArray[Any], _index: int) -> Any:
        import tvm

        return tvm.runtime.tensor(np.require(array, requirements=["C"]), device=self._device)


def _aligned(spec: TensorSpec) -> npt.NDArray[Any]:
    """Uninitialised array that starts at a multiple of `_ALIGNMENT`."""
    dtype = spec.numpy_dtype
    size = math.prod(spec.shape) * dtype.itemsize
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    start = -memory.__array_interface__["data"][0] % _ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(spec.shape)


def _checked(array: npt.ArrayLike, spec: TensorSpec) -> npt.NDArray[Any]:
    value = np.asarray(array)
    if value.shape != spec.shape:
        raise UsageError(f"input {spec.name} must have shape {spec.shape}, not {value.shape}")
    if value.dtype != spec.numpy_dtype:
        raise UsageError(
            f"input {spec.name} must be {spec.dtype}, not {value.dtype}; use .astype({spec.dtype!r})"
        )
    return value


def _checked_out(out: Arrays, specs: Sequence[TensorSpec]) -> list[npt.NDArray[Any]]:
    arrays = list(out) if isinstance(out, _SEVERAL) else [out]
    if len(arrays) != len(specs):
        raise UsageError(f"out must be {len(specs)} arrays, one an output, not {len(arrays)}")
    return list(map(_checked_target, arrays, specs))


def _checked_target(array: npt.NDArray[Any], spec: TensorSpec) -> npt.NDArray[Any]:
    if not isinstance(array, np.ndarray):
        raise UsageError(f"out for {spec.name} must be an array of numpy, not {type(array).__name__}")
    if array.shape != spec.shape or array.dtype != spec.numpy_dtype:
        raise UsageError(
            f"out for {spec.name} must be {spec.dtype} of shape {spec.shape}, not {array.dtype} of "
            f"{array.shape}"
        )
    if not array.flags.writeable:
        raise UsageError(f"out for {spec.name} is read-only")
    return array
