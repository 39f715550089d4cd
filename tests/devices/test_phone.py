"""A phone's folder without a phone: emulated on an old kernel, with nothing but the folder, and filtered."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from demo_project import DemoProject
from emulated import arm_target
from local_device import devices
from once import Once
from small_module import SmallModule
from verbs import Verbs

from ofa_tvm.deploy import Artefact
from ofa_tvm.devices import Place, fleet
from ofa_tvm.devices.emulator import Emulator, prepare_emulator
from ofa_tvm.devices.native import cxx_of
from ofa_tvm.devices.self_contained import write_self_contained
from ofa_tvm.devices.session import open_session
from ofa_tvm.devices.tracker import TrackerProcess, wait_until
from ofa_tvm.images import open_image
from ofa_tvm.measurement import Measurer
from ofa_tvm.process import installed_command
from ofa_tvm.runtime import elf_arch
from ofa_tvm.targets import Target, get_target

HERE = Path(__file__).resolve().parent
# Where an emulated device would be started, the phone's script is: as `adb shell` does, from elsewhere.
_STARTS = """\
#!/bin/sh
plugin=$4 port=$7 tracker=$9 key=${{11}}
cd /
TMPDIR=/nonexistent HOME=/nonexistent \\
OFA_TVM_EMULATOR="{qemu} -L /nonexistent -r 4.9.0 -strace -D {log}.$$ -plugin $plugin" \\
exec sh {folder}/start.sh --port "$port" --tracker "$tracker" --key "$key" --with-parent 1
"""


@pytest.fixture(scope="module")
def target() -> Target:
    return arm_target("cortex-a75")


@pytest.fixture(scope="module")
def bundle(once: Once, target: Target) -> Path:
    return once.make("phone", lambda folder: _written(folder / "phone", target))


def _written(folder: Path, target: Target) -> Path:
    size = write_self_contained(folder, "aarch64", cxx_of(target.link.find()), target.name)
    assert size < 20e6 and size == sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return folder


@pytest.fixture
def phone(bundle: Path, target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Devices of the target are the phone's from now on; returns the folder on it."""
    folder, log = tmp_path / "data/local/tmp/ofa-tvm", tmp_path / "calls"
    shutil.copytree(bundle, folder)
    real = prepare_emulator(target)
    starts = tmp_path / "starts"
    starts.write_text(_STARTS.format(qemu=real.command, log=log, folder=folder))
    starts.chmod(0o755)
    monkeypatch.setattr(
        fleet,
        "prepare_emulator",
        lambda *_, **__: Emulator(str(starts), Path("/nonexistent"), folder, real.counter, real.cpu),
    )
    return folder


def test_the_folder_is_whole(bundle: Path) -> None:
    files = {file.relative_to(bundle).as_posix(): file for file in bundle.rglob("*") if file.is_file()}
    assert not [name for name, file in files.items() if file.is_symlink()]
    assert {"start.sh", "ofa-tvm-device", "README.txt", "lib/ld-linux-aarch64.so.1", "lib/libc.so.6"} <= set(
        files
    )
    assert {elf_arch(file) for file in files.values() if file.suffix == ".so"} == {"aarch64"}
    script = (bundle / "start.sh").read_text()
    assert "<<" not in script and not re.search(r"@[A-Z]+@", script)
    assert max(map(len, (bundle / "README.txt").read_text().splitlines())) < 112


@pytest.mark.slow
def test_a_project_goes_to_a_phone_with_nothing_but_its_folders(
    ofa: Verbs, demo: DemoProject, phone: Path, tmp_path: Path
) -> None:
    """Tune, measure in instructions, search, ship, run: no file of the system's, on a kernel of 2016."""
    folder, on_phone = tmp_path / "demo", tmp_path / "data/local/tmp/my photos"
    shutil.copytree(demo.folder, folder)
    tuned = ofa(
        folder, "tune", "deploy/model.onnx", "--target", "pixel-3", "--trials", 1, "--seconds", 3, "--json"
    )
    assert tuned.code == 0, tuned.err
    assert json.loads(tuned.out)["tuned"] >= 1 and not json.loads(tuned.out)["failed"]
    done = ofa(
        folder, "search", "--target", "pixel-3", "--latency", "100Minstr", "-o", "phone/", "--with-runtime",
        "--rounds", 1, "--candidates", 1, "--latency-samples", 2, "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert 0 < json.loads(done.out)["measured_latency_minstr"] <= 100
    logs = sorted(tmp_path.glob("calls.*"))
    assert len(logs) >= 3
    for log in logs:
        _check_calls(log, phone)

    shutil.copytree(folder / "phone", on_phone / "deploy")  # where it is moved to, with a blank in its path
    image = shutil.copy(sorted((folder / "images").glob("*.png"))[0], on_phone / "photo 1.png")
    emulator = f"{prepare_emulator(arm_target('cortex-a75')).command} -L /nonexistent -r 4.9.0"
    said = subprocess.run(
        ["/bin/sh", on_phone / "deploy/run.sh", "-k", "10", "--json", image],
        env={"OFA_TVM_EMULATOR": emulator, "PATH": "/usr/bin:/bin", "TMPDIR": "/nonexistent"},
        cwd="/", capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert said.returncode == 0, said.stderr
    top = json.loads(said.stdout)["predictions"][0]["top"]
    artefact = Artefact.open(folder / "phone")
    x = artefact.classifier.preprocessing.apply(open_image(Path(image)))
    logits = onnxruntime.InferenceSession(folder / "phone/model.onnx").run(None, {"input": x})[0][0]
    expected = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    assert [one["index"] for one in top] == list(np.argsort(-expected))
    assert [one["probability"] for one in top] == pytest.approx(np.sort(expected)[::-1], abs=1e-5)
    ran = json.loads(ofa(folder, "run", "phone", image, "--json").out)["predictions"][0]["top"][0]
    assert ran["label"] == top[0]["label"]
    assert ran["probability"] == pytest.approx(top[0]["probability"], abs=2e-6)


def _check_calls(log: Path, folder: Path) -> None:
    """Nothing lay outside the folder but what every Linux has; nothing was asked for that phones refuse."""
    text = log.read_text(errors="replace")
    there = re.findall(r'^\d+ \w+\((?:AT_FDCWD,)?"([^"]+)".* = (?!-1)', text, re.MULTILINE)
    assert str(folder / "lib/libc.so.6") in there
    outside = [path for path in there if not path.startswith((str(folder), "/proc/", "/sys/"))]
    assert all(path.endswith("/count") for path in outside), outside  # the emulator's
    assert not re.findall(r"\b(?:linkat|symlinkat|execve|shmget|semget)\(|PF_UNIX|PF_LOCAL|sun_path", text)


@pytest.mark.slow
@pytest.mark.usefixtures("all_cpus")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the filter is written for x86-64")
def test_what_android_refuses_to_apps_is_done_without(small: SmallModule, once: Once, tmp_path: Path) -> None:
    """glibc asks for such calls at each start and in each thread, and would be ended by the first."""
    compiler = installed_command(("gcc", "cc", "clang"))
    if compiler is None:
        pytest.skip("no C compiler: apt-get install gcc")
    subprocess.run([*compiler, str(HERE / "app_filter.c"), "-o", str(tmp_path / "filter")], check=True)
    folder = once.make("phone-here", _for_this_machine)
    server, libraries = folder / "ofa-tvm-device", folder / "lib"
    bare = [tmp_path / "filter", libraries / "ld-linux-x86-64.so.2", "--library-path", libraries, server]
    alone = subprocess.run([*bare, "--help", "1"], capture_output=True, check=False)
    if alone.returncode == 77:
        pytest.skip(alone.stderr.decode())
    assert alone.returncode == -31, "SIGSYS: without help it is ended"
    with TrackerProcess() as tracker:
        place = Place(tracker.host, tracker.port, "app")
        command = ["sh", folder / "start.sh", "--port", "0", "--tracker", f"{place.host}:{place.port}"]
        environment = os.environ | {"OFA_TVM_EMULATOR": str(tmp_path / "filter")}
        process = subprocess.Popen([*command, "--key", "app"], env=environment, stdout=subprocess.DEVNULL)
        try:
            assert wait_until(lambda: devices(place) == 1, 20)
            with open_session(place) as session:
                session.set_threads(2)
                assert session.call("runtime.NumThreads") == min(2, len(os.sched_getaffinity(0)))
            with Measurer(small.target.on_tracker(f"{place.host}:{place.port}", "app")) as measurer:
                assert measurer.measure(small.so, repeats=3).median_ms
        finally:
            subprocess.run(["sh", folder / "start.sh", "stop"], check=True)
            process.wait(10)


def _for_this_machine(folder: Path) -> Path:
    target = get_target("x86")
    write_self_contained(folder / "phone", "x86_64", cxx_of(target.link.find()), "here")
    return folder / "phone"
