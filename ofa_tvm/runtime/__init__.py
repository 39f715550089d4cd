"""Loading and calling compiled modules, here, on a device or in the emulator, with the TVM runtime alone."""

from __future__ import annotations

from ofa_tvm.runtime.elf import append_checksum, elf_arch
from ofa_tvm.runtime.module import LoadedModule, TensorSpec, load_module
from ofa_tvm.runtime.remote import load_for, load_remote
from ofa_tvm.runtime.runner import Runner

__all__ = [
    "LoadedModule",
    "Runner",
    "TensorSpec",
    "append_checksum",
    "elf_arch",
    "load_for",
    "load_module",
    "load_remote",
]
