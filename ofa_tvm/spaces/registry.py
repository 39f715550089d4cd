"""Spaces by name: those that ship, and those that other packages register as entry points."""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from ofa_tvm.errors import UsageError, UserError, shown
from ofa_tvm.spaces.fbnet import fbnet
from ofa_tvm.spaces.layered import LayeredSpace
from ofa_tvm.spaces.published import PUBLISHED
from ofa_tvm.spaces.space import Space

SPACES = "ofa_tvm.spaces"
"""Entry points whose name is a space's and which load a function that returns it."""
SUPERNETS = "ofa_tvm.supernets"
"""Entry points of the same names that load a function (space, n_classes, dropout) -> Supernet; optional."""


def list_spaces() -> tuple[str, ...]:
    """Names that `get_space` knows: the published ones, then those of installed plugins."""
    plugins = {entry.name for entry in entry_points(group=SPACES)}
    return (*PUBLISHED, *sorted(plugins - PUBLISHED.keys()))


@cache
def get_space(name: str) -> Space:
    """The space of that name.

    Raises
    ------
    UsageError
        If there is none; the message lists those there are.
    UserError
        If a plugin registers it and fails; the message names the package.
    """
    if name in PUBLISHED:
        return PUBLISHED[name]()
    entry = find_plugin(SPACES, name)
    if entry is None:
        raise UsageError(f"there is no search space {shown(name)}; choose one of {', '.join(list_spaces())}")
    space = call_plugin(entry)
    if not isinstance(space, Space) or space.name != name:
        got = f"the space {space.name}" if isinstance(space, Space) else f"a {type(space).__name__}"
        raise UserError(f"{_origin(entry)} has to return the space {name} and returned {got}")
    return space


# Spaces that are data only: predictors work on them, nothing trains them.
_DATA_ONLY = {"fbnet": cache(fbnet)}


def get_layered_space(name: str) -> LayeredSpace:
    """As `get_space`, and also the spaces that can list their layers but are not trained here ("fbnet").

    Raises
    ------
    UsageError
        If there is none; the message lists those there are.
    """
    if name in _DATA_ONLY:
        return _DATA_ONLY[name]()
    known = list_spaces()
    if name not in known:
        raise UsageError(
            f"there is no search space {shown(name)}; choose one of {', '.join((*known, *_DATA_ONLY))}"
        )
    return get_space(name)


def find_plugin(group: str, name: str) -> EntryPoint | None:
    """What an installed package registers for a space's name; None where none does, or the space ships.

    Raises
    ------
    UserError
        If several packages register the name.
    """
    if name in PUBLISHED:
        return None
    # One package may be found twice: installed, and from its source folder.
    found = {(_package(entry), entry.value): entry for entry in entry_points(group=group, name=name)}
    if len(found) > 1:
        packages = " and ".join(sorted(package for package, _ in found))
        raise UserError(f"{packages} both register {name!r} under {group}; uninstall one of them")
    return next(iter(found.values()), None)


def call_plugin(entry: EntryPoint, *arguments: Any) -> Any:
    """Import what an entry point names and call it.

    Raises
    ------
    UserError
        If the import or the call fails; the message names package and reason.
    """
    try:
        return entry.load()(*arguments)
    except UserError:
        raise
    except Exception as error:  # whatever other people's code raises
        raise UserError(
            f"{_origin(entry)} failed: {type(error).__name__}: {error}; repair or uninstall that package"
        ) from error


def _origin(entry: EntryPoint) -> str:
    return f"the plugin {entry.name!r} of the package {_package(entry)} ({entry.value})"


def _package(entry: EntryPoint) -> str:
    return "?" if entry.dist is None else f"{entry.dist.name} {entry.dist.version}"
