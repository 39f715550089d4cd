"""ONNX's own backend tests: computed as the standard demands, or refused in words."""

from __future__ import annotations

import pytest
from node_cases import PAGE, TABLE, answers, cases, documented, share

from ofa_tvm.targets import get_target

_PARTS = 6  # of the cases, one of which is tried here; python tests/compiler/node_cases.py tries all


@pytest.mark.slow
def test_every_case_fares_as_the_table_says(capfd: pytest.CaptureFixture[str]) -> None:
    """The table may only shrink: nothing may enter it, and what is computed now must leave it."""
    chosen = share(cases(), _PARTS)
    assert len(chosen) > 300
    found = answers(get_target("x86"), chosen)
    listed = dict(line.split("\t")[:2] for line in TABLE.read_text().splitlines())
    other = [
        f"{name}: {answer.status}, not {listed.get(name, 'computed')}: {answer.reason[:200]}"
        for name, answer in sorted(found.items())
        if answer.status != listed.get(name, "computed")
    ]
    assert not other, "\n".join(other)
    for name, answer in found.items():
        if answer.status == "refused":
            assert len(answer.reason) < 400 and "\n" not in answer.reason, f"{name}: {answer.reason}"
    assert not capfd.readouterr().out, "what TVM prints would spoil --json"


def test_the_table_lists_no_wrong_case_and_the_documentation_its_refused_operators() -> None:
    listing, everything = TABLE.read_text(), cases()
    assert {line.split("\t")[1] for line in listing.splitlines()} <= {"parameters", "constants", "refused"}
    assert {line.split("\t")[0] for line in listing.splitlines()} <= {case.name for case in everything}
    assert PAGE.read_text() == documented(PAGE.read_text(), listing, everything)
