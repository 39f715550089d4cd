"""How wide intervals are made."""

from __future__ import annotations

import numpy as np
import pytest

from ofa_tvm.estimators.scales import _inflation


@pytest.mark.parametrize("spread", [1.0, 3.0])
def test_many_residuals_say_how_wide_an_interval_has_to_be(spread: float) -> None:
    """95 % of normal deviates lie within 1.96 of their standard deviation."""
    residuals = spread * np.random.default_rng(0).standard_normal(20_000)
    assert _inflation(residuals, 5) == pytest.approx(spread, rel=0.05)


def test_few_residuals_widen_for_the_scales_that_were_learned_from_them() -> None:
    small = 1e-3 * np.random.default_rng(0).standard_normal(10)  # they fit as well as can be
    factors = [_inflation(small, scales) for scales in (1, 4, 7, 9)]
    np.testing.assert_allclose(factors, np.sqrt([10 / 9, 10 / 6, 10 / 3, 10 / 2.5]))
