"""Files of architectures, one JSON a line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ofa_tvm.errors import UserError
from ofa_tvm.spaces.layered import LayeredSpace


def read_archs(path: Path, space: LayeredSpace) -> list[Any]:
    """Architectures of a space, one JSON a line.

    Raises
    ------
    UserError
        If the file cannot be read or is empty, or a line is no architecture of the space.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    found: list[Any] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            arch = space.parse(line)
        except UserError as error:
            raise UserError(f"{path}, line {number}: {error}") from None
        found.append(arch)
    if not found:
        raise UserError(f"{path} holds no architectures; write one JSON object a line")
    return found
