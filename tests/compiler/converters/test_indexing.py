"""Parts, gathering, padding and sorting: from either end, in either direction, in every version."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from node_models import Array, Case, assert_right, by_reference, merged

import ofa_tvm
from ofa_tvm.errors import UserError

LARGE = np.iinfo(np.int64).max


def values(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def constants(x: Array, *rest: object, kind: str, **attributes: object) -> Case:
    given = [None if r is None else np.array(r, np.int64) for r in rest]
    return Case(kind, [x, *given], list(range(1, 1 + len(rest))), attributes=dict(attributes))


def test_slices(tmp_path: Path) -> None:
    x = values(5, 6, 7)
    assert_right(
        [
            constants(x, [1], [4], kind="Slice"),
            constants(x, [1, -3], [LARGE, -1], [2, 0], kind="Slice"),
            constants(x, [-1, 5], [-LARGE, 1], [0, 2], [-1, -2], kind="Slice"),
            constants(x, [100, 0], [0, 100], [1, -1], [-3, 4], kind="Slice"),
        ],
        tmp_path,
    )
    old = Case("Slice", [x], attributes={"starts": [1, -4], "ends": [4, -1], "axes": [0, 2]})
    assert_right([old], tmp_path, opset=9)


def test_splits(tmp_path: Path) -> None:
    x = values(7, 6)
    split = [np.array(v, np.int64) for v in ([2, 4, 1], [3, 3])]
    assert_right(
        [
            Case("Split", [x, split[0]], [1], 3),
            Case("Split", [x, split[1]], [1], 2, {"axis": -1}),
            Case("Split", [x], (), 3, {"num_outputs": 3}),
            Case("Split", [x], (), 4, {"num_outputs": 4}),
        ],
        tmp_path,
    )
    assert_right(
        [Case("Split", [x], (), 2, {"split": [1, 6]}), Case("Split", [x], (), 3, {"axis": 1})], tmp_path, 11
    )


def test_gathering_from_either_end(tmp_path: Path) -> None:
    x = values(4, 5, 3)
    indices = np.array([[0, -1], [3, -4]])
    nd = np.array([[[0, -1], [-1, 2]], [[1, 1], [3, 4]], [[0, 0], [-4, -5]], [[2, 2], [1, -1]]])
    assert_right(
        [
            Case("Gather", [x, indices], fixed, attributes={"axis": axis})
            for fixed in ((), (1,))
            for axis in (0, -2)
        ]
        + [
            Case("GatherElements", [x, np.array([[[-1, 0, 1]], [[2, -2, 0]]])], attributes={"axis": -2}),
            Case("GatherND", [x, nd]),
            Case("GatherND", [x, nd[:, :, 1:]], attributes={"batch_dims": 1}),
            Case("Compress", [x, np.array([True, False, True])], [1], attributes={"axis": 1}),
            Case("Compress", [x, np.array([True, False, True])], [1]),
        ],
        tmp_path,
    )


def test_padding(tmp_path: Path) -> None:
    x = values(2, 5, 6)
    pads = [np.array(p, np.int64) for p in ([0, 2, 1, 1, 0, 3], [1, 2, -2, 0, -1, 3])]
    assert_right(
        [
            Case("Pad", [x, p, v], [1, 2], attributes={"mode": mode})
            for mode in ("constant", "edge", "reflect", "wrap")
            for p in pads
            for v in [np.array(1.5, np.float32) if mode == "constant" else None]
            if mode in ("constant", "edge") or p is pads[0]
        ]
        + [Case("Pad", [x, np.array([2, 1]), None, np.array([-1])], [1, 3], attributes={"mode": "reflect"})]
        + [Case("Pad", [np.arange(6).reshape(2, 3), np.array([1, 0, 0, 2]), np.array(7)], [1, 2])],
        tmp_path,
        opset=19,
    )


def test_the_largest(tmp_path: Path) -> None:
    x = np.random.default_rng(0).permutation(60).reshape(3, 4, 5).astype(np.float32)
    k = np.array([2], np.int64)
    assert_right(
        [
            Case("TopK", [a, k], [1], 2, {"axis": axis, "largest": largest})
            for a in (x, x.astype(np.int64))
            for axis in (0, -2)
            for largest in (0, 1)
        ],
        tmp_path,
    )
    assert_right([Case("TopK", [x, k], [1], 2, {"axis": 0})], tmp_path, opset=10)
    assert_right([Case("TopK", [x], (), 2, {"axis": 1, "k": 3})], tmp_path, opset=9, reference=_sorted)


def _sorted(case: Case, opset: int) -> list[Array]:
    x, axis, k = case.fed()[0], case.attributes["axis"], case.attributes["k"]
    order = np.take(np.argsort(-x, axis), np.arange(k), axis)
    return [np.take_along_axis(x, order, axis), order]


def test_one_hot(tmp_path: Path) -> None:
    indices = np.array([[1, -1, 7], [0, 3, -5]])
    v = np.array([2.0, 5.0], np.float32)
    assert_right(
        [
            Case("OneHot", [i, depth, v], [1, 2], attributes={"axis": axis})
            for axis in (-1, 0, 1)
            for i, depth in [
                (indices, np.array(4)),
                (indices.astype(np.float32), np.array([4.0], np.float32)),
            ]
        ],
        tmp_path,
        reference=_one_hot,
    )


def _one_hot(case: Case, opset: int) -> list[Array]:
    indices, hot = case.fed()[0].astype(np.int64), np.full((2, 3, 4), 2, np.float32)
    for at in np.ndindex(2, 3):
        if -4 <= indices[at] < 4:
            hot[at][indices[at]] = 5
    return [np.moveaxis(hot, -1, case.attributes["axis"])]


def test_blocks_sequences_and_centres(tmp_path: Path) -> None:
    assert_right(
        [
            Case("SpaceToDepth", [values(2, 3, 4, 6)], attributes={"blocksize": 2}),
            Case("DepthToSpace", [values(2, 8, 2, 3)], attributes={"blocksize": 2, "mode": "DCR"}),
            Case("DepthToSpace", [values(2, 8, 2, 3)], attributes={"blocksize": 2, "mode": "CRD"}),
            Case("ReverseSequence", [values(4, 3, 2), np.array([1, 4, 2])], [1]),
            Case(
                "ReverseSequence",
                [values(3, 4), np.array([1, 4, 2])],
                [1],
                attributes={"time_axis": 1, "batch_axis": 0},
            ),
        ],
        tmp_path,
    )
    centred = Case("CenterCropPad", [values(5, 4, 3), np.array([4, 7, 3])], [1])
    assert_right([centred], tmp_path, reference=by_reference)


def test_an_index_outside_is_refused(tmp_path: Path) -> None:
    case = Case("Gather", [values(4, 5), np.array([4])], [1])
    with pytest.raises(UserError, match=r"Gather \(node 'case0'\).*outside its axis of 4"):
        ofa_tvm.compile(merged([case], 18), ofa_tvm.get_target("x86"), tmp_path / "m.so")


@pytest.mark.parametrize("far", [10**12, -(10**12), 4, -5])
def test_a_computed_index_outside_reads_and_writes_nothing_there(tmp_path: Path, far: int) -> None:
    """ONNX Runtime stops; what a kernel makes of it is NaN, and its neighbours are right."""
    x, at = values(4, 5), np.array([2, far, -3])
    points = np.array([[0, 3], [far, 0], [1, -1]])
    grid = np.repeat(at[:, None], 5, 1)
    writes, rows = values(3, seed=1), values(3, 5, seed=2)
    cases = [
        Case("Gather", [x, at]),
        Case("GatherElements", [x, grid]),
        Case("GatherND", [x, points]),
        Case("ScatterElements", [x, grid, rows], attributes={"axis": 0}),
        Case("ScatterND", [x, points, writes], attributes={"reduction": "add"}),
    ]
    ofa_tvm.compile(merged(cases, 18), ofa_tvm.get_target("x86"), tmp_path / "m.so")
    given = [array for case in cases for array in case.fed()]
    taken, elements, chosen, rows_written, written = ofa_tvm.load(tmp_path / "m.so")(*given)
    for got in (taken, elements):
        assert np.isnan(got[1]).all()
        assert np.array_equal(got[[0, 2]], x[[2, 1]])
    assert np.isnan(chosen[1])
    assert np.array_equal(chosen[[0, 2]], x[[0, 1], [3, 4]])
    expected = x.copy()
    expected[[2, 1]] = rows[[0, 2]]
    lost = np.isnan(rows_written).all(1)
    assert lost.sum() == 1
    assert np.array_equal(rows_written[~lost], expected[~lost])
    expected = x.copy()
    expected[0, 3] += writes[0]
    expected[1, 4] += writes[2]
    nan = np.isnan(written)
    assert nan.sum() == 1
    assert np.array_equal(written[~nan], expected[~nan])


def test_a_computed_index_outside_of_integers_reads_the_nearest(tmp_path: Path) -> None:
    case = Case("Gather", [np.arange(4), np.array([1, 10**12, -(10**12)])])
    ofa_tvm.compile(merged([case], 18), ofa_tvm.get_target("x86"), tmp_path / "m.so")
    assert ofa_tvm.load(tmp_path / "m.so")(*case.fed()).tolist() == [1, 3, 0]
