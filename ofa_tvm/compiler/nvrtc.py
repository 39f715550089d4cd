"""CUDA source to a binary for one architecture: NVIDIA's run-time compiler (NVRTC), or nvcc.

Neither needs a driver or a GPU.
"""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import tvm

from ofa_tvm.errors import UserError
from ofa_tvm.native.cuda import load_cuda_for_building
from ofa_tvm.targets.cuda_toolkit import Nvrtc, find_nvcc, find_nvrtc, install_hint
from ofa_tvm.temporaries import scratch_folder


def compile_cuda(source: str, arch: str) -> bytes:
    """Binary (cubin) of CUDA source for an architecture such as "sm_90".

    Raises
    ------
    UserError
        If neither NVRTC nor nvcc is installed, or the source does not compile; the compiler's log is shown.
    """
    if nvrtc := find_nvrtc(arch):
        return _by_nvrtc(nvrtc, source, arch)
    if nvcc := find_nvcc():
        return _by_nvcc(nvcc, source, arch)
    raise UserError(f"no CUDA compiler for {arch}: {install_hint(arch)}")


def on_cuda(target: tvm.target.Target) -> bool:
    """Whether a TVM target is of kind cuda."""
    return str(target.kind.name) == "cuda"


@contextmanager
def compiling_cuda(arch: str) -> Iterator[None]:
    """While this lasts, CUDA modules that TVM builds hold a binary for `arch`.

    Raises
    ------
    UserError
        As `compile_cuda`, when a module is built; or if the holder of binaries cannot be compiled.
    """
    import tvm.support.nvcc  # registers the function that is replaced here

    load_cuda_for_building()
    failures: list[UserError] = []

    def compile_for_arch(code: str) -> bytes:
        try:
            return compile_cuda(str(code), arch)
        except UserError as error:
            failures.append(error)
            raise

    tvm.register_global_func("tvm_callback_cuda_compile", compile_for_arch, override=True)
    try:
        yield
    except Exception:
        if failures:  # crossing TVM, it has lost its class
            raise failures[0] from None
        raise


def binary_kind(content: bytes) -> str:
    """What a shared library holds for a GPU: "cubin", "fatbin", "ptx", or "" if only source or nothing."""
    if re.search(rb"\x7fELF\x02.{13}\xbe\x00", content, re.DOTALL):  # machine 190, EM_CUDA
        return "cubin"
    if b"\x50\xed\x55\xba" in content:
        return "fatbin"
    return "ptx" if re.search(rb"\.version \d+\.\d+\s+\.target sm_", content) else ""


def _by_nvrtc(nvrtc: Nvrtc, source: str, arch: str) -> bytes:
    for builtins in nvrtc.library.parent.glob("libnvrtc-builtins.so.*"):
        ctypes.CDLL(os.fspath(builtins))  # which it opens by name, and would not find in a wheel
    library = ctypes.CDLL(os.fspath(nvrtc.library))
    library.nvrtcGetErrorString.restype = ctypes.c_char_p

    def check(code: int, what: str, log: str = "") -> None:
        if code:
            reason = library.nvrtcGetErrorString(code).decode()
            raise UserError(f"NVRTC: {what} for {arch} failed: {reason}" + (f"\n{log}" if log else ""))

    program = ctypes.c_void_p()
    text = ctypes.c_char_p(source.encode())
    check(
        library.nvrtcCreateProgram(ctypes.byref(program), text, b"kernels.cu", 0, None, None),
        "making a program",
    )
    try:
        options = [f"--gpu-architecture={arch}", "--std=c++17", "-default-device"]
        options += [f"--include-path={folder}" for folder in nvrtc.includes]
        packed = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        code = library.nvrtcCompileProgram(program, len(options), packed)
        log = _fetch(library.nvrtcGetProgramLogSize, library.nvrtcGetProgramLog, program) if code else b""
        check(code, "compiling", log.decode(errors="replace").strip("\0\n "))
        return _fetch(library.nvrtcGetCUBINSize, library.nvrtcGetCUBIN, program)
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def _fetch(size_of: Callable[..., int], fill: Callable[..., int], program: ctypes.c_void_p) -> bytes:
    size = ctypes.c_size_t()
    size_of(program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    fill(program, buffer)
    return buffer.raw


def _by_nvcc(nvcc: str, source: str, arch: str) -> bytes:
    with scratch_folder("cuda") as name:
        code, binary = Path(name) / "kernels.cu", Path(name) / "kernels.cubin"
        code.write_text(source)
        command = [nvcc, "-cubin", "-O3", "-std=c++17", f"-arch={arch}", "-o", str(binary), str(code)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise UserError(f"nvcc: compiling for {arch} failed; {install_hint(arch)}\n{done.stderr.strip()}")
        return binary.read_bytes()
