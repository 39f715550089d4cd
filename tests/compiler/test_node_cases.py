"""ONNX's own backend tests: computed as the standard demands, or refused in words."""

from __future__ import annotations

import pytest
from node_cases import TABLE, answers, cases, share, table

from ofa_tvm.targets import get_target

_PARTS = 5  # of the cases, one is tried here; python tests/compiler/node_cases.py tries all


@pytest.mark.slow
def test_cases_are_computed_or_refused_as_the_table_says(capfd: pytest.CaptureFixture[str]) -> None:
    """The table may only shrink: what compiles now leaves it, and nothing may enter it."""
    chosen = share(cases(), _PARTS)
    assert len(chosen) > 350
    found = answers(get_target("x86"), chosen)
    names = {case.name for case in chosen}
    listed = {line for line in TABLE.read_text().splitlines() if line.split("\t")[0] in names}
    now = set(table(found, chosen).splitlines())
    worse = [f"{line}: {found[line.split(chr(9))[0]].reason[:200]}" for line in sorted(now - listed)]
    assert not worse, "\n".join(worse)
    assert not listed - now, (
        "better than the table says; write it anew with python tests/compiler/node_cases.py"
    )
    for name, answer in found.items():
        if answer.status == "refused":
            assert len(answer.reason) < 400 and "\n" not in answer.reason, f"{name}: {answer.reason}"
    assert not capfd.readouterr().out, "what TVM prints would spoil --json"
