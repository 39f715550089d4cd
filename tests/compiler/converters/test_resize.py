"""Resizing in every mode, where the output's side is a multiple of the input's and where it is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from node_models import Case, assert_right, by_reference, merged

import ofa_tvm
from ofa_tvm.errors import UserError

TRANSFORMATIONS = ["half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners", "half_pixel_symmetric"]
NEAREST = ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]


def values(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def to_sizes(x: np.ndarray, sizes: list[int], **attributes: object) -> Case:
    whole = np.array([*x.shape[: x.ndim - len(sizes)], *sizes], np.int64)
    return Case("Resize", [x, None, None, whole], [3], attributes=dict(attributes))


def by_scales(x: np.ndarray, scales: list[float], **attributes: object) -> Case:
    whole = np.array([1.0] * (x.ndim - len(scales)) + scales, np.float32)
    return Case("Resize", [x, None, whole], [2], attributes=dict(attributes))


def test_nearest(tmp_path: Path) -> None:
    assert_right(
        [
            case
            for transformation in TRANSFORMATIONS
            for mode in NEAREST
            for case in [
                to_sizes(
                    values(1, 2, 7, 5),
                    [10, 8],
                    coordinate_transformation_mode=transformation,
                    nearest_mode=mode,
                ),
                to_sizes(
                    values(1, 3, 9), [4], coordinate_transformation_mode=transformation, nearest_mode=mode
                ),
            ]
        ],
        tmp_path,
        opset=19,
    )


def test_linear(tmp_path: Path) -> None:
    cases = []
    for transformation in TRANSFORMATIONS:
        common = {"mode": "linear", "coordinate_transformation_mode": transformation}
        cases += [
            to_sizes(values(1, 2, 7, 5), [11, 3], **common),
            to_sizes(values(1, 2, 4, 4), [1, 1], **common),
            to_sizes(values(2, 1, 3, 4, 5), [4, 6, 5], **common),
            to_sizes(values(1, 2, 6), [9], **common),
        ]
        if transformation != "align_corners":  # there ONNX and ONNX Runtime differ: see below
            cases.append(by_scales(values(1, 2, 7, 5), [1.5, 0.6], **common))
    assert_right(cases, tmp_path, opset=19)


def test_cubic(tmp_path: Path) -> None:
    cases = [
        to_sizes(
            values(1, 2, 7, 6),
            [12, 4],
            mode="cubic",
            coordinate_transformation_mode=transformation,
            cubic_coeff_a=a,
            exclude_outside=exclude,
        )
        for transformation in TRANSFORMATIONS
        for a in (-0.75, -0.5)
        for exclude in (0, 1)
    ]
    assert_right(cases, tmp_path, opset=19)


def test_antialias_axes_and_policies(tmp_path: Path) -> None:
    antialiased = [
        to_sizes(values(1, 2, 13, 9), sizes, mode=mode, antialias=1)
        for mode in ("linear", "cubic")
        for sizes in ([4, 5], [13, 2], [20, 4])
    ]
    x = values(2, 6, 4, 3)
    two = Case("Resize", [x, None, None, np.array([5, 9], np.int64)], [3], attributes={"axes": [3, 1]})
    policies = [
        Case(
            "Resize",
            [x, None, None, np.array([9, 7], np.int64)],
            [3],
            attributes={"axes": [2, 3], "keep_aspect_ratio_policy": policy},
        )
        for policy in ("not_larger", "not_smaller")
    ]
    assert_right([*antialiased, two, *policies], tmp_path)


def test_crop_and_resize(tmp_path: Path) -> None:
    roi = np.array([0, 0, 0.2, -0.1, 1, 1, 0.9, 1.2], np.float32)
    sizes = np.array([1, 2, 5, 8], np.int64)
    cases = [
        Case(
            "Resize",
            [values(1, 2, 7, 6), roi, None, sizes],
            [1, 3],
            attributes={
                "mode": mode,
                "coordinate_transformation_mode": "tf_crop_and_resize",
                "extrapolation_value": -2.0,
            },
        )
        for mode in ("nearest", "linear")
    ]
    assert_right(cases, tmp_path)


def test_align_corners_with_a_scale_that_does_not_fit_follows_onnx(tmp_path: Path) -> None:
    """The length is input x scale, not rounded, as ONNX's own node tests have it (ONNX Runtime rounds)."""
    cases = [
        by_scales(values(1, 1, 2, 4), [0.6, 0.6], mode=mode, coordinate_transformation_mode="align_corners")
        for mode in ("linear", "cubic")
    ]
    assert_right(cases, tmp_path, reference=by_reference)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_upsample(mode: str, tmp_path: Path) -> None:
    scales = np.array([1, 1, 2, 3], np.float32)
    assert_right([Case("Upsample", [values(1, 2, 3, 4), scales], [1], 1, {"mode": mode})], tmp_path, opset=9)


def test_integers_keep_their_type_when_nearest(tmp_path: Path) -> None:
    assert_right([to_sizes(np.arange(12, dtype=np.uint8).reshape(1, 1, 3, 4), [5, 7])], tmp_path)


def test_sizes_that_the_network_computes_are_refused_by_name(tmp_path: Path) -> None:
    case = Case("Resize", [values(1, 1, 3, 4), None, None, np.array([1, 1, 5, 7], np.int64)])

    model = merged([case], 18)
    model.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("c0_o0", 1, [1, 1, 5, 7]))
    with pytest.raises(UserError, match=r"operator Resize \(node 'case0'\).* sizes must be constant"):
        ofa_tvm.compile(model, ofa_tvm.get_target("x86"), tmp_path / "m.so")
