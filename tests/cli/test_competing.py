"""float32 and int8 within one budget, from training to what ships."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from demo_project import DemoProject, tiny_settings
from verbs import Verbs

from ofa_tvm.accuracy.predictor import AccuracyPredictor
from ofa_tvm.deploy import Artefact, load
from ofa_tvm.errors import UsageError, UserError
from ofa_tvm.number_formats import competing
from ofa_tvm.search.budget import Budget
from ofa_tvm.spaces import get_space
from ofa_tvm.supernet import build_supernet
from ofa_tvm.targets import get_target
from ofa_tvm.workflow.pipeline import run_search
from ofa_tvm.workflow.quickstart import quickstart
from ofa_tvm.workflow.quickstart_result import QuickstartResult
from ofa_tvm.workflow.request import SearchRequest, TargetRequest
from ofa_tvm.workflow.settings import resolve
from ofa_tvm.workflow.store import Store

X86 = get_target("x86")


@pytest.mark.parametrize(
    ("name", "formats"),
    [
        ("znver4", {"float32", "int8"}),
        ("x86-64-v3", {"float32", "int8"}),
        ("cortex-a76", {"float32", "float16", "int8"}),
        ("cortex-a72", {"float32", "int8"}),
        ("cuda", {"float32", "float16"}),
        ("opencl", {"float32", "float16"}),
    ],
)
def test_what_a_target_only_stores_does_not_compete(name: str, formats: set[str]) -> None:
    found = competing(get_target(name).dtypes)
    assert found[0] == "float32" and set(found) - {"bfloat16"} == formats


def test_targets_of_one_search_share_their_format(tmp_path: Path) -> None:
    space = get_space("ofa_digits")
    genes = space.sample_genes(np.random.default_rng(0), 12)
    accuracy = AccuracyPredictor(space).fit(genes, space.macs_batch(genes) / 1e8)
    targets = get_target("x86-64-v3"), get_target("x86-64-v4").with_dtype("int8")
    with pytest.raises(UsageError, match="share a number format"):
        SearchRequest(
            Store(tmp_path),
            build_supernet(space, 10),
            None,
            tuple(TargetRequest(target, Budget(1.0)) for target in targets),
            accuracy=accuracy,
        )


@dataclass(frozen=True)
class Competed:
    folder: Path
    result: QuickstartResult


@pytest.fixture(scope="module")
def competed(demo: DemoProject, tmp_path_factory: pytest.TempPathFactory) -> Competed:
    """The quickstart's folder after a second one in which int8 competes."""
    folder = Path(shutil.copytree(demo.folder, tmp_path_factory.mktemp("formats") / "demo"))
    return Competed(folder, quickstart(folder, X86, dtypes=("float32", "int8"), settings=tiny_settings()))


@pytest.mark.slow
def test_the_better_one_ships_and_the_other_is_shown_beside_it(demo: DemoProject, competed: Competed) -> None:
    result, folder = competed.result, competed.folder
    assert result.budget == demo.result.budget, "both formats have the budget of the float32 median"
    assert result.shipped.measurement.cost <= result.budget.value
    other = {"float32": "int8", "int8": "float32"}[result.dtype]
    by_name = {row.name: row for row in result.rows}
    assert by_name["chosen"].dtype == result.dtype and by_name[f"best in {other}"].dtype == other
    assert json.loads((folder / "quickstart.json").read_text())["dtype"] == result.dtype
    assert {path.name for path in folder.glob("*.model")} == {
        "accuracy.model", "accuracy-int8.model", "latency-x86.model", "latency-x86-int8.model",
    }  # fmt: skip


@pytest.mark.slow
def test_int8_ships_as_what_was_measured_and_says_how_it_came_about(competed: Competed, ofa: Verbs) -> None:
    done = ofa(
        competed.folder, "search", "--dtype", "int8", "--latency", "10ms", "--candidates", "1",
        "--rounds", "1", "-o", "small", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert report["dtype"] == "int8" and "post-training" not in done.err
    manifest = Artefact.open(competed.folder / "small").manifest
    assert manifest.variant.dtype == "int8" and manifest.check.dtype == "int8"
    assert manifest.quantization is not None and manifest.quantization.trained
    assert "digits, train split" in manifest.quantization.calibration
    model = onnx.load(competed.folder / "small" / "model.onnx")
    stored = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}
    scales = {
        np.float32(stored[node.input[1]]).item()
        for node in model.graph.node
        if node.op_type == "QuantizeLinear" and stored[node.input[1]].ndim == 0
    }
    assert scales <= {np.float32(scale).item() for scale, _ in manifest.quantization.maps.values()}
    assert manifest.accuracy.float32 is not None and manifest.accuracy.change is not None
    run = load(competed.folder / "small")
    assert run.metadata["target"]["dtype"] == "int8"
    (entry,) = run.inputs
    assert np.isfinite(run(np.zeros(entry.shape, np.float32))).all()


@pytest.mark.slow
def test_fronts_of_all_formats_are_side_by_side(competed: Competed, ofa: Verbs) -> None:
    done = ofa(competed.folder, "search", "--dtype", "auto", "--pareto", "--json")
    assert done.code == 0, done.err
    assert {row["dtype"] for row in json.loads(done.out)["front"]} >= {"float32", "int8"}
    done = ofa(competed.folder, "search", "--dtype", "auto", "--latency", "10ms", "--no-verify", "--json")
    report = json.loads(done.out)
    answers = [report, *report["other_dtypes"]]
    assert {"float32", "int8"} <= {answer["dtype"] for answer in answers}
    assert report["predicted_accuracy"] == max(answer["predicted_accuracy"] for answer in answers)


@pytest.mark.slow
def test_a_format_that_cannot_keep_the_budget_is_left_out(competed: Competed) -> None:
    requests = [_request(competed.folder, "float32", 1e-6), _request(competed.folder, "int8", 10.0)]
    outcome = run_search(*requests)
    assert outcome.dtype == "int8" and not outcome.others
    with pytest.raises(UserError):
        run_search(requests[0], replace(requests[1], targets=requests[0].targets))


def _request(folder: Path, dtype: str, budget_ms: float) -> SearchRequest:
    settings = resolve("x86", dtype=dtype, start=folder)  # type: ignore[arg-type]
    target = TargetRequest(settings.target, Budget(budget_ms))
    model = AccuracyPredictor.load(settings.store.accuracy_model(settings.arithmetic))
    return SearchRequest(
        settings.store, settings.supernet(), None, (target,), accuracy=model, candidates=1, rounds=1
    )


@pytest.mark.slow
def test_a_float32_predictor_is_corrected_by_a_few_subnets(competed: Competed, ofa: Verbs) -> None:
    (competed.folder / "accuracy-int8.model").unlink()
    refused = ofa(competed.folder, "search", "--dtype", "int8", "--latency", "10ms", "--no-verify")
    assert refused.code == 2 and "evaluate --dtype int8 --fit accuracy-int8.model --from " in refused.err
    search = ["search", "--dtype", "int8", "--latency", "10ms", "--candidates", "1", "--rounds", "1"]
    refused = ofa(competed.folder, *search, "--no-verify", "--accuracy-predictor", "accuracy.model")
    assert refused.code == 2 and "in float32, not in int8" in refused.err
    done = ofa(competed.folder, *search, "--accuracy-predictor", "accuracy.model", "--json")
    assert done.code == 0, done.err
    learned = AccuracyPredictor.load(competed.folder / "accuracy-int8.model")
    assert learned.dtype == "int8"
    before = AccuracyPredictor.load(competed.folder / "accuracy.model")
    assert len(learned.genes_) > len(before.genes_), "its rows and the dozen"
