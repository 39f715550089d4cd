"""Phones behind adb: what is said of those that will not do, and one that is unplugged while it works.

No phone is here: `cable.py` stands in for adb; the folder, the server and the campaign are the real ones.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import cable
import pytest
from local_device import devices
from once import Once
from verbs import without_torch

from ofa_tvm.devices import Place
from ofa_tvm.devices.adb import Phone, find_phone, typed_commands
from ofa_tvm.devices.native import cxx_of
from ofa_tvm.devices.self_contained import write_self_contained
from ofa_tvm.devices.tracker import TrackerProcess, wait_until
from ofa_tvm.errors import UserError
from ofa_tvm.process import installed_command
from ofa_tvm.targets import get_target

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tuning"))
from test_campaign import kernels

from ofa_tvm.tuning import crew, tune_kernels

MB = 1 << 20


@pytest.fixture
def phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The phone's side of the cable."""
    (tmp_path / "cable").mkdir()
    folder = cable.install(tmp_path / "cable")
    monkeypatch.setenv("OFA_TVM_CABLE", str(folder))
    monkeypatch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return folder


@pytest.mark.parametrize(
    ("listed", "says"),
    [
        ("", r"adb sees no phone: plug it in, and switch on USB debugging"),
        ("A\tdevice\nB\tdevice\n", r"adb sees 2 devices: A, B; name one with --serial"),
        ("A\tunauthorized\n", "A does not trust this computer yet: unlock it"),
        ("A\toffline\n", "A does not answer"),
        ("A\tno permissions (missing udev rules?)\n", "A may not be opened by this account"),
        ("A\trecovery\n", "A is in state recovery"),
    ],
)
def test_what_adb_sees(listed: str, says: str, phone: Path) -> None:
    (phone / "devices").write_text(listed)
    with pytest.raises(UserError, match=says):
        find_phone()


def test_one_of_several_is_named(phone: Path) -> None:
    (phone / "devices").write_text("A\tdevice\nemulator-5554\tdevice\n")
    assert find_phone("emulator-5554") == Phone("emulator-5554")
    with pytest.raises(UserError, match="adb sees no C, but A, emulator-5554"):
        find_phone("C")


@pytest.mark.parametrize(
    ("abilist", "says"),
    [
        ("x86_64,arm64-v8a,x86", "PHONE1 is an emulator's image for x86_64, not a phone.*arm64-v8a image"),
        ("armeabi-v7a,armeabi", "PHONE1 is a 32-bit phone"),
        ("", "PHONE1 runs programs for nothing that it names"),
    ],
)
def test_a_phone_that_will_not_do(abilist: str, says: str, phone: Path) -> None:
    (phone / "abilist").write_text(abilist)
    with pytest.raises(UserError, match=says):
        find_phone().check("aarch64", MB)


def test_a_full_phone_and_one_that_is_unplugged(phone: Path) -> None:
    (phone / "abilist").write_text("arm64-v8a,armeabi-v7a,armeabi")
    (phone / "free_kib").write_text("3072")
    found = find_phone()
    found.check("aarch64", 2 * MB)
    with pytest.raises(UserError, match=r"PHONE1 has 3\.0 MB left and the folder takes 11\.0: make room"):
        found.check("aarch64", 11 * MB)
    (phone / "phone/ofa-tvm").mkdir(parents=True, exist_ok=True)
    (phone / "phone/ofa-tvm/from before").write_bytes(bytes(9 * MB))
    found.check("aarch64", 11 * MB)
    (phone / "unplugged").touch()
    with pytest.raises(UserError, match=r"the phone is gone \(device 'PHONE1' not found\); plug it in again"):
        found.check("aarch64", MB)
    assert not found.present


def test_without_adb_the_page_and_the_verb_say_the_same_commands() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs/targets-android.md").read_text()
    assert "\n".join(typed_commands(Path("phone"))) in page


@pytest.mark.slow
def test_a_folder_is_pushed(phone: Path, tmp_path: Path) -> None:
    bundle = ["device", "bundle", "--target", "x86", "--self-contained", "-o", "p", "--push"]
    (phone / "abilist").write_text("arm64-v8a")
    assert "runs programs for arm64-v8a, and the folder is for x86_64" in without_torch(
        tmp_path, *bundle
    ).error(1)
    assert not (tmp_path / "p").exists(), "said before anything is built"
    assert "first: ofa-tvm device bundle" in without_torch(tmp_path, "device", "attach").error(1)
    (phone / "abilist").write_text("x86_64")
    (phone / "free_kib").write_text("4000")
    assert "make room there" in without_torch(tmp_path, *bundle).error(1)
    assert not (phone / "phone/ofa-tvm").exists() or not [*(phone / "phone/ofa-tvm").iterdir()]
    (phone / "free_kib").write_text("40000")
    done = without_torch(tmp_path, *bundle, "--json")
    said = json.loads(done.out)
    assert said["pushed"] and said["serial"] == "PHONE1" and said["bytes"] < 20e6
    pushed = {file.name: file.read_bytes() for file in (phone / "phone/ofa-tvm").rglob("*") if file.is_file()}
    assert pushed == {file.name: file.read_bytes() for file in (tmp_path / "p").rglob("*") if file.is_file()}


def test_a_phones_gpu_is_said_to_be_out_of_reach(tmp_path: Path) -> None:
    done = without_torch(tmp_path, "device", "bundle", "--self-contained", "--target", "opencl-adreno")
    assert "made for Android's C library" in done.error(2) and "NDK" in done.err
    done = without_torch(tmp_path, "device", "bundle", "--push")
    assert "add --self-contained" in done.error(2)
    done = without_torch(tmp_path, "device", "bundle", "--self-contained", "--serial", "A")
    assert "add --push" in done.error(2)


@pytest.fixture
def attached(phone: Path, once: Once) -> Iterator[Place]:
    """The phone at a tracker, by the command that keeps it there."""
    if installed_command(("g++", "c++", "clang++")) is None:
        pytest.skip("no C++ compiler: apt-get install g++")
    folder = once.make("phone-here", _for_this_machine)
    found = find_phone()
    found.check("x86_64", 20 * MB)
    found.push(folder)
    with TrackerProcess() as tracker:
        place = Place(tracker.host, tracker.port, "here")
        command = [sys.executable, "-m", "ofa_tvm", "device", "attach", "--tracker-port", str(tracker.port)]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            yield place
        finally:
            process.terminate()
            process.wait(20)


def _for_this_machine(folder: Path) -> Path:
    cxx = cxx_of(get_target("x86").link.find())
    write_self_contained(folder / "phone", "x86_64", cxx, "here", target="x86")
    return folder / "phone"


def _has_records(log: Path) -> bool:
    return len(log.read_text().splitlines()) > 1


@pytest.mark.slow
def test_a_campaign_goes_on_when_the_phone_is_back(
    attached: Place, phone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crew, "DEVICE_WAIT_S", 1.0)  # what the target says counts
    target = get_target("x86").on_tracker(f"{attached.host}:{attached.port}", attached.key)
    target = dataclasses.replace(target, run=dataclasses.replace(target.run, wait_s=120.0))
    assert wait_until(lambda: devices(attached) == 1, 30)
    away: list[int] = []

    def unplug() -> None:
        wait_until(
            lambda: sum(len(log.read_text().splitlines()) for log in tmp_path.glob("logs/*/*.jsonl")) > 2, 120
        )
        (phone / "unplugged").touch()
        assert wait_until(lambda: devices(attached) == 0, 20)
        threading.Event().wait(4.0)
        away.append(devices(attached))
        (phone / "unplugged").unlink()

    thread = threading.Thread(target=unplug)
    thread.start()
    found = kernels(get_target("x86"))[1:3]
    result = tune_kernels(found, target, tmp_path / "logs", trials=6)
    thread.join()
    assert away == [0], "it was unplugged while the campaign ran"
    assert (result.tuned, result.failed) == (2, 0) and not result.records.failures
