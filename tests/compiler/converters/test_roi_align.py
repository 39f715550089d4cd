"""Reading images at computed places."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from node_models import Case, assert_right, merged

import ofa_tvm
from ofa_tvm.errors import UserError

RNG = np.random.default_rng(0)
OPERANDS = [
    RNG.standard_normal((1, 2, 10, 10)).astype(np.float32),
    np.array([[1, 1, 14, 12], [0, 3, 8, 18]], np.float32),
    np.zeros(2, np.int64),
]
GRID = {"output_height": 3, "output_width": 2}


@pytest.mark.slow
def test_regions_at_every_scale(tmp_path: Path) -> None:
    assert_right(
        [
            Case(
                "RoiAlign",
                OPERANDS,
                attributes={
                    **GRID,
                    "spatial_scale": scale,
                    "sampling_ratio": ratio,
                    "coordinate_transformation_mode": transformation,
                },
            )
            for transformation in ("half_pixel", "output_half_pixel")
            for scale, ratio in ((0.5, 2), (1.0, 0))
        ],
        tmp_path,
    )


def test_maxima_of_regions_are_refused(tmp_path: Path) -> None:
    case = Case("RoiAlign", OPERANDS, attributes={**GRID, "mode": "max"})
    with pytest.raises(UserError, match=r"RoiAlign \(node 'case0'\).*use mode='avg'"):
        ofa_tvm.compile(merged([case], 18), ofa_tvm.get_target("x86"), tmp_path / "m.so")
