"""ONNX's own backend tests: computed as the standard demands, or refused in words."""

from __future__ import annotations

import pytest
from node_cases import TABLE, answers, cases, share

from ofa_tvm.targets import get_target

_PARTS = 10  # of the cases, one of which is tried here; python tests/compiler/node_cases.py tries all

_ORDER = ["computed", "parameters", "constants", "refused", "wrong"]


@pytest.mark.slow
def test_no_case_fares_worse_than_the_table_says(capfd: pytest.CaptureFixture[str]) -> None:
    """The table may only shrink: nothing may enter it."""
    chosen = share(cases(), _PARTS)
    assert len(chosen) > 150
    found = answers(get_target("x86"), chosen)
    listed = dict(line.split("\t")[:2] for line in TABLE.read_text().splitlines())
    worse = [
        f"{name}: {answer.status}, not {listed.get(name, 'computed')}: {answer.reason[:200]}"
        for name, answer in sorted(found.items())
        if _ORDER.index(answer.status) > _ORDER.index(listed.get(name, "computed"))
    ]
    assert not worse, "\n".join(worse)
    for name, answer in found.items():
        if answer.status == "refused":
            assert len(answer.reason) < 400 and "\n" not in answer.reason, f"{name}: {answer.reason}"
    assert not capfd.readouterr().out, "what TVM prints would spoil --json"
