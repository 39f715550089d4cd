"""ofa-tvm info: what every file that the verbs make or take is said to be, and what comes next."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import pytest
import torch
from demo_project import DemoProject
from PIL import Image
from small_module import LABELS, SIZE, SmallModule, write_small_onnx
from verbs import Verbs

from ofa_tvm.cli.main import cli
from ofa_tvm.deploy import Manifest, write_artefact
from ofa_tvm.deploy.manifest import TargetEntry
from ofa_tvm.errors import UserError
from ofa_tvm.files import data_dir
from ofa_tvm.runtime import append_checksum, load_module
from ofa_tvm.runtime.stored import stored_metadata
from ofa_tvm.spaces import get_space
from ofa_tvm.supernet import build_supernet
from ofa_tvm.workflow.info import Description, describe


def facts(found: Description) -> dict[str, Any]:
    """Values by the name of the fact."""
    return dict(found.to_json()["facts"])


def check(found: Description) -> Description:
    """What holds of every description: it is plain data, and its commands exist with all their options."""
    json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert found.summary and found.kind
    for step in found.steps:
        words = shlex.split(step.command.rpartition("&& ")[2])
        if words[0] != "ofa-tvm":
            assert words[0] in ("scp", "cp", "python"), step.command
            continue
        command: click.Command = cli
        context = click.Context(cli)
        words = words[1:]
        while isinstance(command, click.Group):
            inner = command.get_command(context, words[0])
            assert inner is not None, step.command
            command, words = inner, words[1:]
        known = {flag for param in command.get_params(context) for flag in param.opts}
        assert {word for word in words if word.startswith("-")} <= known, step.command
    return found


@pytest.fixture
def deploy(small: SmallModule, tmp_path: Path) -> Path:
    manifest = Manifest(TargetEntry.of(small.target))
    return write_artefact(tmp_path / "deploy", small.so, small.onnx, manifest).folder


# ---- artefacts, modules, networks ----


def test_an_artefact(ofa: Verbs, deploy: Path) -> None:
    found = check(describe(deploy))
    assert found.kind == "artefact" and found.usable and not found.damaged
    known = facts(found)
    assert known["target"]["name"] == "x86" and known["threads"] == 1 and known["dtype"] == "float32"
    assert known["classes"] == len(LABELS)
    assert known["inputs"] == [{"name": "input", "shape": [1, 3, SIZE, SIZE], "dtype": "float32"}]
    assert known["made"]["versions"]["apache-tvm"]
    done = ofa(deploy.parent, "info", "deploy")
    assert done.code == 0 and "usable here: yes" in done.out
    assert "  ofa-tvm run deploy PICTURES\n" in done.out and "  ofa-tvm bench deploy\n" in done.out


def test_a_damaged_artefact(ofa: Verbs, deploy: Path) -> None:
    with (deploy / "model.so").open("r+b") as file:
        file.seek(1000)
        file.write(b"damage")
    done = ofa(deploy.parent, "info", "deploy", "--json")
    said = json.loads(done.out)
    assert done.code == 1 and said["damaged"] and not said["usable"] and not said["next"]
    assert "model.so is damaged" in said["problems"][0] and said["facts"]["target"]["name"] == "x86"
    (deploy / "model.onnx").unlink()
    (deploy / "model.so").unlink()
    assert "missing from the artefact" in describe(deploy).problems[0]
    (deploy / "manifest.yaml").write_text("format: 1\ntarget: x86\n")
    assert "manifest.yaml, line 2: target" in ofa(deploy.parent, "info", "deploy").error(1)


def test_an_artefact_for_another_cpu_and_of_other_versions(
    ofa: Verbs, small: SmallModule, tmp_path: Path
) -> None:
    target = TargetEntry("far", "x86", {"kind": "llvm", "mcpu": "graniterapids"}, 1)
    manifest = tmp_path / "deploy" / "manifest.yaml"
    write_artefact(manifest.parent, small.so, small.onnx, Manifest(target))
    manifest.write_text(re.sub("apache-tvm: .*", "apache-tvm: 0.19.0", manifest.read_text()))
    found = check(describe(manifest.parent))
    if not found.usable:  # else the tests run on such a CPU
        assert "is compiled for graniterapids" in found.problems[0] and not found.damaged
        commands = [step.command for step in found.steps]
        assert commands[0].startswith("scp -r ") and "model.onnx -o HERE.so" in commands[1]
    assert any("made with apache-tvm 0.19.0, here is" in note for note in found.notes)
    assert ofa(tmp_path, "info", "deploy").code == 0
    assert describe(manifest) == found


def test_a_module_says_the_same_without_being_loaded(small: SmallModule, tmp_path: Path) -> None:
    assert stored_metadata(small.so) == load_module(small.so).metadata
    found = check(describe(small.so))
    known = facts(found)
    assert found.kind == "module" and found.usable
    assert known["compiled_from"]["name"] == "small.onnx" and known["classes"] == len(LABELS)
    assert any(step.command.startswith("ofa-tvm run ") for step in found.steps)
    code = bytearray(small.so.read_bytes()[:-40])  # without mark and checksum
    code[18:20] = (243).to_bytes(2, "little")  # the machine in the ELF header: RISC-V
    other = tmp_path / "riscv.so"
    other.write_bytes(code)
    append_checksum(other)
    found = check(describe(other))
    assert "code for riscv64" in found.problems[0]
    other.write_bytes(small.so.read_bytes()[:-50])
    with pytest.raises(UserError, match="damaged"):
        describe(other)


def test_an_onnx_file(ofa: Verbs, tmp_path: Path) -> None:
    path = write_small_onnx(tmp_path / "my net.onnx")
    found = check(describe(path))
    known = facts(found)
    assert found.kind == "onnx" and known["classes"] == len(LABELS)
    assert known["operators"]["Conv"] == 1 and known["weights"] == 8 * 27 + 8 + 32
    assert found.steps[0].command == f"ofa-tvm compile '{path}' -o '{path.with_suffix('.so')}'"
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N"
    onnx.save(model, path)
    found = check(describe(path))
    assert facts(found)["inputs"][0]["shape"] == [None, 3, SIZE, SIZE]
    assert f"--shape input=SIZEx3x{SIZE}x{SIZE}" in found.steps[0].command
    path.write_bytes(path.read_bytes()[:200])
    assert "is not a valid ONNX model" in ofa(tmp_path, "info", path.name).error(1)


# ---- checkpoints ----


def test_supernets_own_and_official(tmp_path: Path) -> None:
    net = build_supernet("ofa_digits", 7)
    net.save_checkpoint(tmp_path / "supernet.pt")
    found = check(describe(tmp_path / "supernet.pt"))
    known = facts(found)
    assert (found.kind, known["space"], known["classes"], known["dtype"]) == (
        "supernet",
        "ofa_digits",
        7,
        "float32",
    )
    assert known["made"]["sealed"] and all("--space ofa_digits" in step.command for step in found.steps)
    older = {
        re.sub(r"^(blocks\.\d+)\.conv\.", r"\1.mobile_inverted_conv.", name): tensor
        for name, tensor in net.state_dict().items()
    }
    torch.save({"state_dict": older}, tmp_path / "official.pth")
    found = check(describe(tmp_path / "official.pth"))
    known = facts(found)
    assert (known["space"], known["classes"], known["made"]["sealed"]) == ("ofa_digits", 7, False)
    older.popitem()
    torch.save(older, tmp_path / "other.pth")
    found = check(describe(tmp_path / "other.pth"))
    assert found.kind == "weights" and not found.usable


def test_a_subnet(tmp_path: Path) -> None:
    space = get_space("ofa_digits")
    arch = space.min_arch(32)
    build_supernet(space, 7).extract(arch).save_checkpoint(tmp_path / "subnet.pt")
    found = check(describe(tmp_path / "subnet.pt"))
    known = facts(found)
    assert (found.kind, known["space"], known["arch"]) == ("subnet", "ofa_digits", arch.to_dict())


def test_what_is_no_checkpoint_is_never_unpickled(ofa: Verbs, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "owned"),)

    torch.save({"state_dict": Evil()}, tmp_path / "evil.pt")
    assert "loaded safely" in ofa(tmp_path, "info", "evil.pt").error(1)
    assert not (tmp_path / "owned").exists()
    build_supernet("ofa_digits", 7).save_checkpoint(tmp_path / "cut.pt")
    content = bytearray((tmp_path / "cut.pt").read_bytes())
    content[5000] ^= 1
    (tmp_path / "cut.pt").write_bytes(content)
    assert "do not match its checksum" in ofa(tmp_path, "info", "cut.pt").error(1)


def test_published_predictors_tables_and_networks(shared_data: Path) -> None:
    found = check(describe(shared_data / "accuracy" / "acc_predictor.pth"))
    assert found.kind == "accuracy predictor" and "ofa_mbv3_w1.0" in facts(found)["space"]
    found = check(describe(shared_data / "luts" / "note10"))
    assert (found.kind, facts(found)["space"]) == ("lookup table", "ofa_mbv3_w1.2")
    found = check(describe(shared_data / "latency" / "ofa_mbv3_gpus.csv.gz"))
    assert len(facts(found)["columns"]) == 9 and "--target-column" in found.steps[0].command
    network = next((shared_data / "ofa_specialized").glob("note10_lat-11ms*"))
    found = check(describe(network))
    assert (found.kind, facts(found)["resolution"]) == ("net.config", 176)
    assert describe(network / "net.config").facts == found.facts


def test_a_table_may_begin_with_blank_lines(tmp_path: Path) -> None:
    arch = get_space("ofa_digits").max_arch(32).to_json().replace('"', '""')
    table = tmp_path / "t.csv"
    table.write_text(f'\ufeff\n  \n\narch,x86_ms\n\n"{arch}",0.5\n\n')
    assert facts(describe(table))["rows"] == 1


# ---- a project and what is in it ----


@pytest.fixture(scope="module")
def project(demo: DemoProject, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(demo.folder, tmp_path_factory.mktemp("info") / "my demo"))


def test_a_project_lists_what_is_in_it(ofa: Verbs, project: Path, tmp_path: Path) -> None:
    found = check(describe(project))
    known = facts(found)
    assert (found.kind, known["space"], known["resolutions"]) == ("project", "ofa_digits", [32, 40])
    listed = {each.path.name: each.what for each in found.contents}
    assert listed["deploy"] == "an artefact" and listed["training"] == "a training"
    assert listed["tuning_logs"] == "tuning logs" and listed["latency-x86.csv"].endswith("x86_ms")
    assert any(
        re.fullmatch(rf"cd '{project}' && ofa-tvm search --latency [0-9.]+ms -o NEW", step.command)
        for step in found.steps
    )
    assert describe(project / "ofa-tvm.yaml") == found == describe(project / "stages.json")
    done = ofa(project, "info", ".")
    assert "\n  ofa-tvm evaluate min median max\n" in done.out  # no cd where one is there already
    (project / "report").mkdir(exist_ok=True)
    (project / "report" / "report.html").write_text("<!doctype html>")
    assert describe(project / "report").kind == "report"
    shutil.copy(project / "ofa-tvm.yaml", tmp_path)
    found = describe(tmp_path)
    assert not found.usable and "checkpoint" in found.problems[0]
    assert "ofa-tvm train --space ofa_digits" in found.steps[0].command


def test_how_much_of_the_space_a_log_knows(
    ofa: Verbs, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `tune --dry-run` counts it, without enumerating anything."""
    (log,) = (project / "tuning_logs").iterdir()
    plan = json.loads(ofa(project, "tune", "--target", "x86", "--dry-run", "--json").out)
    covered = facts(check(describe(log)))["covers"]
    assert covered == facts(describe(project))[f"tuned_{log.name}"]
    assert (covered["with_records"], covered["kernels"]) == (plan["logged"], plan["kernels"])
    assert 0 < covered["with_records"] <= facts(describe(log))["kernels"] and covered["resolutions"] == [
        32,
        40,
    ]
    monkeypatch.setenv("OFA_TVM_CACHE", str(tmp_path))
    unknown = describe(project)
    assert facts(unknown)[f"tuned_{log.name}"]["kernels"] is None
    assert "not enumerated yet" in ofa(project, "info", ".").out and not any(tmp_path.iterdir())


def test_everything_in_a_project(project: Path) -> None:
    kinds = {
        "deploy": "artefact",
        "deploy/model.so": "module",
        "deploy/model.onnx": "onnx",
        "training": "training",
        "training/checkpoints": "training",
        "training/supernet.pt": "supernet",
        "training/metrics.jsonl": "training metrics",
        "accuracy.jsonl": "evaluations",
        "accuracy.model": "accuracy predictor",
        "latency-x86.csv": "latency table",
        "latency-x86.meta.jsonl": "latency table",
        "latency-x86.model": "latency predictor",
        "budget-x86.json": "budget",
        "quickstart.json": "quickstart result",
        "comparison-x86.json": "comparison",
        "tuning_logs": "tuning log folder",
        "images": "pictures",
    }
    found = {name: check(describe(project / name)) for name in kinds}
    assert {name: each.kind for name, each in found.items()} == kinds
    assert all(each.usable for each in found.values())
    deploy = facts(found["deploy"])
    assert deploy["arch"]["r"] in (32, 40) and deploy["latency"]["measured"] > 0
    assert deploy["kernels"]["tuned_fraction"] is not None and deploy["accuracy"]["measured"] is not None
    assert facts(found["deploy/model.so"])["arch"] == deploy["arch"]
    table, model = facts(found["latency-x86.csv"]), facts(found["latency-x86.model"])
    assert table["rows"] == model["samples"] == 6 and table["columns"][0]["target"] == "x86"
    assert table["threads"] == [1] and table["made"]["versions"]
    assert facts(found["accuracy.model"])["samples"] >= 4
    assert "training/supernet.pt" not in found["accuracy.jsonl"].steps[0].command  # the project knows it
    supernet = facts(found["training/supernet.pt"])
    assert supernet["trained"]["epochs"] == 1 and supernet["classes"] == 10


def test_a_training_that_is_not_finished(project: Path, tmp_path: Path) -> None:
    from ofa_tvm.supernet.checkpoint import read_tensors, write_checkpoint

    state = max((project / "training" / "checkpoints").glob("*.pt"))  # a slow machine leaves two
    assert facts(check(describe(state)))["phase"]["name"] is None  # of the finished training
    copy = tmp_path / "out" / "training" / "checkpoints" / "state-00-000000009.pt"
    write_checkpoint({**read_tensors(state), "phase": 0, "step": 9, "results": []}, copy)
    shutil.copy(project / "training" / "metrics.jsonl", copy.parent.parent)
    found = check(describe(copy))
    known = facts(found)
    assert found.kind == "training state" and known["phase"] == {"index": 0, "name": "full", "of": 1}
    assert 0 < known["epoch"]["epoch"] < 1 == known["epoch"]["of"] and known["classes"] == 10
    folder = copy.parent.parent
    assert f"train --space ofa_digits --data IMAGES -o {folder.parent}" in found.steps[0].command
    found = check(describe(folder))
    assert facts(found)["state"] is False and f"ofa-tvm train -o {folder.parent}" in found.steps[0].command
    (folder.parent / "stages.json").write_text('{"train the supernet": 3.0}')
    found = check(describe(folder.parent))
    assert found.kind == "quickstart" and found.steps[0].command == f"ofa-tvm quickstart -o {folder.parent}"


def test_a_command_that_is_pasted_runs(project: Path) -> None:
    (step,) = (s for s in describe(project / "deploy").steps if s.what == "classify pictures")
    scripts = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        step.command,
        shell=True,
        capture_output=True,
        text=True,
        env=os.environ | {"PATH": scripts},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(list((project / "images").glob("*.png")))


def test_lines_fit_the_terminal(ofa: Verbs, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, columns in ((".", 80), ("deploy", 80), ("accuracy.model", 60), ("latency-x86.csv", 60)):
        monkeypatch.setenv("COLUMNS", str(columns))
        lines = ofa(project, "info", name).out.splitlines()
        assert max(map(len, lines)) <= columns, name
    monkeypatch.setenv("COLUMNS", "80")
    text = ofa(project, "info", "accuracy.model").out.replace("\\\n      ", "")
    assert "ofa-tvm search --space ofa_digits --latency BUDGET --no-verify --accuracy-predictor" in text


# ---- logs ----


def test_a_log_that_ships_and_one_that_is_damaged(ofa: Verbs, project: Path, tmp_path: Path) -> None:
    found = check(describe(data_dir("tuning_logs") / "x86-64-v3"))
    known = facts(found)
    assert (found.kind, known["target"]["name"], known["kernels"]) == ("tuning logs", "x86-64-v3", 947)
    assert known["records"] == {"measured": known["records"]["measured"], "failed": 0}
    packed = next(iter(found.contents)).path
    assert facts(check(describe(packed)))["kernels"] == known["kernels"]
    log = next((project / "tuning_logs").glob("*/tuning.jsonl"))
    header, *records = log.read_text().splitlines()
    whole = facts(describe(log))
    edited = [records[0].replace("times_us", "times_uS"), *records[1:]]
    (tmp_path / "tuning.jsonl").write_text("\n".join([header, *edited, ""]))
    found = check(describe(tmp_path / "tuning.jsonl"))
    assert any("line 2 is left out" in note for note in found.notes)
    assert facts(found)["records"]["measured"] <= whole["records"]["measured"]
    (tmp_path / "tuning.jsonl").write_text(header + "\n" + edited[0] + "\n")
    done = ofa(tmp_path, "info", "tuning.jsonl")
    assert done.code == 1 and "damaged: it holds no schedule that was measured" in done.out
    (tmp_path / "tuning.jsonl").write_text(header.replace('"version": 2', '"version": 9') + "\n")
    assert "it has version 9" in ofa(tmp_path, "info", "tuning.jsonl").error(1)


# ---- texts and others ----


def test_texts_that_are_known(tmp_path: Path) -> None:
    found = check(describe(data_dir("targets") / "cortex-a72.yaml"))
    assert (found.kind, facts(found)["code_for"]["mcpu"]) == ("target", "cortex-a72")
    assert check(describe(data_dir("targets") / "devices" / "note10.yaml")).kind == "device"
    (tmp_path / "training.yaml").write_text("batch_size: 64\nphases: [{name: full, epochs: 3}]\n")
    found = check(describe(tmp_path / "training.yaml"))
    assert found.kind == "training settings" and facts(found)["phases"][0]["epochs"] == 3
    space = get_space("ofa_digits")
    archs = [space.min_arch(32), space.max_arch(48)]
    (tmp_path / "one.json").write_text(archs[0].to_json())
    (tmp_path / "archs.jsonl").write_text("".join(f"{arch.to_json()}\n" for arch in archs))
    one, several = check(describe(tmp_path / "one.json")), check(describe(tmp_path / "archs.jsonl"))
    assert facts(one)["space"] == facts(several)["space"] == "ofa_digits"
    assert facts(one)["macs"] == space.macs(archs[0], space.usual_classes) and facts(several)["subnets"] == 2
    rows = "".join(
        f'"{arch.to_json().replace(chr(34), chr(34) * 2)}",{50 + i}\n' for i, arch in enumerate(archs)
    )
    (tmp_path / "acc.csv").write_text(f"arch,top1\n{rows}")
    found = check(describe(tmp_path / "acc.csv"))
    assert (found.kind, facts(found)["rows"], facts(found)["space"]) == ("accuracy table", 2, "ofa_digits")
    (tmp_path / "lat.csv").write_text(f"arch,x86_ms\n{rows}".replace(",50", ",-5"))
    with pytest.raises(UserError, match="row 2"):
        describe(tmp_path / "lat.csv")


def test_pictures_and_archives_of_them(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "set" / name).mkdir(parents=True)
        Image.new("RGB", (9, 8)).save(tmp_path / "set" / name / "1.png")
    found = check(describe(tmp_path / "set" / "cat" / "1.png"))
    assert (found.kind, facts(found)["pixels"]) == ("picture", [9, 8])
    found = check(describe(tmp_path / "set"))
    assert facts(found) == {"pictures": 2, "folders": ["cat", "dog"]}
    assert f"train --data {tmp_path / 'set'}" in found.steps[0].command
    with tarfile.open(tmp_path / "set.tar", "w") as archive:
        archive.add(tmp_path / "set", "set")
    assert facts(check(describe(tmp_path / "set.tar")))["folders"] == ["cat", "dog"]
    np.save(tmp_path / "x.npy", np.zeros((1, 3, 4, 4), np.float32))
    assert facts(check(describe(tmp_path / "x.npy")))["array"]["shape"] == [1, 3, 4, 4]


def test_what_is_refused_says_what_it_seems_to_be(ofa: Verbs, tmp_path: Path) -> None:
    sqlite3.connect(tmp_path / "log.db").execute("create table t (a)").connection.commit()
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("a.txt", "a")
    with tarfile.open(tmp_path / "all.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "all.zip")
    texts = {
        "empty.pt": "",
        "docker.yaml": "services: {web: {image: x}}\n",
        "broken.yaml": "a: [1\n",
        "table.csv": "name,score\na,1\n",
        "page.html": "<!DOCTYPE html><p>x",
        "letter.txt": "Dear all",
        "other.json": '{"a": 1}',
        "cut.json": '{"a": ',
        "lines.jsonl": '{"a": 1}\n',
        "program.py": "print()\n",
        "fake.model": "PK\x03\x04 no zip",
        "photo.png": "no picture",
        "net.onnx": "no network",
        "plain.so": "no library",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "noise.bin").write_bytes(bytes([200, 1, 0, 255]) * 50)
    (tmp_path / "packed.jsonl.xz").write_bytes(b"\xfd7zXZ\0cut")
    (tmp_path / "nothing").mkdir()
    says = {
        "log.db": "is an SQLite database; ofa-tvm keeps tuning logs as text",
        "all.zip": "is a zip archive of 1 file (a.txt); unpack it first",
        "all.tar.gz": "is a packed tar archive; unpack it first",
        "empty.pt": "is an empty file; info takes an artefact folder",
        "docker.yaml": "is a YAML file with the keys services; of YAML files info knows target descriptors",
        "broken.yaml": "is not valid YAML: line ",
        "table.csv": "its heading is 'name,score'",
        "page.html": "is a web page; open it in a browser",
        "letter.txt": "is a text file of a kind that ofa-tvm does not know; info takes",
        "other.json": "is a JSON file with the keys a; of JSON files info knows architectures",
        "cut.json": "begins as JSON and is none",
        "lines.jsonl": "holds JSON lines with the keys a; info takes",
        "program.py": "is a Python program; info takes",
        "fake.model": "is not a model file of ofa-tvm, or it is damaged",
        "photo.png": "photo.png is not an image that can be read",
        "net.onnx": "is not a valid ONNX model",
        "plain.so": "is a text file of a kind that ofa-tvm does not know",
        "noise.bin": "is a binary file of a kind that ofa-tvm does not know; info takes",
        "packed.jsonl.xz": "is a packed file that is damaged",
        "nothing": "is an empty folder; info takes",
        "missing": "there is no file or folder missing",
    }
    for name, sentence in says.items():
        assert sentence in ofa(tmp_path, "info", name).error(1), name
    done = ofa(tmp_path, "info", "log.db", "--json")
    assert done.code == 1 and "SQLite" in json.loads(done.out)["error"]


def test_neither_torch_nor_tvm_is_loaded(project: Path) -> None:
    names = (
        "",
        "deploy",
        "deploy/model.so",
        "deploy/model.onnx",
        "training",
        "tuning_logs",
        "accuracy.model",
    )
    code = (
        "import sys\nfrom pathlib import Path\nfrom ofa_tvm.workflow.info import describe\n"
        f"for name in {names!r}: describe(Path({str(project)!r}) / name)\n"
        "print(sorted({'torch', 'tvm'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
