"""OpenCL for TVM: the side library that no wheel holds, loaded into this process."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from ofa_tvm.errors import UserError
from ofa_tvm.native.library import load_library

INSTALL = "install the GPU vendor's OpenCL driver, or for this CPU: apt-get install pocl-opencl-icd"
_MOST_DEVICES = 64


@dataclass(frozen=True)
class OpenCLDevice:
    """A device as TVM sees it: `tvm.device("opencl", index)`."""

    index: int
    name: str
    version: str
    compute_units: int
    max_threads_per_block: int
    shared_bytes: int


def load_opencl() -> None:
    """Give this process's TVM the device kind `opencl`; the library is compiled the first time (6 s).

    Raises
    ------
    UserError
        If the OpenCL loader, its headers or a C++ compiler is missing; the sentence says what to install.
    """
    import tvm

    if tvm.get_global_func("device_api.opencl", allow_missing=True) is not None:
        return
    try:
        ctypes.CDLL("libOpenCL.so.1")
    except OSError as error:
        raise UserError(
            f"there is no OpenCL loader (libOpenCL.so.1); apt-get install ocl-icd-libopencl1, and {INSTALL}"
        ) from error
    load_library("opencl")


def opencl_devices() -> list[OpenCLDevice]:
    """Every OpenCL device of this machine: GPUs first, then accelerators, then CPUs.

    Raises
    ------
    UserError
        As `load_opencl`, or if no platform has a device.
    """
    load_opencl()
    import tvm

    found = []
    for index in range(_MOST_DEVICES):
        device = tvm.device("opencl", index)
        if not device.exist:
            break
        found.append(
            OpenCLDevice(
                index,
                str(device.device_name),
                str(device.compute_version),
                int(device.multi_processor_count),
                int(device.max_threads_per_block),
                int(device.max_shared_memory_per_block),
            )
        )
    if not found:
        raise UserError(f"there is no OpenCL device: no platform has one; {INSTALL}")
    return found
