"""What can go wrong on the way to a shared library, and the cache of object files."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import onnx
import pytest
import tvm
import tvm_ffi
from onnx_models import Graph, random_inputs, reference
from tvm import relax

import ofa_tvm
from ofa_tvm.compiler.build import kernels_of, lower_onnx
from ofa_tvm.compiler.objects import NotCached
from ofa_tvm.compiler.templates import templates_of
from ofa_tvm.compiler.traces import trace_json
from ofa_tvm.errors import UserError
from ofa_tvm.logs import KernelTable, Record
from ofa_tvm.targets import Link, Target, get_target


@pytest.fixture(scope="module")
def target() -> Target:
    return get_target("x86")


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OFA_TVM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def small(width: int = 8) -> onnx.ModelProto:
    g = Graph()
    x = g.op("Relu", g.conv(g.input("x", 1, 3, 8, 8), 3, width))
    return g.model(g.op("Flatten", g.op("GlobalAveragePool", x)))


def assert_right(path: Path, model: onnx.ModelProto) -> None:
    arrays = random_inputs(model)
    np.testing.assert_allclose(ofa_tvm.load(path)(*arrays), reference(model, arrays)[0], atol=1e-5)


def test_missing_linker(target: Target, tmp_path: Path) -> None:
    without = replace(target, link=Link(("no-such-compiler",), "apt-get install something"))
    with pytest.raises(
        UserError, match="no linker: no-such-compiler is not installed; apt-get install something"
    ):
        ofa_tvm.compile(small(), without, tmp_path / "m.so")
    assert not list(tmp_path.iterdir())


def test_linker_that_fails(target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    broken = tools / "broken-linker"
    broken.write_text("#!/bin/sh\necho cannot find ld >&2\nexit 1\n")
    broken.chmod(broken.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "m.so").write_bytes(b"the old one")
    with pytest.raises(UserError, match=r"linking m\.so with .*broken-linker failed: cannot find ld"):
        ofa_tvm.compile(small(), replace(target, link=Link(("broken-linker",), "")), tmp_path / "m.so")
    assert (tmp_path / "m.so").read_bytes() == b"the old one"
    assert {path.name for path in tmp_path.iterdir()} == {"tools", "m.so"}


def test_output_that_cannot_be_written(target: Target, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.so").mkdir()
    for path in (tmp_path / "file" / "m.so", tmp_path / "folder.so"):
        with pytest.raises(UserError, match=f"cannot write {path}"):
            ofa_tvm.compile(small(), target, path)
    assert not list((tmp_path / "folder.so").iterdir())


def test_cache_that_cannot_be_written(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("OFA_TVM_CACHE", str(tmp_path / "file"))
    model = small()
    with pytest.warns(NotCached, match="going on without the cache of kernels"):
        ofa_tvm.compile(model, target, tmp_path / "m.so")
    assert_right(tmp_path / "m.so", model)


def test_output_folder_is_made(target: Target, tmp_path: Path) -> None:
    ofa_tvm.compile(small(), target, tmp_path / "new" / "folder" / "m.so")
    assert [path.name for path in (tmp_path / "new" / "folder").iterdir()] == ["m.so"]


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "text", "a folder"])
def test_damaged_objects_are_generated_anew(
    damage: str, target: Target, tmp_path: Path, empty_cache: Path
) -> None:
    model = small()
    ofa_tvm.compile(model, target, tmp_path / "first.so")
    objects = list(empty_cache.rglob("*.o"))
    assert len(objects) == 3
    whole = {path: path.read_bytes() for path in objects}
    for path, content in whole.items():
        match damage:
            case "truncated":
                path.write_bytes(content[: len(content) // 2])
            case "flipped":
                middle = len(content) // 2
                path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
            case "empty":
                path.write_bytes(b"")
            case "text":
                path.write_text("no object")
            case "a folder":
                path.unlink()
                path.mkdir()
    if damage == "a folder":
        with pytest.warns(NotCached, match="going on without the cache of kernels"):
            ofa_tvm.compile(model, target, tmp_path / "second.so")
        assert_right(tmp_path / "second.so", model)
        return
    ofa_tvm.compile(model, target, tmp_path / "second.so")
    assert_right(tmp_path / "second.so", model)
    assert {path.stat().st_size for path in objects} == {len(content) for content in whole.values()}


def test_what_is_kept_of_choices_follows_records_and_survives_damage(
    target: Target, tmp_path: Path, empty_cache: Path
) -> None:
    model, tvm_target = small(24), target.tvm_target()
    kernel = next(k for k in kernels_of(lower_onnx(model, target)).values() if k.signature.has_product)
    schedules = islice(templates_of(tvm_target).ranked(kernel.mod), 4)
    records = [
        Record(kernel.key, kernel.signature, trace_json(sch), (float(1 + number),))
        for number, sch in enumerate(schedules)
    ]
    unfit = replace(records[0], trace=[[["GetSBlock", [], ["nowhere", "main"], ["b0"]]], []], times_us=(0.5,))

    def compiled(*known: Record) -> tuple[str, float | None, frozenset[str]]:
        table = KernelTable()
        list(map(table.add, known))
        before = {file.name for file in empty_cache.rglob("*.o")}
        module = ofa_tvm.compile(model, target, tmp_path / "m.so", records=table)
        assert_right(tmp_path / "m.so", model)
        use = next(use for use in module.kernels if use.signature == kernel.signature)
        return use.origin, use.cost, frozenset({file.name for file in empty_cache.rglob("*.o")} - before)

    assert len(records) == 4
    origin, cost, made = compiled()
    assert origin == "default" and cost is None and len(made) == 3
    ways = {"none": (), "last": records[3:], "all": records, "first does not fit": (unfit, *records[1:])}
    first = {name: compiled(*known)[:2] for name, known in ways.items()}
    assert first == {
        "none": ("default", None), "last": ("tuned", 0.004), "all": ("tuned", 0.001),
        "first does not fit": ("tuned", 0.002),
    }  # fmt: skip
    kept = [file for file in empty_cache.rglob("*") if file.is_file() and file.suffix != ".o"]
    assert len(kept) == 5, "three by default, two by records"
    for damage in (None, b"", b"no choice"):
        for file in kept if damage is not None else ():
            file.write_bytes(damage)
        assert {name: compiled(*known) for name, known in ways.items()} == {
            name: (*known, frozenset()) for name, known in first.items()
        }


def test_networks_refuse_what_kernels_cannot_take(target: Target, tmp_path: Path) -> None:
    """Kernels do not look at their arguments; `load` and the C++ runner align them."""
    g = Graph()
    model = g.model(g.op("Relu", g.input("x", 1, 64)))
    ofa_tvm.compile(model, target, tmp_path / "m.so")
    vm = relax.VirtualMachine(tvm.runtime.load_module(str(tmp_path / "m.so")), tvm.cpu())
    memory = np.zeros(256, np.float32)
    start = -memory.ctypes.data % 64 // 4
    aligned = memory[start : start + 64].reshape(1, 64)
    np.testing.assert_array_equal(vm["main"](tvm_ffi.from_dlpack(aligned)).numpy(), np.zeros((1, 64)))
    with pytest.raises(ValueError, match="have to begin at multiples of 64 bytes"):
        vm["main"](tvm_ffi.from_dlpack(memory[start + 1 : start + 65].reshape(1, 64)))


@pytest.mark.slow
def test_two_processes_compile_the_same_at_once(target: Target, tmp_path: Path, empty_cache: Path) -> None:
    model = small(24)
    onnx.save(model, tmp_path / "m.onnx")
    program = (
        "import sys, ofa_tvm; from ofa_tvm.targets import get_target\n"
        "for _ in range(5): ofa_tvm.compile(sys.argv[1], get_target('x86'), sys.argv[2])\n"
    )
    path = str(Path(__file__).resolve().parents[2])
    both = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path / "m.onnx"), str(tmp_path / "m.so")],
            env=os.environ | {"PYTHONPATH": path},
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for process in both:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    assert_right(tmp_path / "m.so", model)
    assert not [path for path in empty_cache.rglob("*") if path.name.startswith(".")]


def test_targets_do_not_share_objects(target: Target, tmp_path: Path, empty_cache: Path) -> None:
    for name in ("x86-64-v2", "x86-64-v3"):
        ofa_tvm.compile(small(), get_target(name), tmp_path / f"{name}.so")
        assert_right(tmp_path / f"{name}.so", small())
    assert len(list((empty_cache / "kernels").iterdir())) == 2


def test_the_library_says_what_it_is(target: Target, tmp_path: Path) -> None:
    model = small()
    onnx.helper.set_model_props(model, {"labels": '["ä"]'})
    ofa_tvm.compile(model, target, tmp_path / "m.so")
    metadata = ofa_tvm.load(tmp_path / "m.so").metadata
    assert metadata["inputs"] == [{"name": "x", "shape": [1, 3, 8, 8], "dtype": "float32"}]
    assert [output["shape"] for output in metadata["outputs"]] == [[1, 8]]
    assert metadata["target"]["threads"] == 1
    assert metadata["target"]["tvm"]["mcpu"] == target.tvm_dict()["mcpu"]
    assert metadata["onnx_metadata"] == {"labels": '["ä"]'}
    assert set(metadata["versions"]) >= {"tvm", "ofa-tvm"}


def test_the_model_given_is_not_changed(target: Target, tmp_path: Path) -> None:
    model = small()
    before = model.SerializeToString(deterministic=True)
    ofa_tvm.compile(model, target, tmp_path / "m.so")
    assert model.SerializeToString(deterministic=True) == before
