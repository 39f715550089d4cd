"""An input that is missing is said in one line, and every verb exits with the same code."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import click
import pytest
from small_module import SmallModule
from verbs import Verbs

from ofa_tvm.cli.main import cli
from ofa_tvm.cli.options import INPUT_PATH

FAILED = 1

# Each with one file, called absent, that is not there.
CASES = [
    "run absent.so p.png",
    "run absent p.png",
    "run small.so absent.png",
    "run small.so absent.npy",
    "info absent",
    "info absent.onnx",
    "bench absent",
    "bench absent.so",
    "bench small.so --image absent.jpg",
    "compile absent.onnx",
    "measure absent",
    "measure absent.so",
    "measure absent.onnx",
    "measure small.so --onnxruntime --onnx absent.onnx",
    "tune absent.onnx",
    "quantize absent.onnx",
    "quantize small.onnx --data absent",
    "report absent",
    "train --data absent",
    "train --data absent.tar",
    "train --data absent.npz",
    "train --data digits --config absent.yaml",
    "train --data digits --init absent.pt",
    "train --data digits --checkpoint absent.pt --finetune min",
    "train --data digits --checkpoint c.pt --finetune absent.json",
    "evaluate --data digits --checkpoint absent.pt",
    "evaluate --data digits --checkpoint absent.pt --from absent.model --fit m",
    "export absent.json",
    "export absent.pt",
    "export absent/",
    "export min --checkpoint absent.pt",
    "export min --data absent",
    "collect --archs absent",
    "predictor fit --data absent.csv -o m",
    "predictor fit --data absent.csv --targets-dir absent -o m",
    "predictor fit-accuracy --data absent.csv -o m",
    "predictor eval --model absent --data t.csv",
    "predictor eval --model absent --data absent.csv --targets-dir absent",
    "predictor eval-accuracy --model absent --data absent.csv",
    "predictor adapt --data absent.csv -o m",
    "predictor adapt --model absent --data t.csv -o m",
    "predictor adapt --data absent.csv --targets-dir absent -o m",
    "predictor predict --model absent --archs t.csv",
    "predictor predict --target t4 --space ofa_mbv3_w1.0 --archs absent",
    "predictor predict --model absent --archs absent --targets-dir absent",
    "predictor suggest --model absent -o x",
    "predictor suggest --model absent --targets-dir absent -o x",
    "predictor sources --model absent",
    "predictor table --data absent.csv --space ofa_digits -o t",
    "search --latency 1ms --no-verify --accuracy-predictor absent",
    "search --latency 1ms --range --space ofa_digits --latency-table absent",
    "search --latency 1ms --range --space ofa_digits --latency-predictor absent",
    "compile small.onnx --target absent.yaml",
    "measure small.onnx --target absent.yaml",
    "tune --target absent.yaml",
    "collect --target absent.yaml",
    "search --latency 1ms --target absent.yaml",
    "quickstart --target absent.yaml -o q",
    "run small.so p.png --target absent.yaml",
    "bench small.so --target absent.yaml",
    "predictor table --target absent.yaml -o t",
    "targets show absent.yaml",
    "device emulate --target absent.yaml",
    "device bundle --target absent.yaml",
]


@pytest.fixture
def folder(small: SmallModule, tmp_path: Path) -> Path:
    shutil.copy(small.onnx, tmp_path)
    shutil.copy(small.so, tmp_path)
    return tmp_path


@pytest.mark.parametrize("words", CASES)
def test_a_missing_input(words: str, ofa: Verbs, folder: Path) -> None:
    before = sorted(folder.iterdir())
    done = ofa(folder, *shlex.split(words), "--json")
    said = done.error(FAILED)
    assert "absent" in said and len(said) < 300
    assert json.loads(done.out)["error"] == said.removeprefix("error: ")
    assert sorted(folder.iterdir()) == before


def test_no_verb_with_an_input_was_overlooked() -> None:
    asked = {tuple(words) for words in _inputs(cli, click.Context(cli), ())}
    assert len(asked) > 20
    tried = [shlex.split(words) for words in CASES]
    for *verb, name in asked:
        own = [words[len(verb) :] for words in tried if words[: len(verb)] == verb]
        assert own, verb
        if name.startswith("-"):
            assert any(a == name and b.startswith("absent") for words in own for a, b in pairwise(words)), (
                verb,
                name,
            )


def _inputs(verb: click.Command, context: click.Context, names: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Names of verbs, and the option or argument of each that reads a file."""
    if isinstance(verb, click.Group):
        for name in verb.list_commands(context):
            inner = verb.get_command(context, name)
            assert inner is not None
            yield from _inputs(inner, click.Context(inner, parent=context), (*names, name))
        return
    for param in verb.params:
        if param.type is INPUT_PATH:
            yield *names, max(param.opts, key=len)
