"""What compiles CUDA source here: NVIDIA's run-time compiler (NVRTC) in pip's packages or a toolkit, or nvcc.

NVRTC 13 knows compute capability 7.5 and later; for older ones (Jetson Nano, TX2, Xavier) NVRTC 12 is looked
for.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_FIRST_OF_13 = 75  # compute capability times ten


@dataclass(frozen=True)
class Nvrtc:
    """NVRTC and the folders of the headers that TVM's CUDA code includes."""

    library: Path
    includes: tuple[Path, ...]


def install_hint(arch: str) -> str:
    """What to install to compile for an architecture."""
    if _capability(arch) >= _FIRST_OF_13:
        return "pip install 'ofa-tvm[cuda]', or install the CUDA toolkit (nvcc)"
    return f"pip install 'ofa-tvm[cuda12]' (CUDA 13 no longer knows {arch}), or install nvcc of CUDA 12"


def find_nvrtc(arch: str) -> Nvrtc | None:
    """NVRTC that knows an architecture, from pip's packages or a CUDA toolkit; None if there is none."""
    major = 13 if _capability(arch) >= _FIRST_OF_13 else 12
    for lib, include in _folders(major):
        library = lib / f"libnvrtc.so.{major}"
        if library.is_file() and any((folder / "cuda_fp16.h").is_file() for folder in include):
            return Nvrtc(library, tuple(folder for folder in include if folder.is_dir()))
    return None


def find_nvcc() -> str | None:
    """Path of nvcc, None if it is not installed."""
    return shutil.which("nvcc")


def _capability(arch: str) -> int:
    return int("".join(c for c in arch if c.isdigit()))


def _folders(major: int) -> Iterator[tuple[Path, tuple[Path, ...]]]:
    """Candidates: folder of libraries, folders of headers."""
    spec = importlib.util.find_spec("nvidia")
    for root in map(Path, spec.submodule_search_locations or ()) if spec else ():
        if major == 13:
            own = root / "cu13"
            yield own / "lib", (own / "include", own / "include" / "cccl")
        else:
            parts = [root / name / "include" for name in ("cuda_runtime", "cuda_cccl", "cuda_nvrtc")]
            yield root / "cuda_nvrtc" / "lib", tuple(parts)
    homes = [os.environ.get("CUDA_HOME"), "/usr/local/cuda", f"/usr/local/cuda-{major}"]
    for home in (Path(home) for home in homes if home):
        for lib in (home / "lib64", home / "targets/x86_64-linux/lib"):
            yield lib, (home / "include", home / "include" / "cccl")
