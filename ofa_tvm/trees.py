"""What lies below a folder: all of it, through links, and which of it is the system's and not the user's."""

from __future__ import annotations

import os
import stat
from pathlib import Path, PurePath

from ofa_tvm.errors import UserError

# What file managers and file servers put into folders, besides names that begin with a dot.
_SYSTEM = {
    "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir", "$recycle.bin", "lost+found",
    "system volume information",
}  # fmt: skip


def is_hidden(name: str | PurePath) -> bool:
    """Whether a file or one of the folders around it, as seen from a user's folder, is the system's."""
    return any(part.startswith(".") or part.lower() in _SYSTEM for part in PurePath(name).parts)


def files_below(folder: Path) -> tuple[list[Path], list[Path]]:
    """All files under a folder, those behind links to folders and broken links too; and all folders.

    Raises
    ------
    UserError
        If a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise UserError(f"cannot read {error.filename}: {error.strerror}") from error

    files, found = [], []
    above = {str(folder): {folder.resolve()}}  # of a folder: where it and those above it really lie
    for where, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        here, inside = Path(where), []
        for name in folders:
            real = (here / name).resolve()
            if real not in above[where]:  # a link to a folder above it would be followed for ever
                above[str(here / name)] = above[where] | {real}
                inside.append(name)
        folders[:] = inside
        found += [here / name for name in inside]
        files += [here / name for name in names if _is_file_or_broken(here / name)]
    return files, found


def _is_file_or_broken(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return True
