"""The package as others get it: a wheel, installed away from the checkout."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder into which a freshly built wheel was installed, without its dependencies."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    target = folder / "site"
    subprocess.run([*pip, "install", "--no-deps", "--target", str(target), str(wheel)], check=True)
    return target


def _run(installed: Path, code: str, cwd: Path) -> str:
    # -I would drop PYTHONPATH; cwd keeps the checkout off the path.
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        env={"PYTHONPATH": str(installed), "PATH": "/usr/bin:/bin", "HOME": str(cwd)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_wheel_carries_targets_and_tuning_logs(installed: Path, tmp_path: Path) -> None:
    shipped = {path.stem for path in (ROOT / "targets").glob("*.yaml")}
    code = (
        "import ofa_tvm, json; from ofa_tvm.files import data_dir;"
        "assert data_dir('tuning_logs').is_dir();"
        "print(json.dumps([ofa_tvm.__file__, [t.name for t in ofa_tvm.list_targets()]]))"
    )
    import json

    file, names = json.loads(_run(installed, code, tmp_path))
    assert Path(file).is_relative_to(installed)
    assert shipped <= set(names)


def test_wheel_carries_all_modules(installed: Path) -> None:
    source = {path.relative_to(ROOT) for path in (ROOT / "ofa_tvm").rglob("*.py")}
    assert source <= {path.relative_to(installed) for path in installed.rglob("*.py")}
    assert (installed / "ofa_tvm" / "py.typed").is_file()


def test_console_script_helps(installed: Path, tmp_path: Path) -> None:
    out = _run(installed, "from ofa_tvm.cli.main import invoke; invoke(['--help'])", tmp_path)
    assert "quickstart" in out
