"""The example program in C++: built by CMake against a shipped folder, it runs the artefact by itself."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_module import SmallModule

from ofa_tvm.deploy import Artefact, Manifest, bare_runtime, write_artefact
from ofa_tvm.deploy.manifest import TargetEntry

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "cpp"


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


@pytest.mark.slow
def test_the_program_says_what_python_says(small: SmallModule, tmp_path: Path) -> None:
    manifest = Manifest(TargetEntry.of(small.target))
    runtime = bare_runtime(small.target)
    made = write_artefact(tmp_path / "deploy", small.so, small.onnx, manifest, runtime=runtime)
    program = build(made, tmp_path / "build")
    linked = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    assert f"{made.folder}/runtime/libtvm_runtime.so" in linked and "libtvm_compiler" not in linked
    # Copied elsewhere, the folder and the program are all that is needed.
    bare = tmp_path / "bare"
    shutil.copytree(made.folder, bare)
    shutil.copy(program, bare)
    shutil.rmtree(made.folder)
    pixels = np.random.default_rng(1).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "p.png")
    expected = {
        p.label: p.probability for p in Artefact.open(bare).classify([tmp_path / "p.png"], top_k=4)[0]
    }

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [str(argument) for argument in (bare / "classify", bare / "model.so", *arguments)]
        return subprocess.run(command, capture_output=True, text=True, env={}, check=False)

    found = [line.split("\t") for line in run(tmp_path / "p.png", 4).stdout.splitlines()]
    assert [label for label, _ in found] == list(expected)
    assert {label: float(p) for label, p in found} == pytest.approx(expected, abs=2e-6)
    assert len(run(tmp_path / "p.png", 2).stdout.splitlines()) == 2
    done = run(tmp_path / "none.png")
    assert (
        done.returncode == 1
        and done.stderr.startswith("error: ")
        and "none.png: cannot be read" in done.stderr
    )
