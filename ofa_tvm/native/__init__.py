"""C++ beside the wheels of TVM and PyTorch.

An OpenCL runtime, a holder of CUDA binaries for machines without a GPU, and a gradient that training spends
much of its time in.
"""

from __future__ import annotations

from ofa_tvm.native.cuda import has_cuda, load_cuda, load_cuda_for_building
from ofa_tvm.native.depthwise import load_weight_gradient
from ofa_tvm.native.library import build_library, load_library
from ofa_tvm.native.opencl import load_opencl, opencl_devices

__all__ = [
    "build_library",
    "has_cuda",
    "load_cuda",
    "load_cuda_for_building",
    "load_library",
    "load_opencl",
    "load_weight_gradient",
    "opencl_devices",
]
