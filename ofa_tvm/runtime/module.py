"""Loading a compiled module with nothing but the TVM runtime."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ofa_tvm.errors import UserError, shown
from ofa_tvm.native.cuda import load_cuda
from ofa_tvm.native.opencl import load_opencl
from ofa_tvm.random_arrays import random_array
from ofa_tvm.runtime.elf import elf_arch, require_whole, runs_in_parallel
from ofa_tvm.runtime.threads import leave_unbound
from ofa_tvm.targets.machine import Machine, detect_machine, needed_flags
from ofa_tvm.temporaries import scratch_folder

_METADATA_FORMAT = 1


@dataclass(frozen=True)
class TensorSpec:
    """Name, shape and dtype of an input or output."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @cached_property
    def numpy_dtype(self) -> np.dtype[Any]:
        """The dtype of its arrays."""
        return np.dtype(self.dtype)


@dataclass(frozen=True)
class VirtualMachine:
    """One of TVM's virtual machines with a network in it, for one call at a time.

    `main` takes and returns TVM tensors; `vm` is TVM's object.
    """

    vm: Any
    main: Callable[..., Any]


@dataclass(frozen=True)
class LoadedModule:
    """A compiled module on its device.

    Parameters
    ----------
    path
        The file.
    inputs, outputs, metadata
        What it says of itself.
    vm
        A virtual machine that runs it.
    another_vm
        Makes one more, with the same weights, for a call at the same time; None where the device takes one
        call after the other.
    device
        Where its tensors live.
    parallel
        Whether it has kernels of this process that run on several threads.
    remote
        Whether that is on the other end of a connection.
    """

    path: Path
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    metadata: Mapping[str, Any]
    vm: VirtualMachine
    another_vm: Callable[[], VirtualMachine] | None
    device: Any
    parallel: bool = False
    remote: bool = False

    @property
    def target(self) -> Mapping[str, Any]:
        """What the module says of its target: name, kind, tvm, threads."""
        target = self.metadata.get("target")
        return target if isinstance(target, Mapping) else {}

    @property
    def threads(self) -> int:
        """Threads that it was compiled for."""
        return int(self.target.get("threads", 1))

    @property
    def kind(self) -> str:
        """TVM's kind of target: "llvm", "cuda", "opencl"."""
        return kind_of(self.target)

    def tensor(self, array: npt.NDArray[Any]) -> Any:
        """`array` as a tensor on the module's device."""
        import tvm

        return tvm.runtime.tensor(array, device=self.device)

    def random_inputs(self, seed: int) -> list[npt.NDArray[Any]]:
        """A `random_array` for each input."""
        rng = np.random.default_rng(seed)
        return [random_array(spec.shape, spec.dtype, rng) for spec in self.inputs]


def load_module(path: str | os.PathLike[str]) -> LoadedModule:
    """Load a `.so` that `ofa_tvm.compile` wrote.

    Raises
    ------
    UserError
        If the file is missing, not a shared library for this machine, or not made by ofa-tvm.
    """
    file = Path(path).resolve()
    if (arch := elf_arch(file)) != platform.machine():
        raise UserError(f"{file} is code for {arch}, but this machine is {platform.machine()}")
    require_whole(file)
    os.environ.setdefault("TVM_FFI_DISABLE_TORCH_C_DLPACK", "1")
    leave_unbound()
    import tvm
    import tvm.runtime.vm

    try:
        module = _open_library(file)
        if not module.implements_function("vm_load_executable"):
            raise UserError(f"{file} is not a module that ofa-tvm compiled; make one with `ofa-tvm compile`")
        on_cpu = tvm.runtime.vm.VirtualMachine(module, tvm.cpu())
        metadata = read_metadata(on_cpu["metadata"], file)
        require_cpu(metadata.get("target", {}), detect_machine(), file)
        kind = kind_of(metadata.get("target", {}))
        device = tvm.device("cpu" if kind == "llvm" else kind, 0)
        if not device.exist:
            raise UserError(
                f"{file} is for {kind}, but this process sees no {kind} device; see `ofa-tvm doctor`"
            )

        def another_vm() -> VirtualMachine:
            vm = tvm.runtime.vm.VirtualMachine(module, device)
            return VirtualMachine(vm, vm["main"])

        vm = another_vm()
    except UserError:
        raise
    except Exception as error:  # tvm raises RuntimeError, AttributeError, ValueError and its own kinds here
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise UserError(f"{file} cannot be loaded: {reason}; compile it again") from error
    return LoadedModule(
        path=file,
        inputs=specs(metadata, "inputs", file),
        outputs=specs(metadata, "outputs", file),
        metadata=metadata,
        vm=vm,
        another_vm=another_vm if kind == "llvm" else None,
        device=device,
        parallel=runs_in_parallel(file),
    )


def kind_of(target: Mapping[str, Any]) -> str:
    """TVM's kind of what a module says of its target."""
    return str(target.get("tvm", {}).get("kind", "llvm"))


def _open_library(file: Path) -> Any:
    """TVM module of a shared library, read anew although another was loaded from the same path before.

    A library that is loaded already under the same name is taken for the one asked for, so a module that was
    compiled anew would run its predecessor's code. It therefore gets a file name of its own each time (a hard
    link where that is possible). TVM's own `load_module` would keep the library, and with it the weights,
    until the process ends.
    """
    import tvm_ffi

    with scratch_folder("load") as folder:
        own = Path(folder) / file.name
        try:
            own.hardlink_to(file)
        except OSError:
            shutil.copyfile(file, own)
        try:
            return tvm_ffi.load_module(str(own), keep_module_alive=False)
        except RuntimeError as error:
            # The library says what is in it only once it is loaded.
            kind = lacking_runtime(error)
            if not kind:
                raise
        {"opencl": load_opencl, "cuda": load_cuda}[kind]()
        return tvm_ffi.load_module(str(own), keep_module_alive=False)


def lacking_runtime(error: Exception) -> str:
    """The kind of GPU whose runtime a library needs and TVM lacks, "" if an error says something else."""
    found = re.search(r"ffi\.Module\.load_from_bytes\.(opencl|cuda)\b", str(error))
    return found[1] if found else ""


def require_cpu(target: Mapping[str, Any], machine: Machine, file: Path) -> None:
    """Refuse x86 code that a processor would die of with "illegal instruction".

    Parameters
    ----------
    target
        What a module says of its target.
    machine
        Where it shall run.
    file
        For the message.

    Raises
    ------
    UserError
        If the code may use instructions that the machine lacks; names the CPU it is for and some of them.
    """
    settings = target.get("tvm", {})
    host = settings.get("host") or settings
    cpu = str(host.get("mcpu", "")) if isinstance(host, Mapping) else ""
    missing = sorted(needed_flags(cpu) - machine.flags) if machine.arch == "x86_64" and machine.flags else []
    if missing:
        raise UserError(
            f"{file} is compiled for {cpu} (target {target.get('name', '?')}), but this machine "
            f"({machine.model or machine.arch}) lacks {', '.join(missing[:4])}; compile it for this one"
        )


def read_metadata(get: Callable[[], Any], file: Path) -> dict[str, Any]:
    """What a module says of itself, by its function `metadata`.

    Raises
    ------
    UserError
        If it has none, or in a format of another version.
    """
    try:
        raw = get()
    except Exception as error:
        raise UserError(f"{file} carries no metadata: it is not a module that ofa-tvm compiled") from error
    return checked_metadata(json.loads(raw.numpy().tobytes()), file)


def checked_metadata(content: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """What a module says of itself, if this version reads it.

    Raises
    ------
    UserError
        If it is in a format of another version.
    """
    if content.get("format") != _METADATA_FORMAT:
        raise UserError(
            f"{file} has metadata of format {shown(content.get('format'))}, but this ofa-tvm reads "
            f"{_METADATA_FORMAT}; compile it again"
        )
    return dict(content)


def specs(metadata: Mapping[str, Any], key: str, file: Path) -> tuple[TensorSpec, ...]:
    """Its "inputs" or "outputs".

    Raises
    ------
    UserError
        If they are not as the compiler writes them.
    """
    try:
        return tuple(
            TensorSpec(str(item["name"]), tuple(int(n) for n in item["shape"]), str(item["dtype"]))
            for item in metadata[key]
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file} has broken metadata ({key}); compile it again") from error


def output_arrays(result: Any) -> tuple[npt.NDArray[Any], ...]:
    """What a module returned (a tensor, or a tuple of them) as arrays."""
    if hasattr(result, "numpy"):
        return (result.numpy(),)
    return tuple(item.numpy() for item in result)
