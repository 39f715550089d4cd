"""Packing a tuning log for shipping: the best schedules of each kernel, compressed.

`python -m ofa_tvm.logs.pack tuning_logs/znver5 out/tuning.jsonl.xz`
"""

from __future__ import annotations

import lzma
import sys
from dataclasses import replace
from pathlib import Path

from ofa_tvm.errors import UsageError, UserError
from ofa_tvm.files import write_atomic
from ofa_tvm.logs.log import read_folder
from ofa_tvm.logs.record import VERSION, Header


def pack(folder: Path, path: Path, *, best: int = 1) -> int:
    """Write the `best` fastest records of every kernel of a target's folder to one `.jsonl.xz`.

    The header is that of the folder's first log. Returns the number of kernels.

    Raises
    ------
    UsageError
        If the folder has no log.
    UserError
        If a part of a log cannot be read, since what ships must be whole, or `path` cannot be written.
    """
    logs = sorted(folder.glob("*.jsonl"))
    if not logs:
        raise UsageError(f"there is no tuning log in {folder}")
    try:
        with logs[0].open(encoding="utf-8", errors="replace") as handle:
            header = Header.from_line(handle.readline())
    except ValueError as error:
        raise UserError(f"{logs[0]}: {error}; mend or remove it before packing") from None
    table = read_folder(folder, header.target)
    if table.problems:
        raise UserError(f"{table.problems[0]}; mend or remove it before packing")
    lines = [replace(header, version=VERSION).to_line()]
    for kernel in sorted(table.records):
        lines += [record.to_line() for record in table.records[kernel][:best]]
    write_atomic(path, lzma.compress("\n".join([*lines, ""]).encode(), preset=9 | lzma.PRESET_EXTREME))
    return len(table.records)


if __name__ == "__main__":
    try:
        count = pack(Path(sys.argv[1]), Path(sys.argv[2]))
    except IndexError:
        sys.exit("usage: python -m ofa_tvm.logs.pack FOLDER FILE.jsonl.xz")
    except UserError as error:
        sys.exit(f"error: {error}")
    sys.stdout.write(f"{count} kernels\n")
