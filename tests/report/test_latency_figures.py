"""Pictures of latency predictors: what they show is what they were given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ofa_tvm.report.latency_figures import error_by_group, learning_curve, predicted_against_measured
from ofa_tvm.report.style import LIGHT, NARROW_IN, WIDE_IN, Style, drawing


@pytest.mark.parametrize("width", [WIDE_IN, NARROW_IN])
def test_pictures_are_drawn_from_their_data(width: float, tmp_path: Path, rng: np.random.Generator) -> None:
    style = Style(LIGHT, width)
    measured = rng.uniform(10, 40, 200)
    predicted = measured * rng.normal(1, 0.03, 200)
    sides = rng.choice([160, 192, 224], 200)
    with drawing(LIGHT):
        scatter = predicted_against_measured(measured, predicted, style)
        points = scatter.axes[0].lines[-1]
        np.testing.assert_array_equal(points.get_xdata(), measured)
        np.testing.assert_array_equal(points.get_ydata(), predicted)
        groups = error_by_group(measured, predicted, {"resolution": sides, "blocks": sides // 32}, style)
        assert [ax.get_xlabel() for ax in groups.axes] == ["resolution", "blocks"]
        medians = [line.get_ydata()[0] for line in groups.axes[0].lines if line.get_marker() == "o"]
        expected = [np.median(100 * (predicted / measured - 1)[sides == r]) for r in (160, 192, 224)]
        np.testing.assert_allclose(medians, expected)
        curve = learning_curve([10, 100], {"a": [1.0, 0.1], "b": [2.0, 0.5]}, style, what="error, ms")
        assert [line.get_label() for line in curve.axes[0].lines] == ["a", "b"]
        for name, figure in {"scatter": scatter, "groups": groups, "curve": curve}.items():
            figure.savefig(tmp_path / f"{name}.png")
            assert (tmp_path / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
