"""The one search pipeline: the same rules whichever of its callers asks."""

from __future__ import annotations

import shutil
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from demo_project import DemoProject, tiny_settings

from ofa_tvm.accuracy.predictor import AccuracyPredictor
from ofa_tvm.errors import UsageError, UserError
from ofa_tvm.latency.collect import draw_subnets
from ofa_tvm.latency.dataset import read_table
from ofa_tvm.progress import SILENT, Task
from ofa_tvm.search.budget import Budget
from ofa_tvm.spaces import get_space
from ofa_tvm.supernet import Supernet, build_supernet
from ofa_tvm.targets import Variant, get_target
from ofa_tvm.training.data import digits
from ofa_tvm.tuning import kernel_union
from ofa_tvm.workflow.loop import search_and_ship
from ofa_tvm.workflow.pipeline import run_search
from ofa_tvm.workflow.quickstart import quickstart
from ofa_tvm.workflow.request import SearchRequest, TargetRequest
from ofa_tvm.workflow.settings import resolve
from ofa_tvm.workflow.store import Store

SPACE = get_space("ofa_digits")


class Notes:
    """Progress that remembers what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def task(self, name: str, total: float | None = None) -> AbstractContextManager[Task]:
        return SILENT.task(name, total)

    def say(self, message: str) -> None:
        self.said.append(message)


@pytest.fixture(scope="module")
def net() -> Supernet:
    return build_supernet(SPACE, 10).eval()


@pytest.fixture(scope="module")
def accuracy() -> AccuracyPredictor:
    genes = SPACE.sample_genes(np.random.default_rng(0), 12)
    return AccuracyPredictor(SPACE).fit(genes, SPACE.macs_batch(genes) / 1e8)


@pytest.fixture
def project(demo: DemoProject, tmp_path: Path) -> Path:
    return Path(shutil.copytree(demo.folder, tmp_path / "demo"))


X86, ARM = get_target("x86-64-v2"), get_target("cortex-a72")


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ([], "at least one target"),
        ([TargetRequest(ARM, Budget(25.0))], "120Minstr"),
        ([TargetRequest(X86, Budget(25.0)), TargetRequest(X86, Budget(20.0))], "each target once"),
        ([TargetRequest(X86, None, artefact=Path("a")), TargetRequest(ARM, None)], "for all targets"),
        ([TargetRequest(X86, None, artefact=Path("a"))], "without images"),
    ],
)
def test_a_request_that_cannot_be_met_is_refused(
    net: Supernet, accuracy: AccuracyPredictor, tmp_path: Path, targets: list[TargetRequest], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        SearchRequest(Store(tmp_path), net, None, tuple(targets), accuracy=accuracy)


def test_without_images_an_accuracy_predictor_is_needed(net: Supernet, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="without images"):
        SearchRequest(Store(tmp_path), net, None, (TargetRequest(X86, None),))


def test_a_target_of_which_nothing_is_known_is_refused_before_any_work(net: Supernet, tmp_path: Path) -> None:
    opencl = get_target("opencl-mali")
    request = SearchRequest(Store(tmp_path), net, digits(), (TargetRequest(opencl, None),))
    with pytest.raises(UsageError, match="neither a tuning log nor a latency model; run ofa-tvm tune"):
        run_search(request)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_quickstart_learns_with_its_own_seed(demo: DemoProject) -> None:
    settings = tiny_settings()
    measured = read_table(demo.folder / "latency-x86.csv").archs
    drawn = draw_subnets(SPACE, settings.latency_samples, settings.resolutions, seed=0)
    assert set(measured) == set(drawn), "as ofa-tvm search --seed 0 draws them"


@pytest.mark.slow
def test_the_quickstart_tunes_by_how_often_kernels_are_called(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def noted(*arguments: Any, **options: Any) -> None:
        asked.update(options)
        raise UserError("noted")

    monkeypatch.setattr("ofa_tvm.workflow.tune.tune_kernels", noted)
    with pytest.raises(UserError, match="noted"):
        quickstart(project, get_target("x86"), settings=tiny_settings())
    sides = tiny_settings().resolutions
    union = kernel_union(SPACE, sides, get_target("x86"), n_classes=10)
    assert asked["weights"] == union.mean_calls(SPACE, sides, 10)


@pytest.mark.slow
def test_search_and_ship_takes_the_stored_model_and_says_what_is_wrong_with_a_log(
    demo: DemoProject, project: Path
) -> None:
    settings = resolve("x86", start=project)
    (log,) = (project / "tuning_logs").glob("*/tuning.jsonl")
    log.write_text(log.read_text() + "no record\n")
    before = {name: (project / name).read_bytes() for name in ("latency-x86.csv", "latency-x86.model")}
    notes = Notes()
    shipped = search_and_ship(
        settings.supernet(),
        settings.data(),
        settings.target,
        Budget(2 * demo.result.budget.value),
        project,
        accuracy_samples=4,
        latency_samples=30,
        calibration_images=64,
        candidates=1,
        rounds=1,
        progress=notes,
    )
    assert shipped.measurement.cost <= 2 * demo.result.budget.value
    assert {name: (project / name).read_bytes() for name in before} == before, "nothing learned anew"
    assert any("is left out" in note for note in notes.said)


@pytest.mark.slow
def test_a_stored_model_that_lacks_a_resolution_is_learned_anew(project: Path) -> None:
    settings, target = resolve("x86", start=project), get_target("x86")
    notes = Notes()
    request = SearchRequest(
        settings.store,
        settings.supernet(),
        None,
        (TargetRequest(target, Budget(1e3)),),
        resolutions=(48,),
        accuracy=_accuracy_at(48),
        latency_samples=2,
        candidates=1,
        rounds=1,
    )
    outcome = run_search(request, progress=notes)
    assert outcome.chosen.arch.r == 48 and outcome.chosen.within
    assert any("learning the latency of x86" in note for note in notes.said)


def _accuracy_at(side: int) -> AccuracyPredictor:
    genes = SPACE.sample_genes(np.random.default_rng(0), 12, (side,))
    return AccuracyPredictor(SPACE).fit(genes, SPACE.macs_batch(genes) / 1e8)


@pytest.mark.slow
def test_two_threads_in_a_quickstarts_folder_have_a_budget_of_their_own(
    demo: DemoProject, project: Path, all_cpus: set[int]
) -> None:
    if len(all_cpus) < 2:
        pytest.skip("two threads need two cores")
    one, two = get_target("x86"), get_target("x86").with_threads(2)
    kept = (project / "budget-x86.json").read_bytes()
    quick = replace(tiny_settings(), tuning_seconds=1.0)
    result = quickstart(project, two, settings=quick)
    assert (project / "budget-x86.json").read_bytes() == kept
    assert result.budget == Store(project).budget(Variant.of(two)) != Store(project).budget(Variant.of(one))
    assert read_table(project / "latency-x86-2threads.csv").meta[0]["threads"] == 2
    assert result.shipped.measurement.threads == 2
