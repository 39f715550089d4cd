"""Mutated files of every format that we read, for half an hour: `python benchmarks/fuzz.py`.

The same as tests/fuzz in CI, for longer: what is read has to be right or refused in a sentence under 400
characters; another exception, a dead process, 1 GB or 10 s is a finding. Prints a line a format and saves
the counts with machine, versions and date to benchmarks/results/fuzz.json.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path

from provenance import save

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests" / "fuzz"), str(ROOT / "tests")]

from fuzz_formats import FORMATS  # noqa: E402
from test_fuzz import Result, fuzz  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("formats", nargs="*", choices=[[], *FORMATS], metavar="FORMAT", help="default: all")
    parser.add_argument("--seconds", type=float, default=1800.0, help="for all formats together")
    parser.add_argument("--seed", default="0")
    parser.add_argument("--keep", type=Path, help="a folder for the files that were found")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "fuzz.json")
    options = parser.parse_args()

    def done(name: str, result: Result) -> None:
        print(f"{name}: {result}", flush=True)

    names = options.formats or list(FORMATS)
    with tempfile.TemporaryDirectory(prefix="ofa-tvm-fuzz-") as folder:
        seconds = options.seconds / len(names)
        results = fuzz(names, seconds, options.seed, Path(folder), options.keep, done)
    total = sum((result.counts for result in results.values()), Counter[str]())
    formats = {name: {**result.counts, "findings": list(result.findings)} for name, result in results.items()}
    content = {"seconds": options.seconds, "seed": options.seed, "cases": total.total(), **total}
    save(options.json, {**content, "formats": formats})
    print(f"{total.total()} cases: {Result(total)}")
    return int(total["finding"] > 0)


if __name__ == "__main__":
    sys.exit(main())
