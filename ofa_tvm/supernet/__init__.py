"""Supernets and the networks extracted from them (torch)."""

from __future__ import annotations

from ofa_tvm.supernet.batchnorm import calibrate, calibrate_on_noise
from ofa_tvm.supernet.fake_quantization import dtype_of, set_dtype
from ofa_tvm.supernet.network import Network, load_subnet
from ofa_tvm.supernet.supernet import Supernet, build_supernet, timed_subnet

__all__ = [
    "Network",
    "Supernet",
    "build_supernet",
    "calibrate",
    "calibrate_on_noise",
    "dtype_of",
    "load_subnet",
    "set_dtype",
    "timed_subnet",
]
