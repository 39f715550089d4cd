"""Devices beyond this process: boards that a tracker hands out over TVM's RPC, and emulated ones."""

from __future__ import annotations

from ofa_tvm.devices.fleet import Fleet, fleet_size
from ofa_tvm.devices.place import Place
from ofa_tvm.devices.tracker import TrackerClient, TrackerUnreachable

__all__ = ["Fleet", "Place", "TrackerClient", "TrackerUnreachable", "fleet_size"]
