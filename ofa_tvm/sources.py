"""A digest of parts of this package: what a cache keeps is right only for the same sources."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def sources_digest(parts: Iterable[str], packages: Iterable[str]) -> str:
    """Sixteen hexadecimal digits that change with any of the sources, and with the packages' versions.

    Parameters
    ----------
    parts
        Files and folders of this package, by their paths in it.
    packages
        Names of distributions.
    """
    digest = hashlib.sha256(" ".join(map(version, packages)).encode())
    for name in parts:
        part = _PACKAGE / name
        for file in sorted(part.rglob("*.py")) if part.is_dir() else [part]:
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]
