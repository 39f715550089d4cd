"""The kinds of target: what TVM compiles each with, and which machines run it in a process of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal["x86", "arm", "cuda", "opencl"]


@dataclass(frozen=True)
class TargetKind:
    """What is common to all targets of a kind.

    Attributes
    ----------
    backend
        TVM's kind of target.
    family
        `platform.machine()` of the CPUs that run its code; "" for accelerators.
    """

    backend: str
    family: str = ""


KINDS: Mapping[Kind, TargetKind] = {
    "x86": TargetKind("llvm", "x86_64"),
    "arm": TargetKind("llvm", "aarch64"),
    "cuda": TargetKind("cuda"),
    "opencl": TargetKind("opencl"),
}
