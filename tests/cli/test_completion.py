"""Shell completion: what it offers, and that a key press waits for no library."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import BashComplete, CompletionItem

from ofa_tvm.cli.main import VERBS, cli

COMMAND = Path(sys.executable).parent / "ofa-tvm"


def complete(*words: str) -> list[CompletionItem]:
    """What Tab gives behind the last of the words."""
    return BashComplete(cli, {}, "ofa-tvm", "_OFA_TVM_COMPLETE").get_completions([*words[:-1]], words[-1])


def values(*words: str) -> set[str]:
    return {item.value for item in complete(*words)}


def test_verbs_options_choices_names_and_files() -> None:
    assert [item.value for item in complete("")] == list(VERBS)
    assert complete("doc")[0].help and "," not in str(complete("sea")[0].help)
    assert values("predictor", "fit-") == {"fit-accuracy"}
    assert {"--latency", "--latency-table"} <= values("search", "--lat")
    assert {"float32", "bfloat16"} <= values("compile", "--dtype", "")
    assert values("tune", "--target", "cortex-a7") == values("search", "-t", "cortex-a7")
    assert {"cortex-a72", "cortex-a76"} <= values("tune", "--target", "cortex-a7")
    assert values("doctor", "rasp") == {f"raspberry-pi-{number}" for number in (3, 4, 5)}
    assert "ofa_mbv3_w1.0" in values("tune", "--space", "ofa_m")
    for words in (("compile", "mod"), ("run", "deploy", "im"), ("tune", "--target", "./my")):
        assert [(item.value, item.type) for item in complete(*words)] == [(words[-1], "file")]


def test_no_library_is_loaded() -> None:
    """Neither TVM nor torch for any verb, and for the verbs' names not even one of their modules."""
    code = (
        "import sys\n"
        "from click.shell_completion import BashComplete\n"
        "from ofa_tvm.cli.main import VERBS, cli\n"
        "tab = BashComplete(cli, {}, 'ofa-tvm', '_OFA_TVM_COMPLETE').get_completions\n"
        "assert tab([], 't') and 'numpy' not in sys.modules and 'ofa_tvm.cli.tune' not in sys.modules\n"
        "for verb in VERBS:\n"
        "    assert tab([verb], '-') or tab([verb], ''), verb\n"
        "tab(['tune', '--target'], ''), tab(['tune', '--space'], '')\n"
        "slow = {'torch', 'tvm', 'tvm_ffi', 'onnx', 'onnxruntime', 'scipy', 'sklearn', 'matplotlib'}\n"
        "assert not slow & set(sys.modules), slow & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("shell, hint", [("bash", "complete "), ("zsh", "compdef "), ("fish", "complete ")])
def test_the_scripts_that_shells_read(shell: str, hint: str) -> None:
    environment = os.environ | {"_OFA_TVM_COMPLETE": f"{shell}_source"}
    done = subprocess.run([COMMAND], env=environment, capture_output=True, text=True, check=True)
    assert hint in done.stdout and "ofa-tvm" in done.stdout


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
def test_fish_takes_it(tmp_path: Path) -> None:
    script = "_OFA_TVM_COMPLETE=fish_source ofa-tvm | source; complete -C 'ofa-tvm sea'"
    environment = os.environ | {"PATH": f"{COMMAND.parent}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    done = subprocess.run(
        ["fish", "-c", script], env=environment, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.stdout.startswith("search\tFind; verify and ship")


def test_bash_takes_it(tmp_path: Path) -> None:
    script = (
        'eval "$(_OFA_TVM_COMPLETE=bash_source ofa-tvm)"\n'
        "COMP_WORDS=(ofa-tvm search --latency-p) COMP_CWORD=2\n"
        '_ofa_tvm_completion ofa-tvm; echo "${COMPREPLY[@]}"\n'
    )
    environment = os.environ | {"PATH": f"{COMMAND.parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", script], env=environment, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.stdout.split() == ["--latency-predictor"]
