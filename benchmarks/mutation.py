"""Are mistakes noticed? `python benchmarks/mutation.py` changes one place of the code and runs its tests.

In a copy of the checkout, one comparison, sign, minimum or maximum, or constant of a function is changed at
random; the fast tests of its package have to fail. Changes that mean the same are listed in EQUIVALENT with
their reasons. Prints what was not noticed and saves all with machine, versions and date to
benchmarks/results/mutation.json; `-n` and `--minutes` bound it.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

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
EQUIVALENT: dict[tuple[str, str, str], str] = {}

_COMPARISONS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
_SIGNS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult}
_NAMES = {"min": "max", "max": "min", "minimum": "maximum", "maximum": "minimum", "any": "all", "all": "any"}
_LIMIT_S = 300.0


@dataclass(frozen=True)
class Mutation:
    """A file with one place changed."""

    file: str
    line: int
    before: str
    after: str
    source: str


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=60, help="mutations")
    parser.add_argument("--minutes", type=float, default=60.0, help="none begins after this time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=RESULTS / "mutation.json")
    options = parser.parse_args()
    until, rng = time.monotonic() + 60 * options.minutes, random.Random(options.seed)
    rows = []
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        tree = Path(folder) / "tree"
        ignored = shutil.ignore_patterns(".git", ".venv", "site", ".*_cache", "__pycache__")
        shutil.copytree(ROOT, tree, ignore=ignored)
        while len(rows) < options.n and time.monotonic() < until:
            place = rng.choice(list(TESTED))
            root = ROOT / "ofa_tvm" / place
            candidates = [
                m
                for path in ([root] if root.is_file() else sorted(root.rglob("*.py")))
                for m in mutations(path)
            ]
            mutation = rng.choice(candidates)
            if (mutation.file, mutation.before, mutation.after) in EQUIVALENT:
                continue
            seen = noticed(mutation, tree, TESTED[place])
            rows.append(
                {"file": mutation.file, "line": mutation.line, "before": mutation.before,
                 "after": mutation.after, "noticed": seen}
            )  # fmt: skip
            print(
                f"{'noticed ' if seen else 'NOT SEEN'} {mutation.file}:{mutation.line}: {mutation.after}",
                flush=True,
            )
    share = sum(row["noticed"] for row in rows) / max(len(rows), 1)
    print(f"{len(rows)} mutations, {share:.0%} noticed")
    save(options.json, {"mutations": len(rows), "noticed": share, "rows": rows})


if __name__ == "__main__":
    main()
