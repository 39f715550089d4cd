"""Kernels of a space at one resolution, kept between commands: lowering covering subnets takes seconds.

Asking which kernels are known needs no TVM.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import warnings
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ofa_tvm.errors import UserError
from ofa_tvm.files import cache_dir, read_sealed, write_sealed
from ofa_tvm.jsonfile import parse_json
from ofa_tvm.logs import Signature
from ofa_tvm.sources import sources_digest
from ofa_tvm.spaces import Layer, get_space
from ofa_tvm.spaces.published import PUBLISHED
from ofa_tvm.spaces.space import Space
from ofa_tvm.targets import Target

if TYPE_CHECKING:
    from ofa_tvm.compiler.kernels import Kernel

# What kernels are made of: these sources and these packages.
_SOURCES = (
    *("compiler", "export", "spaces", "supernet"),
    *("number_formats.py", "tuning/union.py", "tuning/union_cache.py"),
)
_PACKAGES = ("apache-tvm", "numpy", "onnx", "onnxruntime", "torch")
_UNUSED_S = 30 * 86400.0  # after which what another version of ofa-tvm kept is removed


@dataclass(frozen=True)
class LoweredSpace:
    """A space's kernels at one resolution.

    Parameters
    ----------
    kernels
        Distinct ones; `calls` counts how often each occurs in `by_block`.
    by_block
        Keys of a block's kernels, in order, by the shapes of its layers.
    """

    kernels: tuple[Kernel, ...]
    by_block: Mapping[tuple[Layer, ...], tuple[str, ...]]


def place(space: Space, resolution: int, target: Target, n_classes: int) -> Path | None:
    """The file where a space's kernels are kept; None for a space of a plugin, whose networks may change."""
    if space.name not in PUBLISHED or space != get_space(space.name):
        return None
    made_for = json.dumps([space.name, resolution, n_classes, target.to_json()], sort_keys=True)
    digest = hashlib.sha256(made_for.encode()).hexdigest()[:32]
    return _root() / _version() / f"{space.name}-{resolution}-{n_classes}-{digest}.zz"


def class_counts(space: Space, resolution: int) -> tuple[int, ...]:
    """Numbers of classes with which a space's kernels are kept at a resolution, for whatever target."""
    names = (path.name for path in (_root() / _version()).glob(f"{space.name}-{resolution}-*-*.zz"))
    return tuple(sorted({int(name.split("-")[-2]) for name in names}))


def _root() -> Path:
    return cache_dir() / "unions"


@cache
def _version() -> str:
    return sources_digest(_SOURCES, _PACKAGES)


def kept(path: Path) -> LoweredSpace | None:
    """What `keep` wrote; None where there is nothing, or nothing whole."""
    found = _content(path)
    if found is None:
        return None
    from ofa_tvm.compiler.kernels import Kernel

    kernels = (
        Kernel(key, Signature.from_json(signature), code, flops, calls)
        for key, signature, code, flops, calls in found["kernels"]
    )
    blocks = {tuple(Layer(**layer) for layer in layers): tuple(keys) for layers, keys in found["blocks"]}
    return LoweredSpace(tuple(kernels), blocks)


def kept_keys(path: Path) -> frozenset[str] | None:
    """Keys of the kernels that `keep` wrote; None where there are none."""
    found = _content(path)
    return None if found is None else frozenset(key for key, *_ in found["kernels"])


def _content(path: Path) -> Any:
    sealed = read_sealed(path)
    if sealed is None:
        return None
    with suppress(OSError):  # a cache that cannot be written serves as well
        os.utime(path)  # when it was used last
    return parse_json(zlib.decompress(sealed))


def keep(path: Path, lowered: LoweredSpace) -> None:
    """Write a space's kernels; a folder that cannot be written is warned of, since all goes on without.

    What other versions of ofa-tvm kept goes once nothing has used it for 30 days.
    """
    content = {
        "kernels": [[k.key, k.signature.to_json(), k.json, k.flops, k.calls] for k in lowered.kernels],
        "blocks": [[[asdict(layer) for layer in layers], keys] for layers, keys in lowered.by_block.items()],
    }
    try:
        write_sealed(path, zlib.compress(json.dumps(content).encode()))
    except UserError as error:
        from ofa_tvm.compiler.objects import NotCached

        remark = "kernels will be enumerated again; OFA_TVM_CACHE names another folder"
        warnings.warn(f"{error}: {remark}", NotCached, stacklevel=2)
    _remove_unused()


def _remove_unused() -> None:
    for folder in _root().glob("*"):
        if folder.name == _version():
            continue
        with suppress(OSError):  # in use, or another process removes it, too
            for file in folder.iterdir():
                if time.time() - file.stat().st_mtime > _UNUSED_S:
                    file.unlink()
            folder.rmdir()  # unless something is left in it
