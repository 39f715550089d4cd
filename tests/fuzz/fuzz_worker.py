"""A process that reads mutated files and tells what became of each; should it die, that is a finding, too.

`python fuzz_worker.py FOLDER SEED SECONDS FIRST FORMAT...` goes through the formats, the first of them from
case FIRST on. It writes a JSON object a line, `case` before a file is read.
"""

from __future__ import annotations

import json
import os
import re
import resource
import sys
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

from fuzz_formats import FORMATS

from ofa_tvm.errors import UserError

LIMIT_S = 10.0
LIMIT_MB = 1000.0
LONGEST = 400


def say(**event: Any) -> None:
    """One line for the parent, past whatever libraries print."""
    _OUT.write(json.dumps(event) + "\n")
    _OUT.flush()


def most_memory_mb() -> float:
    """The most that this process ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def verdict(name: str, read: Any, content: bytes, folder: Path) -> tuple[str, str]:
    """What became of one file ("right", "refused", or "finding") and what is to be said of it."""
    before, start = most_memory_mb(), time.process_time()  # of this process: others may be at work, too
    try:
        read(content)
        outcome = ("right", "")
    except UserError as error:
        message = re.sub(rf"{re.escape(str(folder))}[^\s:,;]*", "FILE", str(error))
        outcome = ("refused", message)
        if len(message) > LONGEST or "\n" in message:
            outcome = (
                "finding",
                f"{len(message)} characters, {message.count(chr(10))} line ends: {message[:300]!r}",
            )
    except BaseException as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if "ofa_tvm" in f.filename]
        place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
        outcome = ("finding", f"{type(error).__name__} at {place}: {str(error)[:300]}")
    seconds, most = time.process_time() - start, most_memory_mb() - before
    if seconds > LIMIT_S:
        return "finding", f"took {seconds:.0f} s"
    if most > LIMIT_MB:
        return "finding", f"took {most:.0f} MB"
    return outcome


def fuzz(folder: Path, seed: str, name: str, first: int, seconds: float) -> None:
    """Read mutated files of a format for so long."""
    say(format=name)
    subject = FORMATS[name](folder)
    for content in subject.seeds:
        subject.read(content)  # as it is, it is right
    counts: Counter[str] = Counter()
    case, end = first, time.monotonic() + seconds
    say(ready=name)
    while time.monotonic() < end or not counts:
        rng = Random(f"{name} {seed} {case}")
        content = subject.mutate(rng, rng.choice(subject.seeds))
        (folder.parents[1] / "current").write_bytes(content)
        say(case=case)
        kind, text = verdict(name, subject.read, content, folder)
        counts[kind] += 1
        if kind == "finding":
            (folder.parents[1] / f"found-{case}").write_bytes(content)
            say(finding=text)
        else:
            say(kind=kind)
        case += 1


def main(folder: Path, seed: str, seconds: float, first: int, names: list[str]) -> None:
    """All formats, one after the other."""
    for name in names:
        own = folder / name
        own.mkdir(exist_ok=True)
        with TemporaryDirectory(dir=own) as inner:
            fuzz(Path(inner), seed, name, first, seconds)
        first = 0


if __name__ == "__main__":
    _OUT = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    main(Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]), int(sys.argv[4]), sys.argv[5:])
