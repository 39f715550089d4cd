from __future__ import annotations

import pytest

from ofa_tvm.errors import UsageError
from ofa_tvm.search.budget import Budget, parse_budget


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("25ms", Budget(25.0)),
        ("25 ms", Budget(25.0)),
        ("0.8s", Budget(800.0)),
        ("800us", Budget(0.8)),
        (".5MS", Budget(0.5)),
        ("1e3us", Budget(1.0)),
        ("120Minstr", Budget(120.0, "Minstr")),
        ("120 minstr", Budget(120.0, "Minstr")),
    ],
)
def test_budgets_with_units(text: str, budget: Budget) -> None:
    parsed = parse_budget(text)
    assert parsed.unit == budget.unit
    assert parsed.value == pytest.approx(budget.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0", "above 0"),
        ("-5", "above 0"),
        ("0ms", "above 0"),
        ("-5ms", "above 0"),
        ("25", "lacks its unit; type 25ms"),
        ("fast", "not a number"),
        ("", "not a number"),
        ("ms", "not a number"),
        ("nan ms", "not a number"),
        ("1e999ms", "above 0"),
        ("25 parsecs", "unknown unit 'parsecs'"),
        ("25ms30", "not a number"),
    ],
)
def test_bad_budgets(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_budget(text)
