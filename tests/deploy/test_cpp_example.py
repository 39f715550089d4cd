"""The example program in C++: the TVM runtime alone runs an artefact, here and (emulated) on AArch64."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_module import LABELS, PREPROCESSING, SIZE, SmallModule, build_small_module, write_small_onnx

import ofa_tvm
from ofa_tvm.deploy import Artefact, Manifest, write_artefact
from ofa_tvm.deploy.manifest import TargetEntry
from ofa_tvm.errors import UserError
from ofa_tvm.images import Preprocessing, open_image
from ofa_tvm.targets import get_target

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "cpp"
AARCH64_ROOT = Path("/usr/aarch64-linux-gnu")


def build(artefact: Artefact, folder: Path, *options: str) -> Path:
    if not shutil.which("cmake"):
        pytest.skip("no cmake; apt-get install cmake")
    for command in (
        ["cmake", "-S", EXAMPLE, "-B", folder, f"-DOFA_TVM_RUNTIME={artefact.folder / 'runtime'}",
         f"-DOFA_TVM_PYTHON={sys.executable}", "-DCMAKE_BUILD_TYPE=Release", *options],
        ["cmake", "--build", folder],
    ):  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    assert "warning" not in done.stderr
    return folder / "classify"


def inputs(folder: Path) -> tuple[Path, Path, Path]:
    """A picture, and what the program takes: the same as a PPM of the network's size, and as an array."""
    pixels = np.random.default_rng(1).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "p.png")
    preprocessing = Preprocessing.from_dict(PREPROCESSING)
    picture = open_image(folder / "p.png")
    Image.fromarray(preprocessing.resize(picture)).save(folder / "p.ppm")
    np.save(folder / "p.npy", preprocessing.apply(picture))
    return folder / "p.png", folder / "p.ppm", folder / "p.npy"


def answers(text: str) -> dict[str, float]:
    return {label: float(p) for label, p in (line.split("\t") for line in text.splitlines())}


@pytest.mark.slow
@pytest.mark.usefixtures("all_cpus")
def test_the_program_says_what_python_says(small: SmallModule, tmp_path: Path) -> None:
    made = write_artefact(
        tmp_path / "deploy", small.so, small.onnx, Manifest(TargetEntry.of(small.target)), with_runtime=True
    )
    program = build(made, tmp_path / "build")
    linked = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    assert f"{made.folder}/runtime/libtvm_runtime.so" in linked and "libtvm_compiler" not in linked
    # Copied elsewhere, the folder and the program are all that is needed.
    bare = tmp_path / "bare"
    shutil.copytree(made.folder, bare)
    shutil.copy(program, bare)
    shutil.rmtree(made.folder)
    png, ppm, npy = inputs(tmp_path)
    expected = {p.label: p.probability for p in Artefact.open(bare).classify([png], top_k=4)[0]}
    for file in (ppm, npy):
        done = subprocess.run(
            [bare / "classify", bare / "model.so", file, "4"],
            capture_output=True,
            text=True,
            env={"PATH": os.environ["PATH"]},
            check=True,
        )
        found = answers(done.stdout)
        assert list(found) == list(expected)
        assert found == pytest.approx(expected, abs=2e-6)
        assert done.stderr.strip().endswith("ms")
    assert (
        len(answers(subprocess.check_output([bare / "classify", bare / "model.so", npy, "2"], text=True)))
        == 2
    )
    if len(os.sched_getaffinity(0)) > 1:
        wide = write_small_onnx(tmp_path / "wide.onnx", width=256)
        two = build_small_module(wide, tmp_path / "two.so", small.target.with_threads(2))
        done = subprocess.run([bare / "classify", two, npy], capture_output=True, text=True, check=True)
        assert done.stderr.startswith("2 threads, ")
        x = np.load(npy)
        logits = np.asarray(ofa_tvm.load(two)(x)).ravel()
        shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        assert answers(done.stdout) == pytest.approx(dict(zip(LABELS, shares, strict=True)), abs=2e-6)
    np.save(tmp_path / "wrong.npy", np.zeros(3, np.float32))
    Image.new("RGB", (9, 9)).save(tmp_path / "wrong.ppm")
    for file, says in (
        (tmp_path / "wrong.npy", "does not hold one float32 input"),
        (tmp_path / "wrong.ppm", "is 9 x 9; scale it to 16 x 16"),
        (tmp_path / "none.npy", "cannot read"),
        (png, "is not a .npy file"),
    ):
        done = subprocess.run([bare / "classify", bare / "model.so", file], capture_output=True, text=True)
        assert done.returncode == 1 and done.stderr.startswith("error: ") and says in done.stderr


@pytest.mark.slow
def test_the_program_runs_on_aarch64(small: SmallModule, tmp_path: Path) -> None:
    if not shutil.which("aarch64-linux-gnu-g++") or not shutil.which("qemu-aarch64"):
        pytest.skip("no AArch64 emulation; apt-get install g++-aarch64-linux-gnu qemu-user")
    target = get_target("cortex-a72")
    so = build_small_module(small.onnx, tmp_path / "arm.so", target)
    try:
        made = write_artefact(
            tmp_path / "deploy", so, small.onnx, Manifest(TargetEntry.of(target)), with_runtime=True
        )
    except UserError as error:
        if "cannot be downloaded" not in str(error):
            raise
        pytest.skip(str(error))
    program = build(
        made, tmp_path / "build", "-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
        "-DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++",
    )  # fmt: skip
    png, _, npy = inputs(tmp_path)
    done = subprocess.run(
        ["qemu-aarch64", "-L", AARCH64_ROOT, "-cpu", "cortex-a72", program, made.module_path, npy, "4"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    here = write_artefact(tmp_path / "here", small.so, small.onnx, Manifest(TargetEntry.of(small.target)))
    expected = {p.label: p.probability for p in here.classify([png], top_k=len(LABELS))[0]}
    assert answers(done.stdout) == pytest.approx(expected, abs=1e-5)
    emulated = {p.label: p.probability for p in made.classify([png], top_k=len(LABELS))[0]}
    assert emulated == pytest.approx(expected, abs=1e-5), "the same artefact from Python, in the emulator"
    assert here.runner.inputs[0].shape[-1] == SIZE
