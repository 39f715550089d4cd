"""Kernels of a space at one resolution, kept between commands: lowering covering subnets takes seconds."""

from __future__ import annotations

import hashlib
import json
import warnings
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

from ofa_tvm.compiler.kernels import Kernel
from ofa_tvm.compiler.objects import NotCached
from ofa_tvm.errors import UserError
from ofa_tvm.files import cache_dir, read_sealed, write_sealed
from ofa_tvm.jsonfile import parse_json
from ofa_tvm.logs import Signature
from ofa_tvm.spaces import Layer, get_space
from ofa_tvm.spaces.published import PUBLISHED
from ofa_tvm.spaces.space import Space
from ofa_tvm.targets import Target

_PACKAGE = Path(__file__).resolve().parent.parent
# What kernels are made of: these sources and these packages.
_SOURCES = (
    *("compiler", "export", "spaces", "supernet"),
    *("number_formats.py", "tuning/union.py", "tuning/union_cache.py"),
)
_PACKAGES = ("apache-tvm", "numpy", "onnx", "onnxruntime", "torch")


@dataclass(frozen=True)
class LoweredSpace:
    """A space's kernels at one resolution.

    Parameters
    ----------
    kernels
        Distinct ones, with their calls in the covering subnets.
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
    return cache_dir() / "unions" / _version() / f"{hashlib.sha256(made_for.encode()).hexdigest()[:32]}.zz"


@cache
def _version() -> str:
    digest = hashlib.sha256(" ".join(version(package) for package in _PACKAGES).encode())
    for name in _SOURCES:
        part = _PACKAGE / name
        for file in sorted(part.rglob("*.py")) if part.is_dir() else [part]:
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def kept(path: Path) -> LoweredSpace | None:
    """What `keep` wrote; None where there is nothing, or nothing whole."""
    content = read_sealed(path)
    if content is None:
        return None
    found = parse_json(zlib.decompress(content))
    kernels = (
        Kernel(key, Signature.from_json(signature), code, flops, calls)
        for key, signature, code, flops, calls in found["kernels"]
    )
    blocks = {tuple(Layer(**layer) for layer in layers): tuple(keys) for layers, keys in found["blocks"]}
    return LoweredSpace(tuple(kernels), blocks)


def keep(path: Path, lowered: LoweredSpace) -> None:
    """Write a space's kernels; a folder that cannot be written is warned of, since all goes on without."""
    content = {
        "kernels": [[k.key, k.signature.to_json(), k.json, k.flops, k.calls] for k in lowered.kernels],
        "blocks": [[[asdict(layer) for layer in layers], keys] for layers, keys in lowered.by_block.items()],
    }
    try:
        write_sealed(path, zlib.compress(json.dumps(content).encode()))
    except UserError as error:
        remark = "kernels will be enumerated again; OFA_TVM_CACHE names another folder"
        warnings.warn(f"{error}: {remark}", NotCached, stacklevel=2)
