"""Calling verbs: in a process of their own without torch, or in this one."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import pytest

NO_TORCH = "import sys; sys.modules['torch'] = None; from ofa_tvm.cli.main import main; main()"


@dataclass(frozen=True)
class Done:
    """What a verb left behind."""

    code: int
    out: str
    err: str

    def error(self, code: int) -> str:
        """The one line that says what went wrong (lines about the settings may come before it)."""
        assert self.code == code, self.err
        assert "Traceback" not in self.err
        last = self.err.strip().splitlines()[-1]
        assert last.startswith("error: "), self.err
        return last


def without_torch(folder: Path, *arguments: object) -> Done:
    """A verb in a process where torch cannot be imported, with `folder` as its current one."""
    done = subprocess.run(
        [sys.executable, "-c", NO_TORCH, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])},
        timeout=120,
    )
    return Done(done.returncode, done.stdout, done.stderr)


class Verbs:
    """Calls verbs in this process, from a folder."""

    def __init__(self, capture: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch) -> None:
        self._capture, self._patch = capture, patch

    def __call__(self, folder: Path, *arguments: object) -> Done:
        import torch  # noqa: F401  (before anything could decide to leave it out)

        from ofa_tvm.cli.main import invoke

        self._patch.chdir(folder)
        self._capture.readouterr()
        with patch.dict(os.environ):  # a verb may choose TVM's runtime alone for its whole process
            code = invoke([str(argument) for argument in arguments])
        out, err = self._capture.readouterr()
        return Done(code, out, err)


@pytest.fixture
def ofa(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Verbs:
    return Verbs(capsys, monkeypatch)
