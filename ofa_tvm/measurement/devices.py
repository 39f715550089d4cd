"""The device that a GPU-kind target runs on: is it there, and what is it called?"""

from __future__ import annotations

from ofa_tvm.native.cuda import load_cuda
from ofa_tvm.native.opencl import opencl_devices


def device_name(kind: str) -> str:
    """Name of this machine's first device of a TVM kind ("cuda" or "opencl").

    Raises
    ------
    UserError
        If there is none; the sentence says what to install.
    """
    if kind == "opencl":
        return opencl_devices()[0].name
    load_cuda()
    import tvm

    return str(tvm.cuda(0).device_name)
