"""Supernets and the networks extracted from them (torch)."""

from __future__ import annotations

from ofa_tvm.supernet.batchnorm import calibrate
from ofa_tvm.supernet.fake_quantization import Arithmetic, dtype_of, set_dtype
from ofa_tvm.supernet.network import Network, load_subnet
from ofa_tvm.supernet.supernet import Supernet, build_supernet

__all__ = [
    "Arithmetic",
    "Network",
    "Supernet",
    "build_supernet",
    "calibrate",
    "dtype_of",
    "load_subnet",
    "set_dtype",
]
