"""Describing a device over RPC: this machine, and an AArch64 process that sees a Raspberry Pi's files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from emulated import arm_target
from local_device import devices
from small_module import SmallModule

from ofa_tvm.devices import Fleet, Place
from ofa_tvm.devices.emulator import prepare_emulator
from ofa_tvm.devices.native import SERVER
from ofa_tvm.devices.tracker import TrackerProcess, wait_until
from ofa_tvm.measurement import Measurer
from ofa_tvm.targets import Target, get_target, load_target
from ofa_tvm.targets.readiness import EMULATOR_ROOT

ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
CPUINFO = """\
processor\t: {}
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x4
CPU part\t: 0xd0b
CPU revision\t: 1

"""


@pytest.fixture
def place() -> Iterator[Place]:
    with TrackerProcess() as tracker:
        yield Place(tracker.host, tracker.port, "board")


def ofa_tvm(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "ofa_tvm", *map(str, arguments)]


def probe(place: Place, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = ofa_tvm("targets", "probe", "--tracker", f"{place.host}:{place.port}", "--key", place.key)
    return subprocess.run(
        [*command, *map(str, arguments)], env=ENVIRONMENT, capture_output=True, text=True, check=False
    )


@contextmanager
def running(command: list[str], place: Place, **environment: str) -> Iterator[None]:
    """A server that has reached its tracker."""
    process = subprocess.Popen(command, env=ENVIRONMENT | environment, stdout=subprocess.DEVNULL)
    try:
        assert wait_until(lambda: devices(place) == 1, 60)
        yield
    finally:
        process.kill()
        process.wait()


def test_a_machine_that_serves_is_described_as_it_describes_itself(
    small: SmallModule, place: Place, tmp_path: Path
) -> None:
    serve = ofa_tvm(
        "device", "serve", "--port", 0, "--tracker", f"{place.host}:{place.port}", "--key", place.key
    )
    with running(serve, place):
        done = probe(place, "-o", tmp_path / "board.yaml", "--json")
        assert done.returncode == 0, done.stderr
        target, here = load_target(tmp_path / "board.yaml"), get_target("x86")
        assert json.loads(done.stdout)["run"] == {
            "where": "rpc", "tracker": f"{place.host}:{place.port}", "key": place.key
        }  # fmt: skip
        assert target.name == "board" and target.unit == "ms" and not target.probed
        assert (target.tvm, target.features, target.compatible) == (here.tvm, here.features, here.compatible)
        assert target.hardware == here.hardware
        target.tvm_target()
        with Measurer(target) as measurer:
            assert measurer.measure(small.so, repeats=5).median_ms


@pytest.fixture(scope="module")
def raspberry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root folder, where qemu looks for files first: AArch64 libraries, and a board's /proc and /sys."""
    root = tmp_path_factory.mktemp("raspberry")
    for name in ("lib", "usr"):
        if (EMULATOR_ROOT / name).exists():
            (root / name).symlink_to(EMULATOR_ROOT / name)
    frequency = "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq"
    for name, text in {
        "proc/cpuinfo": "".join(CPUINFO.format(i) for i in range(4)),
        "proc/meminfo": "MemTotal:        8256960 kB\n",
        "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
        frequency: "2400000\n",
        **{
            f"sys/devices/system/cpu/cpu0/cache/index{index}/{key}": f"{value}\n"
            for index, entry in enumerate(
                [
                    ("1", "Data", "64K"),
                    ("1", "Instruction", "64K"),
                    ("2", "Unified", "512K"),
                    ("3", "Unified", "2048K"),
                ]
            )
            for key, value in zip(("level", "type", "size"), entry, strict=True)
        },
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_an_arm_board_is_described(place: Place, raspberry: Path, tmp_path: Path) -> None:
    emulator = prepare_emulator(arm_target("cortex-a76"))
    serve = [
        emulator.command,
        "-L",
        str(raspberry),
        str(emulator.runtime / SERVER),
        "--port",
        "0",
        "--tracker",
    ]
    with running([*serve, f"{place.host}:{place.port}", "--key", place.key], place, QEMU_CPU=emulator.cpu):
        done = probe(place, "-o", tmp_path / "pi.yaml")
    assert done.returncode == 0, done.stderr
    target, shipped = load_target(tmp_path / "pi.yaml"), get_target("cortex-a76")
    assert target.kind == "arm" and target.mcpu == "cortex-a76" and target.run.where == "rpc"
    assert target.summary == "Raspberry Pi 5 Model B Rev 1.0, 4 cores, compiled for cortex-a76"
    assert set(target.features) == {"neon", "fullfp16", "dotprod"} and target.compatible == ("cortex-a76",)
    known = _figures(target)
    assert known.pop("ram_gib") == pytest.approx(7.9, abs=0.1)
    # What the shipped descriptor of this board has from its maker's documents.
    assert (
        known == {key: value for key, value in _figures(shipped).items() if key in known} and len(known) >= 7
    )
    assert target.tvm_target().attrs["mcpu"] == "cortex-a76"


def _figures(target: Target) -> dict[str, float]:
    hardware = target.to_descriptor()["hardware"]
    return {key: value for key, value in hardware.items() if key != "device"}


def test_an_emulated_device_has_no_hardware() -> None:
    with Fleet(arm_target(), devices=1) as fleet:
        done = probe(fleet.place)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "is emulated: it has no hardware to describe" in done.stderr.splitlines()[-1]
