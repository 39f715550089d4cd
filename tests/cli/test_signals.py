"""SIGTERM and SIGHUP end like Ctrl-C: a sentence, no child left, nothing half written, and an exit code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from small_module import write_small_onnx

_TRAIN = ("train", "--data", "digits", "--set", "phases.full.epochs=500", "--set", "checkpoint_every_s=0.05")
_TUNE = ("tune", "small.onnx", "--trials", "400")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "words", "at_work"),
    [
        (signal.SIGTERM, _TRAIN, "training/checkpoints/state-*.pt"),
        (signal.SIGTERM, _TUNE, "tuning_logs/*/tuning.jsonl"),
        (signal.SIGHUP, ("device", "tracker", "--port", "0"), "out"),
    ],
)
def test_a_signal_ends_a_verb_in_order(
    number: signal.Signals, words: tuple[str, ...], at_work: str, tmp_path: Path
) -> None:
    write_small_onnx(tmp_path / "small.onnx")
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    with (tmp_path / "out").open("w") as out, (tmp_path / "err").open("w") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "ofa_tvm", *words, "--json"],
            cwd=tmp_path,
            stdout=out,
            stderr=err,
            env=os.environ | {"TMPDIR": str(scratch)},
        )
        until = time.monotonic() + 120
        while time.monotonic() < until and process.poll() is None:
            if any(path.stat().st_size for path in tmp_path.glob(at_work)):
                break
            time.sleep(0.05)
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        assert process.wait(60) == 128 + number, (tmp_path / "err").read_text()
    said = (tmp_path / "err").read_text()
    assert said.splitlines()[-1] == "error: stopped; run the same command to continue"
    assert "Traceback" not in said
    assert json.loads((tmp_path / "out").read_text().splitlines()[-1])["error"].startswith("stopped")
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive
    assert not list(scratch.glob("ofa-tvm-*"))
    assert not list(tmp_path.rglob(".*.*-*")), "a temporary is left"


def test_a_signal_that_is_ignored_stays_ignored(tmp_path: Path) -> None:
    """As under nohup."""
    code = (
        "import os, signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "from ofa_tvm.process import ending_signals\n"
        "with ending_signals() as came: os.kill(os.getpid(), signal.SIGHUP); print(came)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
