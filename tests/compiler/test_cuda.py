"""CUDA modules built on a machine without a GPU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from onnx_models import mlp

import ofa_tvm
from ofa_tvm.compiler import nvrtc
from ofa_tvm.compiler.gpu import refuse_source_only
from ofa_tvm.errors import UserError
from ofa_tvm.native import has_cuda
from ofa_tvm.targets import get_target, target_names

ARCHS = [name for name in target_names() if name.startswith("cuda-")]


def _skip_without_compiler(name: str) -> None:
    target = get_target(name)
    arch = str(target.tvm["arch"])
    if nvrtc.find_nvrtc(arch) is None:
        pytest.skip(f"no NVRTC for {arch}: {nvrtc.install_hint(arch)}")
    try:
        target.link.find()
    except UserError as error:
        pytest.skip(str(error))


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHS)
def test_the_library_holds_a_binary(name: str, tmp_path: Path) -> None:
    _skip_without_compiler(name)
    target = get_target(name)
    ofa_tvm.compile(mlp(), target, tmp_path / "m.so")
    content = (tmp_path / "m.so").read_bytes()
    assert nvrtc.binary_kind(content) == "cubin"
    assert b"__global__ void" not in content
    machine = 183 if "aarch64" in str((target.host or {})["mtriple"]) else 62
    assert int.from_bytes(content[18:20], "little") == machine


def test_half_precision_and_cuda_graphs_compile(tmp_path: Path) -> None:
    _skip_without_compiler("cuda-sm90")
    half = get_target("cuda-sm90").with_dtype("float16")
    ofa_tvm.compile(mlp(), half, tmp_path / "m.so", cuda_graph=True)
    content = (tmp_path / "m.so").read_bytes()
    assert nvrtc.binary_kind(content) == "cubin"
    assert b"cuda_graph" in content


def test_a_building_process_is_not_taken_for_one_with_a_gpu(tmp_path: Path) -> None:
    if has_cuda():
        pytest.skip("this machine has a GPU")
    _skip_without_compiler("cuda-sm90")
    ofa_tvm.compile(mlp(), get_target("cuda-sm90"), tmp_path / "m.so")
    assert not has_cuda()
    with pytest.raises(UserError, match="there is no NVIDIA driver"):
        ofa_tvm.load(tmp_path / "m.so")


def test_source_without_a_binary_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.so"
    path.write_bytes(
        b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x03\x00\x3e\x00" + b'extern "C" __global__ void f() {}'
    )
    with pytest.raises(UserError, match="holds CUDA source but no binary"):
        refuse_source_only(path)


def test_the_compilers_log_is_shown() -> None:
    _skip_without_compiler("cuda-sm90")
    with pytest.raises(UserError, match=r"(?s)compiling for sm_90 failed.*no_such_name"):
        nvrtc.compile_cuda("__global__ void f(float* x) { *x = no_such_name; }", "sm_90")


def test_without_a_compiler_a_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvrtc, "find_nvrtc", lambda arch: None)
    monkeypatch.setattr(nvrtc, "find_nvcc", lambda: None)
    with pytest.raises(UserError, match=r"no CUDA compiler for sm_90: pip install 'ofa-tvm\[cuda\]'"):
        nvrtc.compile_cuda("", "sm_90")
    with pytest.raises(UserError, match=r"no CUDA compiler for sm_53: pip install 'ofa-tvm\[cuda12\]'"):
        nvrtc.compile_cuda("", "sm_53")


def test_tvms_own_runtime_reads_the_code(tmp_path: Path) -> None:
    """With a stand-in for the driver, which the runtime only has to find, the module loads as TVM's own."""
    _skip_without_compiler("cuda-sm90")
    if has_cuda():
        pytest.skip("this machine has a GPU")
    ofa_tvm.compile(mlp(), get_target("cuda-sm90"), tmp_path / "m.so")
    names = [
        "cuDeviceGetName",
        "cuFuncSetAttribute",
        "cuGetErrorName",
        "cuGetErrorString",
        "cuLaunchKernelEx",
        "cuModuleGetFunction",
        "cuModuleLoadData",
        "cuModuleUnload",
        "cuTensorMapEncodeTiled",
    ]
    (tmp_path / "driver.c").write_text("".join(f"int {name}(void) {{ return 100; }}\n" for name in names))
    compiler = get_target("cuda-sm90").link.find()[0]
    subprocess.run(
        [
            compiler,
            "-shared",
            "-fPIC",
            "-Wl,-soname,libcuda.so.1",
            "-x",
            "c",
            "driver.c",
            "-o",
            "libcuda.so.1",
        ],
        cwd=tmp_path,
        check=True,
    )
    script = (
        "import sys; sys.modules['torch'] = None\n"
        "import ctypes, tvm\n"
        f"ctypes.CDLL({str(tmp_path / 'libcuda.so.1')!r}, mode=ctypes.RTLD_GLOBAL)\n"
        "from ofa_tvm.native import has_cuda\n"
        "assert not has_cuda()\n"
        "assert tvm.get_global_func('ffi.Module.load_from_bytes.cuda', allow_missing=True) is not None\n"
        f"library = tvm.runtime.load_module({str(tmp_path / 'm.so')!r})\n"
        "def kinds(module): return [module.kind, *(k for m in module.imports for k in kinds(m))]\n"
        "assert 'cuda' in kinds(library), kinds(library)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
