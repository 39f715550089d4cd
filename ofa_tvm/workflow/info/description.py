"""What `describe` answers, as data, and the few words that all descriptions share."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ofa_tvm.errors import UserError
from ofa_tvm.targets import detect_machine

ACCEPTED = (
    "info takes an artefact folder, a compiled .so, an ONNX file, a checkpoint, a tuning log or a folder of "
    "them, a predictor, a table of latencies or accuracies, and a project's folder"
)
_MOST_NAMES = 8


@dataclass(frozen=True)
class Fact:
    """One thing that is known.

    Attributes
    ----------
    name
        What it is called, in lower case; in JSON, blanks are underscores.
    text
        For people.
    value
        Plain data for scripts; the text where nothing else is given.
    """

    name: str
    text: str
    value: Any = None


@dataclass(frozen=True)
class Step:
    """What can be done next: in words, and a command to paste; words in capitals are to be filled in."""

    what: str
    command: str


@dataclass(frozen=True)
class Found:
    """One of the things in a folder."""

    path: Path
    what: str


@dataclass(frozen=True)
class Description:
    """What is known of a file or folder.

    Attributes
    ----------
    path
        As it was given.
    kind
        A short name that stays the same: "artefact", "module", "onnx", "supernet", ...
    summary
        What it is, in a few words.
    facts
        For what it is, how and when it was made, what was measured.
    problems
        Why it is of no use on this machine as it is; () if nothing speaks against it.
    notes
        What is good to know before it is used.
    steps
        What can be done with it.
    contents
        Of a folder: what lies in it.
    damaged
        Whether a problem is that it is not as it was written.
    """

    path: Path
    kind: str
    summary: str
    facts: tuple[Fact, ...] = ()
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    steps: tuple[Step, ...] = ()
    contents: tuple[Found, ...] = ()
    damaged: bool = False

    @property
    def usable(self) -> bool:
        """Whether nothing speaks against using it on this machine."""
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "path": str(self.path),
            "kind": self.kind,
            "summary": self.summary,
            "facts": {f.name.replace(" ", "_"): f.text if f.value is None else f.value for f in self.facts},
            "usable": self.usable,
            "damaged": self.damaged,
            "problems": list(self.problems),
            "notes": list(self.notes),
            "next": [{"what": step.what, "command": step.command} for step in self.steps],
            "contents": [{"path": str(found.path), "what": found.what} for found in self.contents],
        }


def refusal(path: Path, seems: str, instead: str = "") -> UserError:
    """What is said of a path that cannot be described: what it seems to be, and what is accepted."""
    return UserError(f"{path} {seems}; {instead or ACCEPTED}")


def command(*words: object, inside: Path | None = None) -> str:
    """A command line of ofa-tvm's, quoted for a shell.

    Parameters
    ----------
    words
        Paths are quoted; text stays as it is.
    inside
        Folder that it has to run in.
    """
    text = " ".join(["ofa-tvm", *(quoted(word) if isinstance(word, Path) else str(word) for word in words)])
    return text if inside is None or _is_here(inside) else f"cd {quoted(inside)} && {text}"


def quoted(path: Path) -> str:
    """A path as one word of a command; one that begins with a dash is no option."""
    text = str(path)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)


def _is_here(folder: Path) -> bool:
    return folder.resolve() == Path.cwd()


def project_option(found: str | None) -> str:
    """`--space NAME`, where it is known."""
    return f"--space {found}" if found else "--space SPACE"


def space_fact(names: Sequence[str], unknown: str = "unknown") -> Fact:
    """The space of something, or those that it may be of; in JSON a name, or a list of several or none."""
    text = " or ".join(names) or unknown
    return Fact("space", text, names[0] if len(names) == 1 else list(names))


def listed(names: Iterable[Any], most: int = _MOST_NAMES) -> str:
    """The first few of some names, and how many more there are."""
    known = [str(name) for name in names]
    more = len(known) - most
    return ", ".join(known[:most]) + (f" and {more} more" if more > 0 else "")


def size_fact(*files: Path) -> Fact:
    """Bytes of files, and when the last of them was written."""
    stats = [file.stat() for file in files if file.is_file()]
    total = sum(stat.st_size for stat in stats)
    changed = datetime.fromtimestamp(max((stat.st_mtime for stat in stats), default=0), UTC)
    return Fact(
        "size",
        f"{size_text(total)}, changed {changed:%Y-%m-%d %H:%M} UTC",
        {"bytes": total, "changed": changed.isoformat(timespec="seconds")},
    )


def size_text(n_bytes: int) -> str:
    """Bytes as people say them."""
    if n_bytes < 1000:
        return f"{n_bytes} bytes"
    for unit in ("kB", "MB"):
        n_bytes_in = n_bytes / (1e3 if unit == "kB" else 1e6)
        if n_bytes_in < 1000:
            return f"{n_bytes_in:.3g} {unit}"
    return f"{n_bytes / 1e9:.3g} GB"


def budget_text(cost: float) -> str:
    """A cost as the number of a budget, of three digits or more."""
    return f"{cost:.0f}" if cost >= 1000 else f"{cost:.3g}"


def share(value: float) -> str:
    """0..1 in percent."""
    return f"{100 * value:.1f} %"


def shares(values: Sequence[float]) -> str:
    """The least and the largest of some values of 0..1 in percent."""
    low, high = share(min(values)), share(max(values))
    return low if low == high else f"{low} to {high}"


def date_text(iso: str) -> str:
    """An ISO date as people write it; what is none stays."""
    try:
        when = datetime.fromisoformat(iso)
    except ValueError:
        return iso
    return f"{when:%Y-%m-%d %H:%M}{' UTC' if when.tzinfo is not None else ''}" if "T" in iso else iso


def versions_text(versions: Mapping[str, str]) -> str:
    """Packages with their versions."""
    return ", ".join(f"{name} {number}" for name, number in versions.items())


def version_notes(versions: Mapping[str, str], again: str) -> list[str]:
    """Which versions of TVM and ofa-tvm differ from those here, and what to do about it.

    Parameters
    ----------
    versions
        By the names that files have used for the packages.
    again
        What to do, as in "compile it again".
    """
    notes = []
    for package, names in (("ofa-tvm", ("ofa-tvm",)), ("apache-tvm", ("apache-tvm", "tvm"))):
        then = next((versions[name] for name in names if name in versions), None)
        here = _installed(package)
        if then is not None and here is not None and then != here:
            notes.append(f"made with {package} {then}, here is {here}: if it does not work, {again}")
    return notes


def _installed(package: str) -> str | None:
    if package == "ofa-tvm":
        from ofa_tvm import __version__

        return __version__
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def other_machine(machines: Iterable[str]) -> list[str]:
    """A note that times of the target `x86` are not this machine's, where they are another one's."""
    here, measured = detect_machine().model, sorted(set(machines))
    if not measured or here in measured:
        return []
    return [f"its times are of {listed(measured)}, and this machine is {here}"]


def near(path: Path) -> Path | None:
    """The artefact that the quickstart and `search -o deploy` leave beside a project's other files."""
    for folder in (path.parent, path.parent.parent):
        if (folder / "deploy" / "manifest.yaml").is_file():
            return folder / "deploy"
    return None


def range_text(values: Sequence[float], unit: str) -> str:
    """Smallest, median and largest."""
    ordered = sorted(values)
    middle = ordered[len(ordered) // 2]
    return f"{ordered[0]:.4g} to {ordered[-1]:.4g} {unit}, median {middle:.4g}"
