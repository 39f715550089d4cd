"""Tuning logs on disk: a folder a target, in it JSON-lines files that are only ever appended to."""

from __future__ import annotations

import bisect
import gzip
import lzma
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import IO

from ofa_tvm.errors import UserError, shorten, shown
from ofa_tvm.files import data_dir
from ofa_tvm.lines import FileBusy, LineFile, torn_json
from ofa_tvm.logs.record import VERSION, Header, Record
from ofa_tvm.targets import Target, Variant

_OPENERS = {".jsonl": open, ".gz": gzip.open, ".xz": lzma.open}
_PACKED = (".gz", ".xz")
_MOST_FILES = 64
_SHOWN_PROBLEMS = 3
_LONGEST_LINE = 1 << 22
_LARGEST_LOG = 1 << 31  # unpacked; a log of a whole space takes some megabytes


def log_name(target: Target) -> str:
    """Folder name of a target's logs (`Variant.log`): a target probed on this machine is named by its CPU."""
    name = target.compatible[0] if target.probed and target.compatible else target.name
    return replace(Variant.of(target), target=name).log


@dataclass
class KernelTable:
    """Records by kernel, best first, with the problems met while reading them.

    Parameters
    ----------
    records
        Successful records of each kernel, fastest first.
    failures
        Failed records of each kernel.
    problems
        Lines and files that were skipped, one sentence each.
    foreign
        Kernels whose records come from another target's log or ship with ofa-tvm: their schedules serve, but
        their times are another device's.
    machines
        Those that each kernel's records were timed on, as the headers of their files say it.
    """

    records: dict[str, list[Record]] = field(default_factory=dict)
    failures: dict[str, list[Record]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    foreign: set[str] = field(default_factory=set)
    machines: dict[str, set[str]] = field(default_factory=dict)

    def add(self, record: Record) -> None:
        """Take one record in; of a schedule that was timed more than once the last times stand."""
        if record.succeeded:
            known = self.records.setdefault(record.kernel, [])
            known[:] = [other for other in known if other.trace != record.trace]
            bisect.insort(known, record, key=lambda r: r.cost)
        else:
            self.failures.setdefault(record.kernel, []).append(record)

    @property
    def notes(self) -> list[str]:
        """The problems for people: the first few, and how many more there are."""
        more = len(self.problems) - _SHOWN_PROBLEMS
        return [*self.problems[:_SHOWN_PROBLEMS], *([f"{more} more are left out"] if more > 0 else [])]

    def trials(self, kernel: str) -> int:
        """Schedules of a kernel that were tried, failed ones included."""
        return len(self.records.get(kernel, ())) + len(self.failures.get(kernel, ()))

    def best(self, kernel: str) -> Record | None:
        """Fastest record of a kernel."""
        known = self.records.get(kernel)
        return known[0] if known else None


def timed_on(device: str, machines: Iterable[str]) -> bool:
    """Whether a device is among the machines of logs' headers, with whatever number of cores."""
    return any(machine == device or machine.startswith(f"{device}, ") for machine in machines)


def read_folder(folder: Path, target: str | None = None) -> KernelTable:
    """All records of one target's folder; what cannot be read is skipped and named in `problems`.

    Parameters
    ----------
    folder
        Without it there are no records.
    target
        The target's name in logs (`log_name`): files whose header names another are left out, since their
        times are another device's.
    """
    table = KernelTable()
    for file in sorted(folder.glob("*.jsonl*")):
        if file.suffix in _OPENERS and file.is_file():
            read = _packed if file.suffix in _PACKED else _content
            try:
                found, problems = read(file, target, file.stat().st_mtime_ns)
            except OSError as error:
                found, problems = (), (f"{file} cannot be read: {error.strerror}",)
            table.problems += problems
            for machine, record in found:
                table.add(record)
                if record.succeeded:
                    table.machines.setdefault(record.kernel, set()).add(machine)
    return table


def _shipped(folder: Path, target: str) -> KernelTable:
    """`read_folder` of logs that ship, read once for all that a process compiles; not to be changed."""
    return _table(folder, target, tuple((file, file.stat().st_mtime_ns) for file in folder.glob("*.jsonl*")))


@lru_cache(maxsize=4)
def _table(folder: Path, target: str, _changed: tuple[tuple[Path, int], ...]) -> KernelTable:
    return read_folder(folder, target)


_Content = tuple[tuple[tuple[str, Record], ...], tuple[str, ...]]


def _content(file: Path, target: str | None, _changed_ns: int) -> _Content:
    """The records of a file, each with the machine that made it; and what is wrong with it."""
    problems: list[str] = []
    return tuple(_read_file(file, target, problems)), tuple(problems)


_packed = lru_cache(maxsize=4)(_content)
"""Of logs that ship, which a process may want for each of a thousand subnets."""


def _read_file(file: Path, target: str | None, problems: list[str]) -> Iterator[tuple[str, Record]]:
    """The records of a file, each with the machine that made it."""
    try:
        with _OPENERS[file.suffix](file, "rb") as handle:  # type: ignore[operator]
            lines = _lines(handle)
            try:
                first = next(lines, b"")
                if not first:
                    return
                machine = _header(first, target).machine
            except ValueError as error:
                problems.append(f"{file} is left out: {error}")
                return
            for number, line in enumerate(lines, start=2):
                if line.strip():
                    try:
                        yield machine, Record.from_line(line.decode(errors="replace"))
                    except ValueError as error:
                        problems.append(f"{file}, line {number} is left out: {error}")
    except (OSError, EOFError, lzma.LZMAError, zlib.error, _TooLong) as error:
        problems.append(f"{file} cannot be read to its end: {shorten(str(error), 120)}")


class _TooLong(Exception):
    """What unpacks to more than any log holds."""


def _lines(handle: IO[bytes]) -> Iterator[bytes]:
    """Lines of a log, none of them without end."""
    total = 0
    while line := handle.readline(_LONGEST_LINE):
        total += len(line)
        if (len(line) == _LONGEST_LINE and line[-1:] != b"\n") or total > _LARGEST_LOG:
            raise _TooLong("it is longer than any log")
        yield line


def _header(line: bytes, target: str | None) -> Header:
    header = Header.from_line(line.decode(errors="replace"))
    if target is not None and header.target != target:
        raise ValueError(f"it is a log of {shown(header.target, 40)}, not of {target}")
    return header


def _takes_records(path: Path, wanted: Header) -> bool:
    """Whether records of a header may be appended to a log: it is new, or its own header suits.

    A log of an earlier version is left to those who still read it, and another machine's log to its times;
    both are gone on with in a file beside them.
    """
    with path.open("rb") as handle:
        header = handle.readline(_LONGEST_LINE)
    if not header.endswith(b"\n") and torn_json(header):
        return True
    try:
        own = _header(header, wanted.target)
        return own.version == VERSION and own.machine == wanted.machine
    except ValueError:
        return False


def read_header(file: Path) -> Header:
    """First line of one log, packed or not.

    Raises
    ------
    UserError
        If the file cannot be read, or does not begin as a log.
    """
    try:
        with _OPENERS[file.suffix](file, "rb") as handle:  # type: ignore[operator]
            return _header(handle.readline(_LONGEST_LINE), None)
    except KeyError:
        raise UserError(f"{file} is no tuning log: such files end in {', '.join(_OPENERS)}") from None
    except ValueError as error:
        raise UserError(f"{file} is no tuning log: {error}") from None
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise UserError(f"{file} cannot be read: {shorten(str(error), 120)}") from error


def read_log(file: Path) -> KernelTable:
    """All records of one log; what cannot be read is skipped and named in `problems`."""
    table = KernelTable()
    for machine, record in _read_file(file, None, table.problems):
        table.add(record)
        if record.succeeded:
            table.machines.setdefault(record.kernel, set()).add(machine)
    return table


def find_records(target: Target, roots: Iterable[Path] = ()) -> KernelTable:
    """Records that serve `target`: its own first, then those of its descriptor's `compatible` list.

    A kernel's records all come from the first folder that knows the kernel, because times of different
    targets cannot be compared.

    Parameters
    ----------
    target
        The target.
    roots
        Folders of logs to look in before those that ship with ofa-tvm.
    """
    merged = KernelTable()
    known = [replace(Variant.of(target), target=name) for name in (target.name, *target.compatible)]
    names = dict.fromkeys([log_name(target), *(replace(v, emulated=False).log for v in known)])
    if target.kind == "arm":  # schedules that were tuned on instruction counts serve silicon, too
        names |= dict.fromkeys(replace(v, emulated=True).log for v in known)
    shipped = data_dir("tuning_logs")
    for name in names:
        for root in [*roots, shipped]:
            table = _shipped(root / name, name) if root == shipped else read_folder(root / name, name)
            merged.problems += table.problems
            for kernel, records in table.records.items():
                if kernel not in merged.records:
                    merged.records[kernel] = list(records)
                    merged.machines[kernel] = set(table.machines[kernel])
                    if root == shipped or name != log_name(target):
                        merged.foreign.add(kernel)
    return merged


class LogWriter:
    """Appends records to a target's folder; a context manager that holds a lock on its file.

    Two tuners at once write to two files of the same folder, which readers merge.

    Parameters
    ----------
    root
        Folder of logs; the target's own folder is made in it.
    target
        Names the folder.
    header
        Written to a file that is new.

    Raises
    ------
    UserError
        If the folder cannot be written.
    """

    def __init__(self, root: Path, target: Target, header: Header) -> None:
        self.folder = root / log_name(target)
        self._header = header
        self._file: LineFile | None = None

    def __enter__(self) -> LogWriter:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot write tuning logs to {self.folder}: {error.strerror}") from error
        for number in range(1, _MOST_FILES):
            path = self.folder / f"tuning{'' if number == 1 else f'-{number}'}.jsonl"
            file = LineFile(path, wait=False)
            try:
                file.__enter__()
            except FileBusy:
                continue
            if not _takes_records(path, self._header):
                file.close()
                continue
            self._file = file
            if not file.heal():
                file.append(self._header.to_line())
            return self
        raise UserError(f"{_MOST_FILES} tuners already write to {self.folder}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def append(self, record: Record) -> None:
        """Append one record and sync it to disk."""
        if self._file is None:
            raise RuntimeError("LogWriter is used as a context manager")
        self._file.append(record.to_line())
