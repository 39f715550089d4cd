"""The contract that every shipped descriptor keeps."""

from __future__ import annotations

import pickle
import struct
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from places import skip_unless_it_runs_here, skipped_without_compiler
from small_module import SIZE, build_small_module, write_small_onnx

import ofa_tvm
from ofa_tvm.compiler import nvrtc
from ofa_tvm.errors import UsageError, UserError
from ofa_tvm.files import write_atomic
from ofa_tvm.runtime import elf_arch
from ofa_tvm.targets import Target, detect_machine, get_target, list_targets, load_target, target_names
from ofa_tvm.targets.load import TRACKER
from ofa_tvm.targets.readiness import examine
from ofa_tvm.yamlfile import write_yaml

NAMES = target_names()


@pytest.fixture(params=NAMES, scope="module")
def target(request: pytest.FixtureRequest) -> Target:
    return get_target(request.param)


def test_the_four_kinds_ship() -> None:
    assert {target.kind for target in list_targets()} == {"x86", "arm", "cuda", "opencl"}
    assert [target.name for target in list_targets()] == NAMES


def test_is_named_after_its_file(target: Target) -> None:
    assert target.name == (Path(target.source).stem if target.source else "x86")


def test_tvm_compiles_for_the_cpu_that_it_names(target: Target) -> None:
    from tvm.target import codegen

    made = target.tvm_target()
    assert made.kind.name == target.tvm["kind"]
    cpu = made if target.tvm["kind"] == "llvm" else made.host
    assert cpu.attrs["mcpu"] == target.mcpu
    assert all(codegen.llvm_cpu_has_features(feature, cpu) for feature in target.features)
    assert codegen.llvm_is_valid_cpu(target.mcpu, cpu.attrs["mtriple"])


def test_tvm_takes_everything_that_it_is_told_of_a_gpu(target: Target) -> None:
    made = target.tvm_target()
    for key, value in target.tvm.items():
        if key not in ("kind", "mtriple", "mcpu", "mattr"):  # of CPUs: looked at above
            assert made.attrs[key] == value, key


def test_latency_is_single_threaded_unless_asked(target: Target) -> None:
    assert target.threads == 1
    if target.tvm["kind"] == "llvm":
        assert target.tvm_dict()["num-cores"] == 1


def test_emulated_devices_cost_instructions(target: Target) -> None:
    assert (target.unit == "Minstr") == (target.run.where == "emulator")


def test_survives_its_own_yaml_and_pickle(target: Target, tmp_path: Path) -> None:
    file = tmp_path / "copy.yaml"
    write_atomic(file, write_yaml(target.to_descriptor()))
    copy = load_target(file)
    assert copy.to_descriptor() == target.to_descriptor()
    assert copy.tvm_dict() == target.tvm_dict()
    assert pickle.loads(pickle.dumps(target)) == target
    assert Target.from_json(target.to_json()) == target
    hash(target)


def test_compatible_targets_are_older_levels_of_the_same_kind(target: Target) -> None:
    for name in target.compatible:
        if name in NAMES:
            assert get_target(name).kind == target.kind


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("cuda-")])
def test_doctor_finds_the_cuda_compiler_that_compiles(name: str) -> None:
    target = get_target(name)
    arch = str(target.tvm["arch"])
    check = examine(target, detect_machine()).compiler
    assert check.ok == (nvrtc.find_nvrtc(arch) is not None or nvrtc.find_nvcc() is not None)
    assert check.ok or check.install == nvrtc.install_hint(arch)


@pytest.fixture(scope="module")
def built(target: Target, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A small network as ONNX and as a module for the target."""
    folder = tmp_path_factory.mktemp(target.name)
    onnx_path = write_small_onnx(folder / "m.onnx")
    with skipped_without_compiler(target):
        return onnx_path, build_small_module(onnx_path, folder / "m.so", target)


def test_the_product_is_code_for_the_target(target: Target, built: tuple[Path, Path]) -> None:
    host = target.tvm if target.host is None else target.host
    assert elf_arch(built[1]) == str(host["mtriple"]).split("-")[0]
    content = built[1].read_bytes()
    assert content.count(b"__kernel void") >= (3 if target.kind == "opencl" else 0)  # its three layers
    assert _compute_capabilities(content) == (
        {int(str(target.tvm["arch"]).removeprefix("sm_"))} if target.kind == "cuda" else set()
    )


def _compute_capabilities(content: bytes) -> set[int]:
    """Of the CUDA binaries in a file, times ten; two forms of their ELF header are known."""
    found = set()
    start = 0
    while (start := content.find(b"\x7fELF", start + 1)) > 0:
        if struct.unpack_from("<H", content, start + 18) == (190,):  # EM_CUDA
            (flags,) = struct.unpack_from("<I", content, start + 48)
            found.add((flags >> 8 if content[start + 8] >= 8 else flags) & 0xFF)
    return found


def test_a_small_network_runs_and_matches_onnxruntime(target: Target, built: tuple[Path, Path]) -> None:
    onnx_path, so = built
    skip_unless_it_runs_here(target)
    x = np.random.default_rng(1).standard_normal((1, 3, SIZE, SIZE)).astype(np.float32)
    expected = onnxruntime.InferenceSession(str(onnx_path)).run(None, {"input": x})[0]
    np.testing.assert_allclose(ofa_tvm.load(so, target)(x), expected, rtol=1e-4, atol=1e-5)


def test_with_threads_changes_what_is_compiled_and_nothing_else() -> None:
    two = get_target("cortex-a72").with_threads(2)
    assert two.threads == 2
    assert two.tvm_dict()["num-cores"] == 2
    assert two.with_threads(1) == get_target("cortex-a72")
    with pytest.raises(UsageError, match="from 1 to 1024, not 0"):
        two.with_threads(0)
    with pytest.raises(UsageError, match="may use only"):
        get_target("x86").with_threads(1_000)


def test_short_names_stand_for_devices() -> None:
    assert get_target("arm") == get_target("cortex-a72")


def test_a_tracker_in_the_environment_has_the_boards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TRACKER, "10.0.0.1:9190")
    for name, key in (("arm", "cortex-a72"), ("opencl-mali", "mali"), ("cuda-sm87", "jetson-orin")):
        target = get_target(name)
        assert (target.run.where, target.run.tracker, target.run.key) == ("rpc", "10.0.0.1:9190", key)
        assert target.unit == "ms"
    assert get_target("opencl").run.where == get_target("cuda").run.where == "local"


@pytest.mark.parametrize(("name", "hint"), [("x87", "x86"), ("cortex-a722", "cortex-a72")])
def test_an_unknown_name_lists_those_near_it(name: str, hint: str) -> None:
    with pytest.raises(UsageError, match=rf"near are [\w, -]*\b{hint}\b"):
        get_target(name)


def test_a_name_with_nothing_near_it_lists_all() -> None:
    with pytest.raises(UsageError) as caught:
        get_target("toaster")
    assert all(known in str(caught.value) for known in NAMES)


def test_llvm_must_know_the_cpu(tmp_path: Path) -> None:
    file = _edited(tmp_path, "mcpu: cortex-a72", "mcpu: cortex-a7200")
    with pytest.raises(UserError, match=r"knows no CPU 'cortex-a7200' of aarch64-linux-gnu.*edited\.yaml"):
        load_target(file).tvm_target()


def test_required_features_must_be_in_force(tmp_path: Path) -> None:
    file = _edited(tmp_path, "[neon]", "[neon, dotprod]")
    with pytest.raises(UserError, match="do not switch on dotprod"):
        load_target(file).tvm_target()
    attributes = "mcpu: cortex-a72, mattr: ['+v8.2a', '+dotprod']"
    text = file.read_text().replace("mcpu: cortex-a72", attributes)
    file.write_text(text)
    load_target(file).tvm_target()


def _edited(folder: Path, old: str, new: str) -> Path:
    text = Path(get_target("cortex-a72").source).read_text()
    assert old in text
    file = folder / "edited.yaml"
    file.write_text(text.replace(old, new))
    return file


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("unit: Minstr", "unit: ms", r"emulated device costs instructions"),
        ("unit: Minstr", "unit: seconds", r"line \d+: measure\.unit: 'seconds' is not one of ms, Minstr"),
        ("threads: 1", "threads: four", r"line \d+: measure\.threads: 'four' is not a whole number"),
        ("threads: 1", "threads: 0", r"measure\.threads: 0 is below the smallest allowed value, 1"),
        ("threads: 1", "treads: 1", r"measure\.treads: unknown key \(did you mean threads\?\); allowed are"),
        ("kind: arm", "kind: riscv", r"line 2: kind: 'riscv' is not one of x86, arm, cuda, opencl"),
        ("name: cortex-a72\n", "", r"line 1: the key 'name' is missing"),
        ("mcpu: cortex-a72", "mcpu: cortex-a72, num-cores: 4", r"num-cores: this key is not allowed here"),
        ("tvm: {kind: llvm", "tvm: {kind: cuda", r"kind arm needs tvm\.kind llvm, not cuda"),
        ("where: emulator", "where: rpc", r"line \d+: run: the key 'tracker' is missing"),
        ("cores: 4", "cores: -4", r"hardware\.cores: -4 is below"),
        ("[neon]", "[neon", r"line 6, column 5: not valid YAML"),
    ],
)
def test_a_bad_descriptor_says_file_line_key_and_what_is_allowed(
    tmp_path: Path, old: str, new: str, says: str
) -> None:
    with pytest.raises(UserError, match=says) as caught:
        load_target(_edited(tmp_path, old, new))
    assert str(tmp_path / "edited.yaml") in str(caught.value)


def test_the_line_of_an_error_is_that_of_its_key(tmp_path: Path) -> None:
    file = _edited(tmp_path, "  install: apt-get install g++", "  instal: apt-get install g++")
    line = next(i for i, text in enumerate(file.read_text().splitlines(), 1) if "instal:" in text)
    with pytest.raises(UserError, match=rf"line {line}: link\.instal: unknown key"):
        load_target(file)


def test_a_yaml_file_never_builds_python_objects(tmp_path: Path) -> None:
    file = tmp_path / "evil.yaml"
    file.write_text(f"name: !!python/object/apply:os.mkdir ['{tmp_path / 'made'}']\n")
    with pytest.raises(UserError, match="not valid YAML"):
        load_target(file)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(("content", "says"), [(b"- a\n", "top level"), (b"\xff\xfe\x00", "not a text file")])
def test_other_files_are_refused(tmp_path: Path, content: bytes, says: str) -> None:
    file = tmp_path / "t.yaml"
    file.write_bytes(content)
    with pytest.raises(UserError, match=says):
        load_target(file)
    with pytest.raises(UserError, match="no target descriptor"):
        load_target(tmp_path / "none.yaml")
