"""The command line as a user meets it: in a process of its own."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_module import LABELS, SIZE, SmallModule

from ofa_tvm.cli.main import VERBS
from ofa_tvm.deploy import Artefact, Manifest, write_artefact
from ofa_tvm.deploy.manifest import TargetEntry
from ofa_tvm.targets import list_targets

# A Python in which torch cannot be imported, as in an installation without it.
NO_TORCH = "import sys; sys.modules['torch'] = None; from ofa_tvm.cli.main import main; main()"


def ofa(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", NO_TORCH, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        timeout=120,
    )


def plain_error(done: subprocess.CompletedProcess[str], code: int) -> str:
    """The one line on standard error; checks that it is one."""
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    return lines[0]


@pytest.fixture(scope="module")
def deploy(small: SmallModule, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "deploy"
    write_artefact(folder, small.so, small.onnx, Manifest(TargetEntry.of(small.target)))
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for index in range(3):
        pixels = np.random.default_rng(index).integers(0, 256, (20, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    (folder / "notes.txt").write_text("not a picture")
    return folder


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom ofa_tvm.cli.main import invoke\ncode = invoke(['--help'])\n"
        "heavy = {'torch', 'tvm', 'numpy', 'onnx', 'onnxruntime', 'sklearn', 'rich', 'jsonschema', 'yaml'}\n"
        "print(code, sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []"
    assert all(verb in done.stdout for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_a_verbs_help_loads_neither_torch_nor_tvm(verb: str) -> None:
    code = (
        f"import sys\nfrom ofa_tvm.cli.main import invoke\ncode = invoke(['{verb}', '--help'])\n"
        "print(code, sorted({'torch', 'tvm'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []"


@pytest.mark.parametrize("verb", VERBS)
def test_the_short_help_is_the_verbs_own(verb: str) -> None:
    assert importlib.import_module(f"ofa_tvm.cli.{verb}").command.short_help == VERBS[verb]


def test_doctor_has_an_answer_for_every_target_and_folds_equal_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    done = ofa("doctor")
    assert done.returncode == 0, done.stderr
    readiness: dict[str, str] = {}
    formats: dict[str, str] = {}
    for answers, text in zip((readiness, formats), done.stdout.split("\ntarget ")[1:], strict=True):
        for line in text.split("\n\n")[0].splitlines()[1:]:
            names, _, answer = line.partition("  ")
            answers |= dict.fromkeys(names.split(", "), answer)
    assert readiness.keys() == formats.keys() == {target.name for target in list_targets()}
    assert "yes" in readiness["x86"].split()
    assert "int8 (vpmaddwd)" in formats["x86-64-v4"] and "int8 (vpdpbusd)" in formats["znver4"]
    assert readiness["cortex-a53"] == readiness["cortex-a72"], "in one row"


def test_doctor_of_a_device() -> None:
    done = ofa("doctor", "raspberry-pi-4", COLUMNS="60")
    assert done.returncode == 0
    said = done.stderr.strip().splitlines()
    assert len(said) == 1 and said[0].startswith("note: raspberry-pi-4 (") and "is cortex-a72" in said[0]
    steps = [line.split()[0] for line in done.stdout.splitlines() if line]
    assert {"compile", "link", "run"} <= set(steps)
    assert "ofa-tvm compile model.onnx --target raspberry-pi-4" in done.stdout
    (report,) = json.loads(ofa("doctor", "raspberry-pi-4", "--json").stdout)["targets"]
    assert report["name"] == "cortex-a72" and report["compiler"]["ok"]


def test_names_near_an_unknown_one_are_said() -> None:
    said = plain_error(ofa("targets", "show", "raspbery-pi"), 2)
    assert "near are raspberry-pi-" in said and "x86" not in said
    assert "sapphirerapids" in plain_error(ofa("targets", "show", "toaster"), 2), "none is near: all are"
    assert "no target that ships is for its cores" in plain_error(ofa("targets", "show", "gtx1080ti"), 2)


def test_doctor_names_what_to_install(tmp_path: Path) -> None:
    done = ofa("doctor", "--json", PATH=str(tmp_path))
    assert done.returncode == 0
    report = {target["name"]: target for target in json.loads(done.stdout)["targets"]}
    if importlib.util.find_spec("ziglang") is not None:  # links for every target without any program
        assert report["x86"]["ready"] is True and "ziglang" in report["x86"]["linker"]["found"]
    else:
        assert report["x86"]["ready"] is False
        linker = report["x86"]["linker"]
        assert linker["found"] == "no g++" and "apt-get install g++" in linker["install"]
        assert "aarch64" in report["cortex-a72"]["linker"]["install"]
    assert report["cortex-a72"]["compiler"]["ok"] is True
    assert report["cortex-a76"]["dtypes"]["int8"] == "sdot"


@pytest.mark.slow
def test_targets(tmp_path: Path) -> None:
    names = [target["name"] for target in json.loads(ofa("targets", "list", "--json").stdout)["targets"]]
    assert "x86" in names and "cortex-a72" in names
    text = ofa("targets", "show", "cortex-a72").stdout
    assert "mcpu: cortex-a72" in text and "# number formats: float32 (NEON), " in text
    mine = tmp_path / "my-server.yaml"
    assert ofa("targets", "probe", "-o", mine).returncode == 0
    shown = json.loads(ofa("targets", "show", mine, "--json").stdout)
    assert shown["name"] == "my-server" and shown["hardware"]["cores"] >= 1
    assert set(shown["dtypes"]) >= {"float32", "int8"}
    assert "always means the machine at hand" in plain_error(
        ofa("targets", "probe", "-o", tmp_path / "x86.yaml"), 2
    )
    mine.write_text(mine.read_text().replace("kind: x86", "kind: vax"))
    assert "line 2: kind: 'vax' is not one of" in plain_error(ofa("targets", "show", mine), 1)
    assert "unknown target 'cortex-a99'" in plain_error(ofa("targets", "show", "cortex-a99"), 2)


def test_run_prints_class_and_probability(deploy: Path, pictures: Path) -> None:
    done = ofa("run", deploy, pictures / "0.png", "-k", 2)
    assert done.returncode == 0, done.stderr
    first, second = Artefact.open(deploy).classify([pictures / "0.png"], top_k=2)[0]
    expected = (
        f"{first.label} {100 * first.probability:.1f} %  {second.label} {100 * second.probability:.1f} %"
    )
    assert done.stdout == f"{pictures / '0.png'}  {expected}\n"


@pytest.mark.slow
def test_run_takes_folders_and_arrays(deploy: Path, pictures: Path, tmp_path: Path) -> None:
    folder = json.loads(ofa("run", deploy, pictures, "--json").stdout)["predictions"]
    assert [Path(item["image"]).name for item in folder] == ["0.png", "1.png", "2.png"]
    pixels = np.stack([np.asarray(Image.open(pictures / f"{i}.png")) for i in range(3)])
    np.save(tmp_path / "pixels.npy", pixels)
    np.save(
        tmp_path / "input.npy",
        Artefact.open(deploy).classifier.preprocessing.apply(
            [Image.open(pictures / f"{i}.png") for i in range(3)]
        ),
    )
    for name in ("pixels.npy", "input.npy"):
        arrays = json.loads(ofa("run", deploy, tmp_path / name, "--json").stdout)["predictions"]
        assert [item["top"] for item in arrays] == [item["top"] for item in folder]
        assert all(item["top"][0]["label"] in LABELS for item in arrays)


def test_run_takes_a_bare_module(small: SmallModule, deploy: Path, pictures: Path) -> None:
    of_module = json.loads(ofa("run", small.so, pictures, "--json").stdout)["predictions"]
    assert of_module == json.loads(ofa("run", deploy, pictures, "--json").stdout)["predictions"]


@pytest.mark.slow
def test_run_refuses_what_it_cannot_read(deploy: Path, pictures: Path, tmp_path: Path) -> None:
    assert "no such image" in plain_error(ofa("run", deploy, tmp_path / "none.png"), 1)
    assert "not an image" in plain_error(ofa("run", deploy, pictures / "notes.txt"), 1)
    assert "holds no pictures" in plain_error(ofa("run", deploy, tmp_path), 1)
    np.save(tmp_path / "wrong.npy", np.zeros((1, 3, SIZE, SIZE)))
    assert "float64 of shape (1, 3, 16, 16)" in plain_error(ofa("run", deploy, tmp_path / "wrong.npy"), 1)
    np.save(tmp_path / "small.npy", np.zeros((1, 3, 8, 8), np.float32))
    assert "takes examples of shape (3, 16, 16)" in plain_error(ofa("run", deploy, tmp_path / "small.npy"), 2)
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    assert "is not a .npy array of numbers" in plain_error(ofa("run", deploy, tmp_path / "objects.npy"), 1)
    picture = pictures / "0.png"
    assert "no artefact folder" in plain_error(ofa("run", tmp_path / "none", picture), 1)
    assert "holds no manifest.yaml" in plain_error(ofa("run", tmp_path, picture), 1)
    assert "Missing argument" in plain_error(ofa("run", deploy), 2)


@pytest.mark.slow
def test_measure(small: SmallModule, deploy: Path, tmp_path: Path) -> None:
    done = ofa("measure", small.so, "--target", "x86", "--repeats", 5)
    assert done.returncode == 0 and " ms (median of 5 samples" in done.stdout
    report = json.loads(ofa("measure", deploy, "--onnxruntime", "--repeats", 5, "--json").stdout)
    ratio = report["onnxruntime"]["median_ms"] / report["median_ms"]
    assert report["speed_against_onnxruntime"] == pytest.approx(ratio)
    profiled = json.loads(ofa("measure", small.onnx, "--kernels", "--repeats", 5, "--json").stdout)["kernels"]
    assert sum(kernel["share"] for kernel in profiled) == pytest.approx(1)
    assert "ONNX file" in plain_error(ofa("measure", small.so, "--kernels"), 2)
    assert (
        ofa("measure", small.so, "--onnxruntime", "--repeats", 5).returncode == 0
    )  # its ONNX lies beside it
    alone = tmp_path / "alone.so"
    shutil.copy(small.so, alone)
    assert "needs the network" in plain_error(ofa("measure", alone, "--onnxruntime"), 2)
    assert "no compiled module" in plain_error(ofa("measure", "none.so"), 1)


def test_usage_errors_exit_with_2() -> None:
    assert "there is no verb 'bnech'; did you mean bench?" in plain_error(ofa("bnech"), 2)
    assert "No such option" in plain_error(ofa("doctor", "--jso"), 2)
    assert ofa().returncode == 2


def test_a_failure_in_json_mode_is_an_object_too(tmp_path: Path) -> None:
    done = ofa("bench", tmp_path / "none", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["error"].startswith("no artefact folder")


def test_a_closed_pipe_is_not_an_error_message() -> None:
    script = f'{sys.executable} -c "{NO_TORCH}" targets list --json | true'
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert done.stderr == ""


def test_ctrl_c_says_how_to_go_on(deploy: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", NO_TORCH, "bench", str(deploy), "--repeats", "100000", "--seconds", "60"],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # A shell starts its background jobs, such as this suite, with the signal ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    deadline = time.monotonic() + 60
    while not children.read_text().strip() and time.monotonic() < deadline:
        time.sleep(0.05)  # until it measures
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130
    bar, said = filter(None, err.splitlines())  # a terminal's ^C has a line to itself
    assert re.fullmatch(r"warm-up and calls: stopped after \S+ s", bar) and out == ""
    assert said == "error: stopped; run the same command to continue"


def test_a_bug_leaves_one_line_and_a_traceback_file(tmp_path: Path) -> None:
    code = (
        "import ofa_tvm.targets.machine as m\nimport ofa_tvm.targets as t\n"
        "def broken(*a): raise ZeroDivisionError('inside')\n"
        "t.detect_machine = m.detect_machine = broken\n"
        "from ofa_tvm.cli.main import main; import sys; sys.argv = ['ofa-tvm', 'targets', 'list']; main()"
    )
    run = {"capture_output": True, "text": True}
    environment = os.environ | {"OFA_TVM_CACHE": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, **run)  # type: ignore[call-overload]
    line = plain_error(done, 1)
    (saved,) = (tmp_path / "crashes").iterdir()
    assert "ZeroDivisionError: inside" in line and str(saved) in line
    assert "in broken" in saved.read_text()
    environment["OFA_TVM_TRACEBACK"] = "1"
    done = subprocess.run([sys.executable, "-c", code], env=environment, **run)  # type: ignore[call-overload]
    assert "Traceback" in done.stderr
