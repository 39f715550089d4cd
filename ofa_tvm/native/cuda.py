"""CUDA for TVM: the wheel's runtime where there is a driver, a holder of binaries where there is none."""

from __future__ import annotations

import ctypes
import importlib.util
from pathlib import Path

from ofa_tvm.errors import UserError
from ofa_tvm.native.library import load_library

_RUNTIME, _HOLDER = "device_api.cuda", "ffi.Module.create.cuda"


def has_cuda() -> bool:
    """Whether this process can use a GPU; loads TVM's CUDA runtime if there is a driver."""
    import tvm

    if tvm.get_global_func(_RUNTIME, allow_missing=True) is None and not _load_runtime():
        return False
    return bool(tvm.cuda(0).exist)


def load_cuda() -> None:
    """Give this process's TVM the device kind `cuda`.

    Raises
    ------
    UserError
        If there is no NVIDIA driver, CUDA runtime or GPU; the sentence says which, and what to install.
    """
    if has_cuda():
        return
    if not _loads("libcuda.so.1"):
        raise UserError("there is no NVIDIA driver (libcuda.so.1): run this where the GPU and its driver are")
    if not _load_cudart():
        raise UserError("there is no CUDA runtime (libcudart.so.13): pip install 'ofa-tvm[cuda]'")
    raise UserError("there is an NVIDIA driver, but it gives this process no GPU; see nvidia-smi")


def load_cuda_for_building() -> None:
    """Let TVM build CUDA modules: with its runtime where there is a driver, else with the holder.

    The holder has no device: a process with it is never taken for one that has a GPU.

    Raises
    ------
    UserError
        If the holder cannot be compiled; the sentence says what to install.
    """
    import tvm

    if tvm.get_global_func(_HOLDER, allow_missing=True) is None and not _load_runtime():
        load_library("cuda-code")


def _load_runtime() -> bool:
    """TVM's CUDA runtime, which `import tvm` leaves out where CUDA's own library is only in a wheel."""
    import tvm

    if tvm.get_global_func(_HOLDER, allow_missing=True) is not None:  # the holder; there was no driver
        return False
    if not _loads("libcuda.so.1") or not _load_cudart():
        return False
    return _loads(str(Path(tvm.__file__).parent / "lib" / "libtvm_runtime_cuda.so"))


def _load_cudart() -> bool:
    spec = importlib.util.find_spec("nvidia")
    folders = spec.submodule_search_locations if spec is not None else None
    in_wheel = [Path(folder) / "cu13" / "lib" / "libcudart.so.13" for folder in folders or ()]
    return _loads("libcudart.so.13") or any(_loads(str(path)) for path in in_wheel if path.is_file())


def _loads(name: str) -> bool:
    try:
        ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
    except OSError:
        return False
    return True
