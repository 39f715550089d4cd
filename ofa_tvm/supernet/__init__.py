"""Supernets and the networks extracted from them (torch)."""

from __future__ import annotations

from ofa_tvm.supernet.batchnorm import calibrate
from ofa_tvm.supernet.network import Network, load_subnet
from ofa_tvm.supernet.supernet import Supernet, build_supernet

__all__ = ["Network", "Supernet", "build_supernet", "calibrate", "load_subnet"]
