"""A device on this machine: the RPC server in a process of its own, without an emulator."""

from __future__ import annotations

import platform
import resource
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ofa_tvm.devices import Place, TrackerClient
from ofa_tvm.devices.native import SERVER, device_runtime


def devices(place: Place) -> int:
    """How many devices the place's tracker has now."""
    with TrackerClient(place.host, place.port) as tracker:
        return tracker.devices(place.key)


@contextmanager
def local_device(
    place: Place,
    folder: Path,
    *,
    disk_bytes: int | None = None,
    kind: str = "llvm",
    options: Sequence[str] = (),
) -> Iterator[subprocess.Popen[bytes]]:
    """Offer this machine, and its GPU of a kind, to a tracker; with `disk_bytes`, no file can be larger."""

    def limit() -> None:
        if disk_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (disk_bytes, disk_bytes))

    process = subprocess.Popen(
        [str(device_runtime(platform.machine(), kind=kind) / SERVER), "--port", "0", "--tracker",
         f"{place.host}:{place.port}", "--key", place.key, "--folder", str(folder), "--with-parent", "1",
         *options],
        stdout=subprocess.PIPE,
        preexec_fn=limit,
    )  # fmt: skip
    try:
        assert process.stdout is not None and process.stdout.readline().startswith(b"listening on 127.0.0.1:")
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
