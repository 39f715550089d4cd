"""How much of a space a tuning log knows, where the space's kernels were enumerated before."""

from __future__ import annotations

import re
from collections.abc import Container
from dataclasses import dataclass, replace

from ofa_tvm.errors import UserError
from ofa_tvm.logs import log_name
from ofa_tvm.spaces import get_space
from ofa_tvm.targets import Target, get_target
from ofa_tvm.tuning import union_cache
from ofa_tvm.workflow.info.description import Fact, command, listed
from ofa_tvm.workflow.project import Project
from ofa_tvm.workflow.settings import N_CLASSES

_FOLDER = re.compile(r"(?P<target>.+?)(?P<emulated>-emulated)?(-(?P<threads>\d+)threads)?")
_DIGITS = 10  # classes


@dataclass(frozen=True)
class Coverage:
    """Kernels of a project's space in one target's log.

    Attributes
    ----------
    space, resolutions
        Whose kernels.
    with_records
        How many of them the log has a measured schedule of.
    kernels
        How many there are; None where they were not enumerated, which would take long.
    options
        What verbs take for the target.
    """

    space: str
    resolutions: tuple[int, ...]
    with_records: int
    kernels: int | None
    options: str

    def fact(self, name: str, label: str = "") -> Fact:
        """For people and scripts; `label` comes first in the text."""
        where = f"{self.space} at {listed(self.resolutions)} pixels"
        if self.kernels is None:
            asked = command("tune", self.options, "--dry-run")
            text = f"not enumerated yet for {where} (`{asked}` does it and counts)"
        else:
            share = 100 * self.with_records / self.kernels
            text = f"{self.with_records:,} of {self.kernels:,} kernels of {where} ({share:.0f} %)"
        value = {
            "space": self.space,
            "resolutions": list(self.resolutions),
            "kernels": self.kernels,
            "with_records": None if self.kernels is None else self.with_records,
        }
        return Fact(name, label + text, value)


def known_target(log: str) -> tuple[str, Target] | None:
    """The target of a log that is called `log`, and what verbs take for it; None if it is not known here."""
    parts = _FOLDER.fullmatch(log)
    assert parts is not None  # it takes every text
    threads = int(parts["threads"] or 1)
    for name in ("x86", parts["target"]):
        try:
            target = get_target(name)
        except UserError:
            continue
        # Not `with_threads`: a log of more threads than this machine has is known, too.
        target = replace(target, measure=replace(target.measure, threads=threads))
        if log_name(target) == log:
            return f"--target {name}" + (f" --threads {threads}" if threads > 1 else ""), target
    return None


def coverage(project: Project, folder: str, records: Container[str]) -> Coverage | None:
    """What a log has of a project's space, in float32 for one image a call; nothing is lowered for it.

    Parameters
    ----------
    project
        Names space, resolutions and checkpoint.
    folder
        Name of the log's folder (`Variant.log`).
    records
        Keys of the kernels with a measured schedule.

    Returns
    -------
    Coverage or None
        None if the space is not published or the target is not known here.
    """
    try:
        space, found = get_space(project.space), known_target(folder)
    except UserError:
        return None
    if found is None:
        return None
    option, target = found
    sides = project.resolutions or space.default_resolutions
    n_classes = _n_classes(project, union_cache.class_counts(space, sides[0]))
    places = [union_cache.place(space, side, target, n_classes or 0) for side in sides]
    if None in places:
        return None
    parts = [union_cache.kept_keys(place) for place in places if place is not None]
    keys = None if None in parts else frozenset[str]().union(*(part for part in parts if part is not None))
    return Coverage(
        space.name,
        tuple(sides),
        sum(key in records for key in keys or ()),
        None if keys is None else len(keys),
        option,
    )


def _n_classes(project: Project, kept: tuple[int, ...]) -> int | None:
    """Outputs of a project's classifier; None where it cannot be said, or nothing is kept anyway."""
    if project.data == "digits":
        return _DIGITS
    weights = project.weights("float32")
    if weights is None:
        return N_CLASSES
    if not kept:
        return None
    from ofa_tvm.supernet.checkpoint import n_classes  # needs torch

    try:
        return n_classes(weights)
    except UserError:
        return None
