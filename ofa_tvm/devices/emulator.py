"""The emulated device: real AArch64 code and real RPC under qemu-user, whose cost is an instruction count."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from ofa_tvm.devices.native import SERVER, cxx_of, device_runtime, emulator_counter
from ofa_tvm.devices.place import Place
from ofa_tvm.errors import UserError
from ofa_tvm.files import cache_dir
from ofa_tvm.progress import SILENT, Progress
from ofa_tvm.targets import Target
from ofa_tvm.targets.readiness import EMULATOR_FOLDER, EMULATOR_LOADER, EMULATOR_ROOT
from ofa_tvm.temporaries import scratch_folder

_PACKAGES = ("qemu-user", "libc6-arm64-cross", "libgcc-s1-arm64-cross", "libstdc++6-arm64-cross")
_START_LIMIT_S = 30.0


@dataclass(frozen=True)
class Emulator:
    """What an emulated device is made of: qemu, its C library, the server with TVM's runtime, the counter."""

    command: str
    root: Path
    runtime: Path
    counter: Path
    cpu: str


def prepare_emulator(target: Target, *, progress: Progress = SILENT) -> Emulator:
    """Set up the emulated device of a target; what is built or downloaded is kept in the cache folder.

    Raises
    ------
    UserError
        If the emulator, the cross compiler or a download is missing; says what to install.
    """
    command, root = find_emulator(target, progress=progress)
    runtime = device_runtime("aarch64", cxx_of(target.link.find()), progress=progress)
    return Emulator(command, root, runtime, emulator_counter(command), target.run.emulator_cpu or "max")


def find_emulator(target: Target, *, progress: Progress = SILENT) -> tuple[str, Path]:
    """The emulator's command and the folder of AArch64 system libraries, installed or unpacked without root.

    Raises
    ------
    UserError
        If they are neither installed nor can be fetched.
    """
    installed = shutil.which(target.run.emulator)
    if installed and (EMULATOR_ROOT / EMULATOR_LOADER).exists():
        return installed, EMULATOR_ROOT
    folder = cache_dir() / EMULATOR_FOLDER
    command, root = folder / "usr/bin" / target.run.emulator, folder / "usr/aarch64-linux-gnu"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name("packages.lock")):
        if not (command.is_file() and (root / EMULATOR_LOADER).exists()):
            progress.say(f"unpacking {', '.join(_PACKAGES)} into {folder} (no root needed)")
            _unpack(folder, target.run.install)
    return installed or str(command), root


def _unpack(folder: Path, install: str) -> None:
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise UserError(f"the emulator is not installed; {install}")
    with scratch_folder("packages") as name:
        done = subprocess.run(
            ["apt-get", "download", *_PACKAGES], cwd=name, capture_output=True, text=True, check=False
        )
        files = sorted(Path(name).glob("*.deb"))
        if done.returncode or len(files) < len(_PACKAGES):
            raise UserError(f"the emulator is not installed and cannot be downloaded; {install}")
        for file in files:
            subprocess.run(["dpkg-deb", "-x", str(file), str(folder)], check=True)


class EmulatedDevice:
    """One emulated device that offers itself to a tracker until `stop`; a context manager."""

    def __init__(self, emulator: Emulator, place: Place) -> None:
        self._files = scratch_folder("emulated")
        count = Path(self._files.name) / "count"
        count.write_bytes(bytes(8))
        self._log = (Path(self._files.name) / "log").open("wb+")
        environment = os.environ | {
            "QEMU_CPU": emulator.cpu,
            "OFA_TVM_COUNTER": str(count),
            "TVM_NUM_THREADS": "1",
        }
        environment.pop("LD_LIBRARY_PATH", None)
        self.process = subprocess.Popen(
            [emulator.command, "-L", str(emulator.root), "-plugin", f"{emulator.counter},count={count}",
             str(emulator.runtime / SERVER), "--port", "0", "--tracker", f"{place.host}:{place.port}",
             "--key", place.key, "--with-parent", "1", "--folder", self._files.name],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._log,
        )  # fmt: skip
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], _START_LIMIT_S)
        line = self.process.stdout.readline().decode() if ready else ""
        if not line.startswith("listening on "):
            problem = self.log() or "it says nothing"
            self.stop()
            raise UserError(f"the emulated device does not start: {problem.splitlines()[-1]}")
        self.address = line.removeprefix("listening on ").strip()

    def __enter__(self) -> EmulatedDevice:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def running(self) -> bool:
        """Whether its process is there."""
        return self.process.poll() is None

    def log(self) -> str:
        """What it reported so far."""
        self._log.seek(0)
        return self._log.read().decode(errors="replace").strip()

    def stop(self) -> None:
        """End it and remove its files."""
        self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        self._log.close()
        self._files.cleanup()
