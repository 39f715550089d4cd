"""ONNX's own backend tests: computed as the standard demands, or refused in words."""

from __future__ import annotations

import pytest
from node_cases import TABLE, answers, cases, table

from ofa_tvm.targets import get_target


@pytest.mark.slow
def test_cases_are_computed_or_refused_as_the_table_says() -> None:
    """The table may only shrink: what compiles now leaves it, and nothing may enter it."""
    chosen = cases()
    found = answers(get_target("x86"), chosen)
    listed = set(TABLE.read_text().splitlines())
    now = set(table(found, chosen).splitlines())
    worse = [f"{line}: {found[line.split(chr(9))[0]].reason[:200]}" for line in sorted(now - listed)]
    assert not worse, "\n".join(worse)
    assert not listed - now, (
        "better than the table says; write it anew with python tests/compiler/node_cases.py"
    )
