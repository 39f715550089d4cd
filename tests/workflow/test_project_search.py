"""What searches share: predictors of a project, accuracies that are measured, and what is said without."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from demo_project import DemoProject

from ofa_tvm.accuracy.correction import learn_error
from ofa_tvm.accuracy.predictor import AccuracyPredictor
from ofa_tvm.errors import UsageError
from ofa_tvm.estimators.contract import Function
from ofa_tvm.latency.regression import LatencyRegressor
from ofa_tvm.search.budget import Budget
from ofa_tvm.search.candidates import Candidate, Cost, Pool, VerifiedResult
from ofa_tvm.spaces import Arch, get_space
from ofa_tvm.spaces.blocks import block_structure
from ofa_tvm.targets import get_target
from ofa_tvm.workflow.learn import AccuracyCheck, learn_accuracy
from ofa_tvm.workflow.models import load_accuracy
from ofa_tvm.workflow.predictors import as_share, covered_resolutions, require_unit, search_resolutions
from ofa_tvm.workflow.search import search_entry
from ofa_tvm.workflow.settings import resolve
from ofa_tvm.workflow.store import Store

SPACE = get_space("ofa_digits")


def accuracy_predictor(resolutions: tuple[int, ...]) -> AccuracyPredictor:
    genes = SPACE.sample_genes(np.random.default_rng(0), 12, resolutions)
    return AccuracyPredictor(SPACE).fit(genes, SPACE.macs_batch(genes) / 1e8)


def latency_model(resolutions: tuple[int, ...]) -> LatencyRegressor:
    truth = block_structure(SPACE).tables(lambda layers: sum(la.macs for la in layers) / 1e8)
    genes = SPACE.sample_genes(np.random.default_rng(1), 30, resolutions)
    return LatencyRegressor(SPACE, target="x86").fit(genes, truth(genes))


def test_a_search_keeps_to_resolutions_that_its_models_know() -> None:
    models = [accuracy_predictor((32, 40)), latency_model((40, 48))]
    assert search_resolutions(SPACE, models, None) == (40,)
    assert search_resolutions(SPACE, models, [40]) == (40,)
    with pytest.raises(UsageError, match="resolution 48; both know 40"):
        search_resolutions(SPACE, models, [40, 48])
    with pytest.raises(UsageError, match="no common resolution"):
        covered_resolutions(SPACE, [accuracy_predictor((32,)), latency_model((48,))])


def test_an_accuracy_is_a_share() -> None:
    genes = SPACE.sample_genes(np.random.default_rng(0), 12)
    values = 0.95 + SPACE.macs_batch(genes) / 1e8
    optimist = AccuracyPredictor(SPACE).fit(genes, values)
    assert optimist(genes).max() > 1.0
    np.testing.assert_array_equal(as_share(optimist)(genes), np.minimum(optimist(genes), 1.0))


def test_a_budget_needs_the_targets_unit() -> None:
    require_unit(Budget(25.0), get_target("x86"))
    require_unit(Budget(25.0, "Minstr"), get_target("cortex-a72"))
    with pytest.raises(UsageError, match=r"emulated.*120Minstr"):
        require_unit(Budget(25.0), get_target("cortex-a72"))
    with pytest.raises(UsageError, match="in ms"):
        require_unit(Budget(25.0, "Minstr"), get_target("x86"))


def test_a_subnet_that_failed_its_last_measurement_stays_on_record_with_it() -> None:
    """Also where it was measured before the search, as what ships in its place may have been."""
    rng = np.random.default_rng(0)
    best, fallback, other, new = (
        Candidate(SPACE.sample(rng), 0.99 - 0.01 * i, (Cost(1.0, 1.0, 0.02),), round=int(i == 3),
                  within=True, measured_accuracy=[0.98, None, None, 0.0][i]) for i in range(4)
    )  # fmt: skip

    accuracies = {c.arch: c.accuracy for c in (best, fallback, other, new)}

    def check(archs: Sequence[Arch]) -> tuple[np.ndarray, Function]:
        return np.full(len(archs), 0.97), lambda genes: np.array([accuracies[a] for a in SPACE.decode(genes)])

    pool = Pool(SPACE, accuracy_predictor((32,)), check, [best, fallback, other, new])
    found = VerifiedResult(pool, 1, ()).measured_again([Cost(1.0, 1.3, 0.02)], [1.2])
    assert found.winner.arch == fallback.arch and found.winner.measured_accuracy == 0.97
    recorded = search_entry(found, 0).candidates
    assert [c.arch for c in recorded] == [best.arch, fallback.arch, new.arch]
    assert [(c.measured, c.within) for c in recorded] == [(1.3, False), (1.0, True), (1.0, True)]


@pytest.mark.slow
def test_measured_accuracies_correct_own_and_foreign_predictors(demo: DemoProject, tmp_path: Path) -> None:
    settings = resolve("x86", start=demo.folder)
    net, data = settings.supernet(), settings.data()
    rng = np.random.default_rng(5)
    archs = SPACE.decode(SPACE.sample_genes(rng, 4, (32,)))
    genes = SPACE.encode(archs)
    own = load_accuracy(demo.folder / "accuracy.model", SPACE)

    class Foreign:
        """As a published predictor: of the right rank perhaps, of the wrong level."""

        def corrected(self, archs: list[Arch], values: np.ndarray) -> Function:
            return learn_error(SPACE, self, archs, values)  # type: ignore[arg-type]

        def __call__(self, population: np.ndarray) -> np.ndarray:
            return np.full(len(population), 0.95)

    for predictor in (own, Foreign()):
        check = AccuracyCheck(
            net,
            data,
            predictor,  # type: ignore[arg-type]
            tmp_path / "cache.jsonl",
            calibration_images=64,
        )
        first, corrected = check(archs[:1])
        assert 0.0 <= first[0] <= 1.0
        values, corrected = check(archs[1:])
        every = np.concatenate([first, values])
        assert np.abs(corrected(genes) - every).mean() < np.abs(predictor(genes) - every).mean() + 1e-9
    assert len((tmp_path / "cache.jsonl").read_text().splitlines()) == len(archs), "evaluated once"


@pytest.mark.slow
def test_an_accuracy_predictor_is_learned_where_there_is_none(demo: DemoProject, tmp_path: Path) -> None:
    settings = resolve("x86", start=demo.folder)
    copy = tmp_path / "project"
    copy.mkdir()
    shutil.copy(demo.folder / "accuracy.jsonl", copy)
    before = (copy / "accuracy.jsonl").read_text()
    learned = learn_accuracy(
        settings.supernet(),
        settings.data(),
        Store(copy),
        settings.chosen_resolutions,
        samples=4,
        calibration_images=64,
    )
    assert (copy / "accuracy.jsonl").read_text() == before, "the quickstart's own evaluations serve"
    again = load_accuracy(copy / "accuracy.model", SPACE)
    probe = SPACE.sample_genes(np.random.default_rng(0), 5)
    assert np.allclose(again(probe), learned(probe), rtol=1e-3)
