"""How wide intervals are made."""

from __future__ import annotations

import numpy as np
import pytest

from ofa_tvm.estimators.scales import _STUDENT_DOF, _inflation, _Search


@pytest.mark.parametrize("spread", [1.0, 3.0])
def test_many_residuals_say_how_wide_an_interval_has_to_be(spread: float) -> None:
    """95 % of normal deviates lie within 1.96 of their standard deviation."""
    residuals = spread * np.random.default_rng(0).standard_normal(20_000)
    assert _inflation(residuals, 5) == pytest.approx(spread, rel=0.05)


def test_few_residuals_widen_for_the_scales_that_were_learned_from_them() -> None:
    small = 1e-3 * np.random.default_rng(0).standard_normal(10)  # they fit as well as can be
    factors = [_inflation(small, scales) for scales in (1, 4, 7, 9)]
    np.testing.assert_allclose(factors, np.sqrt([10 / 9, 10 / 6, 10 / 3, 10 / 2.5]))


def test_a_row_counts_for_less_the_farther_it_is_beyond_its_deviation() -> None:
    """Student's t: one as far off as its deviation keeps its noise, one on the mean has a little less."""
    given, nothing = np.array([1.0, 1.0, 2.0, 1.0]), np.zeros(1)
    search = _Search(None, [], np.zeros(4), nothing, given, nothing, robust=True)  # type: ignore[arg-type]
    noise = search._reweighted(np.array([0.0, 3.0, 3.0, 30.0]), np.full(4, 9.0))
    least = _STUDENT_DOF / (_STUDENT_DOF + 1)
    np.testing.assert_allclose(noise, [least, 1.0, 2.0, (_STUDENT_DOF + 100) / (_STUDENT_DOF + 1)])
