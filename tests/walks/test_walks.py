"""Six sessions of a new user, from start to end, as scripts that a stranger can read and run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from demo_project import DemoProject

HERE = Path(__file__).parent
_SKIPPED = 77


@pytest.mark.slow
@pytest.mark.parametrize("walk", [script.stem for script in sorted(HERE.glob("*_*.sh"))])
def test_walk(walk: str, demo: DemoProject, tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    folder.mkdir()
    checkout = HERE.parents[1]
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(checkout),
        "PROJECT": str(demo.folder),
        "OFA_TVM_DATA": os.environ.get("OFA_TVM_DATA", str(checkout.parent / "shared" / "data")),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        ["bash", HERE / f"{walk}.sh"],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
    )
    said = done.stderr.strip().splitlines()[-1:]
    if done.returncode == _SKIPPED:
        pytest.skip(said[0].removeprefix("walk: skipped: "))
    assert done.returncode == 0, f"{done.stdout[-1500:]}\n{done.stderr[-1500:]}"
    assert "Traceback" not in done.stderr
