"""Every format that we read, mutated: the right answer, or a sentence under 400 characters.

Never another exception, a dead process, more than 1 GB or 10 s. By default it takes a minute or two;
`OFA_TVM_FUZZ_SECONDS` (for all formats together), `OFA_TVM_FUZZ_SEED` and `OFA_TVM_FUZZ_KEEP` (a folder for
the files that were found) change that. `python benchmarks/fuzz.py` is a campaign by hand, with its counts.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fuzz_formats import FORMATS

_DEFAULT_S = 45.0  # and what the process and its formats take to start
_HUNG_S = 120.0  # a case that computes for 10 s is a finding already
_START_S = 300.0
_HERE = Path(__file__).resolve().parent


@dataclass
class Result:
    """What became of the mutated files of a format."""

    counts: Counter[str] = field(default_factory=Counter)
    findings: dict[str, list[int]] = field(default_factory=dict)

    def __str__(self) -> str:
        told = " ".join(f"{kind} {count}" for kind, count in sorted(self.counts.items()))
        cases = "".join(f"\n    {len(c)} x {text} (case {c[0]})" for text, c in self.findings.items())
        return told + cases


class _Worker:
    """A process of `fuzz_worker.py`."""

    def __init__(self, folder: Path, seed: str, seconds: float, first: int, names: Sequence[str]) -> None:
        paths = [str(_HERE), str(_HERE.parent), str(_HERE.parents[1])]
        self._log = (folder / "log").open("wb+")
        self._pending = b""
        self._process = subprocess.Popen(
            [sys.executable, _HERE / "fuzz_worker.py", folder, seed, str(seconds), str(first), *names],
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        )

    def event(self, limit_s: float) -> dict[str, Any] | None:
        """The next line, None at its end. Raises TimeoutError."""
        assert self._process.stdout is not None
        end = time.monotonic() + limit_s
        while b"\n" not in self._pending:
            if not select.select([self._process.stdout], [], [], max(0.0, end - time.monotonic()))[0]:
                raise TimeoutError
            chunk = os.read(self._process.stdout.fileno(), 1 << 16)
            if not chunk:
                return None
            self._pending += chunk
        line, _, self._pending = self._pending.partition(b"\n")
        return dict(json.loads(line))

    def death(self) -> str:
        """How the process ended, and what it said last; "" if it was done."""
        code = self._process.wait()
        self._log.seek(0)
        last = self._log.read().decode(errors="replace").strip().splitlines()[-1:]
        reason = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return f"died: {reason} {' '.join(last)[-200:]}" if code else ""

    def stop(self) -> None:
        """End it, if it has not ended."""
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._log.close()


def fuzz(
    names: Sequence[str],
    seconds: float,
    seed: str,
    folder: Path,
    keep: Path | None = None,
    done: Callable[[str, Result], None] = lambda name, result: None,
) -> dict[str, Result]:
    """Mutate and read the files of each format for so long; a process that dies is followed by another."""
    results = {name: Result() for name in names}
    left, first, spent = list(names), 0, 0.0
    while left:
        worker = _Worker(folder, seed, max(seconds - spent, 0.0), first, left)
        case, limit_s, start, death = -1, _START_S, time.monotonic(), ""

        def found(name: str, text: str, case: int) -> None:
            result = results[name]
            result.counts["finding"] += 1
            result.findings.setdefault(text, []).append(case)
            if keep is not None and len(result.findings[text]) == 1 and case >= 0:
                keep.mkdir(parents=True, exist_ok=True)
                own = folder / f"found-{case}"
                shutil.copy(own if own.exists() else folder / "current", keep / f"{name}-{seed}-{case}")

        try:
            while (event := worker.event(limit_s)) is not None:
                if "format" in event:
                    if event["format"] != left[0]:
                        done(left[0], results[left.pop(0)])
                        spent = 0.0
                    case, limit_s = -1, _START_S
                elif "ready" in event:
                    start, limit_s = time.monotonic(), _HUNG_S
                elif "case" in event:
                    case = event["case"]
                elif "kind" in event:
                    results[left[0]].counts[event["kind"]] += 1
                else:
                    found(left[0], event["finding"], case)
            death = worker.death()
        except TimeoutError:
            death = f"no answer for {limit_s:g} s"
        finally:
            worker.stop()
        if not death:
            done(left[0], results[left[0]])
            return results
        found(left[0], death, case)
        spent += time.monotonic() - start
        first = case + 1
        if case < 0 or spent >= seconds:  # it cannot start, or its time is up
            done(left[0], results[left.pop(0)])
            first, spent = 0, 0.0
    return results


def _settings() -> tuple[float, str, Path | None]:
    keep = os.environ.get("OFA_TVM_FUZZ_KEEP")
    seconds = float(os.environ.get("OFA_TVM_FUZZ_SECONDS", _DEFAULT_S))
    return seconds, os.environ.get("OFA_TVM_FUZZ_SEED", "0"), Path(keep) if keep else None


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Result]:
    seconds, seed, keep = _settings()
    return fuzz(list(FORMATS), seconds / len(FORMATS), seed, tmp_path_factory.mktemp("fuzz"), keep)


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize("name", FORMATS)
def test_mutated_files_are_read_right_or_refused_in_a_sentence(name: str, results: dict[str, Result]) -> None:
    assert not results[name].findings, str(results[name])
    assert results[name].counts.total() > 0
