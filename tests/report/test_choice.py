"""Why a subnet was chosen, and where accuracy saturates: sentences that follow from the figures."""

from __future__ import annotations

import numpy as np
import pytest

from ofa_tvm.deploy import Manifest
from ofa_tvm.deploy.manifest import CandidateEntry, LatencyEntry, SearchEntry, TargetEntry
from ofa_tvm.report.choice import Flat, beyond, faster, flat_from, least_difference, reasons, saturation
from ofa_tvm.report.content import Deployed
from ofa_tvm.spaces import get_space

SPACE = get_space("ofa_digits")
ARCHS = SPACE.decode(SPACE.sample_genes(np.random.default_rng(0), 4))
TARGET = TargetEntry("x86", "x86", {}, 1)


def candidate(
    index: int, accuracy: float, measured: float, noise: float, within: bool, validated: float | None = None
) -> CandidateEntry:
    right = accuracy if validated is None else validated
    return CandidateEntry(ARCHS[index], 1, accuracy, right, measured, measured, noise, within)


def shipped(*candidates: CandidateEntry) -> Deployed:
    latency = LatencyEntry(0.088, 0.08, 0.084, "ms")
    manifest = Manifest(TARGET, "ofa_digits", ARCHS[0], latency, search=SearchEntry(3, candidates))
    return Deployed("deploy", manifest, SPACE, (), inside=False)


def test_saturation_is_said_with_what_to_do() -> None:
    front = np.array([[0.03, 0.97], [0.05, 0.995], [0.058, 1.0]])
    flat = flat_from(front, 0.2, least_difference(0.001, 300))
    assert flat == Flat(0.058, 1.0, pytest.approx(1 / 300))
    text = saturation(flat, shipped(), "ms", 300)
    assert "from 58 µs on" in text and "300 validation images" in text and "beyond, at 84 µs" in text
    assert beyond(flat, shipped())
    assert faster(flat, shipped()) == "ofa-tvm search --target x86 --latency 59.8us -o NEW"
    assert "beyond" not in saturation(Flat(0.09, 1.0, 0.003), shipped(), "ms", None)
    # A front that rises to the end of the space is flat nowhere.
    assert flat_from(front, 0.06, 0.001) is None and flat_from(np.empty((0, 2)), 1.0, 0.1) is None


def test_reasons_are_those_of_the_figures() -> None:
    best = candidate(0, 0.997, 0.084, 0.001, within=True)
    after = candidate(1, 0.99, 0.08, 0.001, within=True)
    over, noisy = (
        candidate(2, 0.999, 0.09, 0.001, within=False),
        candidate(2, 0.999, 0.0875, 0.001, within=False),
    )
    first, second, third = reasons(shipped(best, after, over), 0.001)
    assert "Of 3 subnets with a measured cost, 2 kept the budget of 88 µs" in first
    assert "leaves 3 µs" in first and "99.70 %" in first and "is the highest" in first
    assert second == "The next best within the budget took 80 µs and is 0.70 points less accurate."
    assert third.endswith("it took 90 µs, 2 µs more than the budget.")
    assert "noise margin of 1, its 87.5 µs may" in reasons(shipped(best, noisy), 0.001)[-1]
    close = reasons(shipped(best, after), 0.01)[1]
    assert close.endswith("cannot tell; it is 5 % faster; it got fewer of these images right, 99.00 %.")
    elsewhere = candidate(2, 0.999, 0.05, 0.001, within=False)
    assert "too much on another target" in reasons(shipped(best, elsewhere), 0.001)[-1]


def test_a_faster_one_of_equals_is_said_to_be_that() -> None:
    chosen = candidate(0, 0.996, 0.07, 0.001, within=True, validated=0.9967)
    best = candidate(1, 0.997, 0.08, 0.001, within=True, validated=0.9967)
    first, *rest = reasons(shipped(best, chosen), 1 / 300)
    assert "99.60 % by the predictor" in first and "is less than one validation image below" in first
    assert "the highest among those, 99.70 %" in first and "the other took 80 µs." in first
    assert not rest, "the other was named"


def test_without_the_chosen_one_among_the_candidates_there_are_no_reasons() -> None:
    assert reasons(shipped(candidate(1, 0.997, 0.087, 0.0, within=True)), 0.001) == ()
