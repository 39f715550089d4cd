"""Tests that need an OpenCL device skip, in one line, where there is none."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import pytest

PACKAGES = "apt-get install pocl-opencl-icd ocl-icd-libopencl1 opencl-headers"


def _missing() -> str:
    try:
        ctypes.CDLL("libOpenCL.so.1")
    except OSError:
        return "no OpenCL loader"
    if not Path("/usr/include/CL/cl.h").is_file():
        return "no OpenCL headers"
    vendors = Path(os.environ.get("OCL_ICD_VENDORS", "/etc/OpenCL/vendors"))
    return "" if any(vendors.glob("*.icd")) else "no OpenCL driver"


needs_opencl = pytest.mark.skipif(bool(_missing()), reason=f"{_missing()}: {PACKAGES}")


def skip_without_opencl() -> None:
    """Skip the test that calls this where there is no OpenCL device."""
    if reason := _missing():
        pytest.skip(f"{reason}: {PACKAGES}")
