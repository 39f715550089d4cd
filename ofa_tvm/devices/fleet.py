"""The devices that a target's work runs on: those of its tracker, or emulated ones of our own."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import Self

from ofa_tvm.devices.emulator import EmulatedDevice, Emulator, prepare_emulator
from ofa_tvm.devices.place import Place, split_address
from ofa_tvm.devices.tracker import TrackerClient, TrackerProcess, wait_until
from ofa_tvm.errors import UserError
from ofa_tvm.progress import SILENT, Progress
from ofa_tvm.targets import Target

_START_LIMIT_S = 20.0


def fleet_size(target: Target) -> int:
    """How many devices a `Fleet` of the target would have now: those of its tracker, or one emulated a CPU.

    Raises
    ------
    TrackerUnreachable
        If there is no tracker.
    """
    if target.run.where != "rpc":
        return len(os.sched_getaffinity(0))
    with TrackerClient(*split_address(target.run.tracker)) as tracker:
        return tracker.devices(target.run.key)


class Fleet:
    """Devices of one target for as long as the context lasts.

    For a target with `run: rpc` they are whatever its tracker has under its key. For one with
    `run: emulator` a tracker on the loopback address and emulated devices are started here and end with it.

    Parameters
    ----------
    target
        Runs by RPC or in the emulator.
    devices
        Emulated devices to start; by default one a CPU of this process.
    progress
        Told of what has to be set up first.

    Raises
    ------
    UserError
        If there is no tracker, no device with the key, or the emulator cannot be set up.
    """

    def __init__(self, target: Target, *, devices: int | None = None, progress: Progress = SILENT) -> None:
        self.target = target
        self.emulated: list[EmulatedDevice] = []
        self._stack = ExitStack()
        if target.run.where == "rpc":
            self.place = Place(*split_address(target.run.tracker), target.run.key)
            self.size = fleet_size(target)
            if not self.size:
                raise UserError(
                    f"the tracker at {target.run.tracker} has no device of key {target.run.key}; on the "
                    f"board run: ofa-tvm-device --tracker {target.run.tracker} --key {target.run.key}"
                )
            return
        if target.run.where != "emulator":
            raise UserError(f"target {target.name} runs by {target.run.where}, not on a device")
        if target.threads > 1:
            raise UserError(
                f"target {target.name} is emulated: instructions are counted of one thread, not of "
                f"{target.threads}; leave out --threads"
            )
        self._emulator: Emulator = prepare_emulator(target, progress=progress)
        self.size = devices or fleet_size(target)
        try:
            process = self._stack.enter_context(TrackerProcess())
            self.place = Place(process.host, process.port, target.name)
            self.emulated = [self._start() for _ in range(self.size)]
            with TrackerClient(self.place.host, self.place.port) as tracker:
                if not wait_until(lambda: tracker.devices(target.name) >= self.size, _START_LIMIT_S):
                    raise UserError(f"the emulated devices of {target.name} do not reach their tracker")
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End what was started here."""
        self._stack.close()

    def revive(self) -> int:
        """Start emulated devices anew in place of those that died; returns how many did."""
        dead = [index for index, device in enumerate(self.emulated) if not device.running]
        for index in dead:
            self.emulated[index] = self._start()
        return len(dead)

    def _start(self) -> EmulatedDevice:
        return self._stack.enter_context(EmulatedDevice(self._emulator, self.place))
