"""Search spaces: architectures, populations, layer shapes, MACs. numpy only."""

from __future__ import annotations

from ofa_tvm.spaces.arch import Arch
from ofa_tvm.spaces.fbnet import FBNetSpace, OpsArch
from ofa_tvm.spaces.layered import LayeredSpace
from ofa_tvm.spaces.network import BottleneckSpec, ConvSpec, Layer, MBConvSpec, NetworkSpec, network_layers
from ofa_tvm.spaces.registry import get_layered_space, get_space, list_spaces
from ofa_tvm.spaces.space import Space, Stage

__all__ = [
    "Arch",
    "BottleneckSpec",
    "ConvSpec",
    "FBNetSpace",
    "Layer",
    "LayeredSpace",
    "MBConvSpec",
    "NetworkSpec",
    "OpsArch",
    "Space",
    "Stage",
    "get_layered_space",
    "get_space",
    "list_spaces",
    "network_layers",
]
