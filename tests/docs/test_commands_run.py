"""Documented commands run in a small project, with stand-ins for their data, devices and hours.

What no stand-in serves is listed with the tests that run it, so that a new command is one or the other.
"""

from __future__ import annotations

import re
import shutil
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from demo_project import DemoProject
from documented import PAGES, Command, commands
from PIL import Image
from small_module import SmallModule
from verbs import Verbs

from ofa_tvm.spaces import get_space

# Words of a command -> where it is run.
ELSEWHERE = {
    r"^train |^quickstart|finetune-": "tests/cli/test_train.py, tests/workflow, test_notebook.py",
    r"^device |^runtime |--tracker": "tests/devices, tests/native",
    r"--dtype (int8|auto)|^quantize|\.int8\.onnx|my-phone": "tests/quantization, tests/cli/test_competing.py",
    r"ofa_specialized|luts/": "tests/export, tests/search, on published data",
    r"-accuracy --|raspberry-pi-5|many\.model|-t4|--target t4|cuda-sm75": "tests/cli/test_predictor_verb.py",
    r"^tune (?!model\.onnx|.*--dry-run)": "tests/cli/test_tune_verb.py (they enumerate a space's kernels)",
    r"^collect ": "tests/cli/test_collect_verb.py",
    r"kernel-sum|^predictor table": "tests/cli/test_predictor_verb.py",
    r"^search (?!--pareto)": "tests/cli/test_search_verb.py, test_batch.py",
}
# What a command's words become, one after the other.
STAND_INS = (
    (r"--target (?!x86)\S+", "--target x86"),
    (r"^tune --target x86 --dry-run", "tune --dry-run"),
    (r"--resolution \S+", "--resolution 40"),
    (r"--latency \S+", "--latency 1ms"),
    (r" --(minutes|seconds|trials|repeats) \S+", ""),
    (r" -n \d+", ""),
    (r"\.\./photos/$", "more_photos"),
    (r"images/\*\.png", "images"),
    (r"deploy-pi", "deploy2"),
    (r"^tune((?!.*--dry-run).*)", r"tune\1 --seconds 1 --trials 1"),
    (r"^(measure|bench)(.*)", r"\1\2 --seconds 0.1 --repeats 5"),
    (r"^evaluate(.*)", r"evaluate\1 -n 8 --calibration-images 64"),
)


def here(command: Command) -> str | None:
    """A command with its stand-ins; None if it is run elsewhere."""
    words = " ".join(command.words)
    if any(re.search(pattern, words) for pattern in ELSEWHERE):
        return None
    for pattern, stand_in in STAND_INS:
        words = re.sub(pattern, stand_in, words)
    return words


@pytest.fixture
def project(demo: DemoProject, small: SmallModule, tmp_path: Path) -> Path:
    """A quickstart's folder with the files that the pages name."""
    folder = tmp_path / "demo"
    shutil.copytree(demo.folder, folder)
    (folder / "demo").symlink_to(folder)  # commands that are typed beside it
    for copy, original in {
        "model.onnx": small.onnx,
        "small.onnx": small.onnx,  # the name that small.so knows
        "model.so": small.so,
        "supernet.pt": folder / "training" / "supernet.pt",
    }.items():
        shutil.copy(original, folder / copy)
    for name, end in product(("lat", "test", "other"), (".csv", ".meta.jsonl")):
        shutil.copy(folder / f"latency-x86{end}", folder / f"{name}{end}")
    for name in ("deploy2", "deploy-a", "deploy-b"):
        shutil.copytree(folder / "deploy", folder / name)
    (folder / "more_photos").mkdir()
    for name in ("photo.jpg", "image.png", "more_photos/1.png"):
        Image.new("RGB", (50, 40), "white").save(folder / name)
    np.save(folder / "pixels.npy", np.zeros((2, 20, 30, 3), np.uint8))
    space, rng = get_space("ofa_digits"), np.random.default_rng(0)
    (folder / "arch.json").write_text(space.max_arch(40).to_json())
    lines = [space.sample(rng).replace(r=40).to_json() for _ in range(3)]
    (folder / "archs.jsonl").write_text("\n".join(lines))
    return folder


@pytest.mark.slow
def test_documented_commands_run(ofa: Verbs, project: Path) -> None:
    shown = [each for page in PAGES for each in commands(page.read_text()) if not each.mention]
    typed = dict.fromkeys(words for each in shown if (words := here(each)))
    assert len(typed) > 30
    failed = {}
    for words in typed:
        done = ofa(project, *words.split())
        if done.code != 0:
            failed[words] = done.err[-400:]
    assert not failed
