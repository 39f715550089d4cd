"""Are mistakes noticed? `python benchmarks/mutation.py` changes one place of the code and runs its tests.

In a copy of the checkout, one comparison, sign, minimum or maximum, or constant of a function is changed at
random; the fast tests of its package have to fail. Changes that mean the same are listed in EQUIVALENT with
their reasons. Prints what was not noticed and saves all with machine, versions and date to
benchmarks/results/mutation.json, after each; `-n` and `--minutes` bound it, and the same command goes on.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provenance import save

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
# What is changed -> the tests that have to notice.
TESTED = {
    "search": ["search"],
    "spaces": ["spaces"],
    "latency": ["latency", "estimators"],
    "estimators": ["estimators"],
    "logs": ["logs"],
    "measurement": ["measurement"],
    "compiler/driver.py": ["compiler/test_driver.py", "measurement/test_profile.py"],
    "supernet/elastic.py": ["supernet"],
    "supernet/layers.py": ["supernet"],
}
# (file, the line as it is, what it became): why no test can tell.
EQUIVALENT: dict[tuple[str, str, str], str] = {
    (
        "ofa_tvm/measurement/remote.py",
        "self._samples(1)  # the first run after loading takes memory",
        "self._samples(2)  # the first run after loading takes memory",
    ): "one call more warms up as well",
    (
        "ofa_tvm/search/pareto.py",
        'with threadpool_limits(limits=1, user_api="blas"):',
        'with threadpool_limits(limits=2, user_api="blas"):',
    ): "threads change the time, not the result",
    (
        "ofa_tvm/supernet/elastic.py",
        "if channels < bn.num_features:",
        "if (channels <= bn.num_features):",
    ): "the first n of n channels are all of them",
    (
        "ofa_tvm/logs/log.py",
        'if (len(line) == _LONGEST_LINE and line[-1:] != b"\\n") or total > _LARGEST_LOG:',
        'if (len(line) == _LONGEST_LINE and line[-1:] != b"\\n") or (total >= _LARGEST_LOG):',
    ): "nobody has a log of two gigabytes to the byte",
}

_COMPARISONS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
_SIGNS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult}
_NAMES = {"min": "max", "max": "min", "minimum": "maximum", "maximum": "minimum", "any": "all", "all": "any"}
_SHORTENED = re.compile(r"\b(shown|shorten)\(")
_LIMIT_S = 300.0


@dataclass(frozen=True)
class Mutation:
    """A file with one place changed."""

    file: str
    line: int
    before: str
    after: str
    source: str

    @property
    def key(self) -> tuple[str, str, str]:
        """What stays the same when lines are added above."""
        return self.file, self.before, self.after


def _of_an_error(mutation: Mutation) -> bool:
    """Whether it changes how much of a value an error shows, which no test needs to notice."""
    numbers = re.compile(r"\d+")
    same = numbers.sub("", mutation.before) == numbers.sub("", mutation.after)
    return same and bool(_SHORTENED.search(mutation.before))


def mutations(path: Path) -> Iterator[Mutation]:
    """All that a file allows; each leaves the other lines as they are."""
    text = path.read_text()
    lines = text.splitlines(keepends=True)
    functions = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef)]
    for node in (
        inner for function in functions for statement in function.body for inner in ast.walk(statement)
    ):
        new = _changed(node)
        if new is None or node.lineno != node.end_lineno:
            continue
        line = lines[node.lineno - 1]
        start, end = (
            len(line.encode()[:column].decode()) for column in (node.col_offset, node.end_col_offset)
        )
        after = line[:start] + new + line[end:]
        source = "".join([*lines[: node.lineno - 1], after, *lines[node.lineno :]])
        yield Mutation(str(path.relative_to(ROOT)), node.lineno, line.strip(), after.strip(), source)


def _changed(node: ast.AST) -> str | None:
    """An expression with another meaning, None where there is none to change."""
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        operator = _COMPARISONS[type(node.ops[0])]()
        return f"({ast.unparse(ast.Compare(node.left, [operator], node.comparators))})"
    if isinstance(node, ast.BinOp) and type(node.op) in _SIGNS and not isinstance(node.left, ast.Constant):
        return f"({ast.unparse(ast.BinOp(node.left, _SIGNS[type(node.op)](), node.right))})"
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return repr(node.value + 1 if isinstance(node.value, int) else 1.5 * node.value + 0.1)
    if isinstance(node, ast.Name) and node.id in _NAMES:
        return _NAMES[node.id]
    return None


def noticed(mutation: Mutation, tree: Path, tests: list[str]) -> bool:
    """Whether a test fails, or nothing ends, with the mutation in place."""
    path = tree / mutation.file
    whole = path.read_text()
    path.write_text(mutation.source)
    command = ["-m", "pytest", "-q", "-x", "-m", "not slow", *(f"tests/{name}" for name in tests)]
    environment = os.environ | {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            [sys.executable, *command], cwd=tree, env=environment, capture_output=True, timeout=_LIMIT_S
        )
        return done.returncode != 0
    except subprocess.TimeoutExpired:
        return True
    finally:
        path.write_text(whole)


def sample(n: int, seed: int) -> list[tuple[Mutation, list[str]]]:
    """Mutations at random, none twice, as many of each place; with the tests that have to notice each."""
    rng = random.Random(seed)
    candidates = {
        place: [
            m for path in _files(ROOT / "ofa_tvm" / place) for m in mutations(path) if not _of_an_error(m)
        ]
        for place in TESTED
    }
    drawn: dict[tuple[str, str, str], tuple[Mutation, list[str]]] = {}
    while len(drawn) < n:
        place = rng.choice(list(TESTED))
        mutation = rng.choice(candidates[place])
        if mutation.key not in EQUIVALENT:  # looked at here, so that an entry more leaves the others drawn
            drawn.setdefault(mutation.key, (mutation, TESTED[place]))
    return list(drawn.values())


def _files(root: Path) -> list[Path]:
    return [root] if root.is_file() else sorted(root.rglob("*.py"))


def _known(path: Path, seed: int, missed: bool) -> dict[tuple[str, str, str], bool]:
    """What an earlier run with this seed found out; with `missed` only what it noticed."""
    if not path.is_file():
        return {}
    content = json.loads(path.read_text())
    if content["seed"] != seed:
        return {}
    rows = {(row["file"], row["before"], row["after"]): row["noticed"] for row in content["rows"]}
    return {key: seen for key, seen in rows.items() if seen or not missed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=60, help="mutations")
    parser.add_argument("--minutes", type=float, default=60.0, help="none begins after this time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--missed", action="store_true", help="try those again that were not noticed")
    parser.add_argument("--json", type=Path, default=RESULTS / "mutation.json", help="a run goes on there")
    options = parser.parse_args()
    until = time.monotonic() + 60 * options.minutes
    known, rows = _known(options.json, options.seed, options.missed), []
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        tree = Path(folder) / "tree"
        ignored = shutil.ignore_patterns(".git", ".venv", "site", ".*_cache", "__pycache__")
        shutil.copytree(ROOT, tree, ignore=ignored)
        for mutation, tests in sample(options.n, options.seed):
            seen = known.get(mutation.key)
            if seen is None:
                if time.monotonic() > until:
                    continue
                seen = noticed(mutation, tree, tests)
                print(
                    f"{'noticed ' if seen else 'NOT SEEN'} {mutation.file}:{mutation.line}: {mutation.after}",
                    flush=True,
                )
            rows.append(
                {"file": mutation.file, "line": mutation.line, "before": mutation.before,
                 "after": mutation.after, "noticed": seen}
            )  # fmt: skip
            _save(options.json, options.seed, rows)
    print(f"{len(rows)} of {options.n} mutations, {_share(rows):.0%} noticed")


def _share(rows: list[dict[str, Any]]) -> float:
    return sum(row["noticed"] for row in rows) / max(len(rows), 1)


def _save(path: Path, seed: int, rows: list[dict[str, Any]]) -> None:
    content = {"seed": seed, "mutations": len(rows), "noticed": _share(rows), "rows": rows}
    save(path, content)


if __name__ == "__main__":
    main()
