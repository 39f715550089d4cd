"""docs/architecture.md says which package may import which; this holds the code to it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "ofa_tvm"
PAGE = ROOT / "docs" / "architecture.md"


def layers() -> list[list[str]]:
    """Names a row of the page's table, from the top."""
    table = PAGE.read_text().split("<!-- layers -->")[1].split("<!-- end of layers -->")[0]
    rows = [line.split("|")[1] for line in table.strip().splitlines()[2:]]
    return [re.findall(r"`(\w+)`", row) for row in rows]


def modules() -> dict[str, Path]:
    """Every module by its dotted name."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(path: Path, known: dict[str, Path], *, at_start: bool = False) -> Iterator[tuple[str, int]]:
    """Modules of ours that a file imports, and where; `at_start` leaves out what functions import."""
    tree = ast.parse(path.read_text())
    inside = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if at_start and id(node) in inside:
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "ofa_tvm":
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield (whole if whole in known else node.module), node.lineno
        elif isinstance(node, ast.Import):
            yield from (
                (alias.name, node.lineno) for alias in node.names if alias.name.startswith("ofa_tvm.")
            )


def test_imports_point_downwards_and_every_package_has_its_layer() -> None:
    known, rows = modules(), layers()
    level = {name: number for number, row in enumerate(rows) for name in row}
    ours = {name.split(".")[1] for name in known if "." in name} - {"__main__"}
    assert ours == level.keys()
    upward = [
        f"{path.relative_to(ROOT)}:{line} imports {target}"
        for name, path in known.items()
        if "." in name and name.split(".")[1] in level
        for target, line in imported(path, known)
        if "." in target
        and (there := target.split(".")[1]) in level
        and there != (here := name.split(".")[1])
        and level[there] <= level[here] < len(rows) - 1
    ]
    assert not upward, "\n".join(upward)


def test_no_two_modules_need_each_other_to_start() -> None:
    known = modules()
    packages = {name for name, path in known.items() if path.name == "__init__.py"}
    graph = {
        name: {target for target, _ in imported(path, known, at_start=True) if target not in packages}
        - {name}
        for name, path in known.items()
        if name not in packages
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError(f"a circle of imports: {' - '.join(error.args[1])}") from None


def test_test_files_have_names_of_their_own() -> None:
    """pytest collects neither of two that share one."""
    names = sorted(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert not {a for a, b in pairwise(names) if a == b}
