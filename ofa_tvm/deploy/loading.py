"""`ofa_tvm.load`: whatever was compiled or shipped, as a function."""

from __future__ import annotations

import os
from pathlib import Path

from ofa_tvm.deploy.artefact import Artefact
from ofa_tvm.runtime import Runner, load_for
from ofa_tvm.targets import Target


def load(path: str | os.PathLike[str], target: Target | None = None) -> Runner:
    """Load a compiled module, or the one in an artefact folder (whose checksums are then checked).

    What it takes, weights and all, is given back when the runner is no longer used.

    Parameters
    ----------
    path
        The `.so` or the folder.
    target
        The device to run on, where it is not this machine. AArch64 code runs in the emulator on machines of
        another family, which computes the same and says nothing of speed.

    Raises
    ------
    UserError
        If it is missing, damaged, or for a machine that is not at hand.
    """
    if Path(path).is_dir():
        return Artefact.open(path).on(target).runner
    return Runner(load_for(Path(path), target))
