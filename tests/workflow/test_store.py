"""A project's files: kept apart by what they are true for, and refused where they are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ofa_tvm.accuracy.predictor import AccuracyPredictor
from ofa_tvm.errors import UsageError, UserError
from ofa_tvm.latency.dataset import Column
from ofa_tvm.latency.regression import LatencyRegressor
from ofa_tvm.latency.writer import LatencyWriter
from ofa_tvm.search.budget import Budget
from ofa_tvm.spaces import get_space
from ofa_tvm.targets import Variant, get_target
from ofa_tvm.workflow.models import load_accuracy, load_latency
from ofa_tvm.workflow.store import Store

SPACE = get_space("ofa_digits")
ONE = Variant.of(get_target("x86-64-v2"))
OTHERS = {
    "threads": Variant("x86-64-v2", threads=2),
    "dtype": Variant.of(get_target("x86-64-v2").with_dtype("float16")),
    "batch": Variant.of(get_target("x86-64-v2").with_batch(8)),
    "target": Variant.of(get_target("x86-64-v3")),
    "emulated": Variant("x86-64-v2", emulated=True),
}


def latency_model(target: str = "", unit: str = "ms") -> LatencyRegressor:
    genes = SPACE.sample_genes(np.random.default_rng(1), 12)
    return LatencyRegressor(SPACE, target=target, unit=unit).fit(genes, SPACE.macs_batch(genes) / 1e6)


def other_space_model(path: Path) -> None:
    space = get_space("ofa_mbv3_w1.0")
    genes = space.sample_genes(np.random.default_rng(0), 12, (128,))
    LatencyRegressor(space).fit(genes, space.macs_batch(genes) / 1e8).save(path)


@pytest.mark.parametrize("other", OTHERS)
def test_every_variant_has_files_of_its_own(tmp_path: Path, other: str) -> None:
    store, variant = Store(tmp_path), OTHERS[other]
    latency_model(ONE.series).save(store.latency_model(ONE))
    store.keep_budget(ONE, Budget(2.5))
    assert store.latency(ONE, SPACE) is not None and store.budget(ONE) == Budget(2.5)
    assert store.latency(variant, SPACE) is None and store.budget(variant) is None
    assert store.latency_models() == {"x86-64-v2": tmp_path / "latency-x86-64-v2.model"}


@pytest.mark.parametrize("other", ["dtype", "batch", "target", "emulated"])
def test_a_model_that_is_not_what_its_name_says_is_refused(tmp_path: Path, other: str) -> None:
    store, variant = Store(tmp_path), OTHERS[other]
    latency_model(variant.series, variant.unit).save(store.latency_model(ONE))
    with pytest.raises(UsageError, match=r"latency-x86-64-v2\.model is a model of .*--latency-pr"):
        store.latency(ONE, SPACE)


def test_a_model_of_another_space_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    other_space_model(store.latency_model(ONE))
    with pytest.raises(UsageError, match=r"is for ofa_mbv3_w1\.0, not ofa_digits"):
        store.latency(ONE, SPACE)


def test_what_was_measured_comes_with_the_model(tmp_path: Path) -> None:
    store = Store(tmp_path)
    latency_model(ONE.series).save(store.latency_model(ONE))
    known = store.latency(ONE, SPACE)
    assert known is not None and known.measured == {}
    archs = SPACE.decode(SPACE.sample_genes(np.random.default_rng(0), 3))
    with LatencyWriter(store.latency_table(ONE), SPACE, Column.of(get_target("x86-64-v2"))) as writer:
        for number, arch in enumerate(archs):
            writer.append(arch, 1.0 + number)
    known = store.latency(ONE, SPACE)
    assert known is not None and known.measured == dict(zip(archs, (1.0, 2.0, 3.0), strict=True))


@pytest.mark.parametrize(
    "content", ["", "[]", '{"value": 1.5}', '{"value": "a", "unit": "ms"}', '{"value": 1, "unit": "Minstr"}']
)
def test_a_budget_that_cannot_be_read_is_none(tmp_path: Path, content: str) -> None:
    store = Store(tmp_path)
    (tmp_path / "budget-x86-64-v2.json").write_text(content)
    assert store.budget(ONE) is None
    store.keep_budget(ONE, Budget(0.0454))
    assert store.budget(ONE) == Budget(0.0454)


def test_tuning_logs_may_lie_elsewhere(tmp_path: Path) -> None:
    assert Store(tmp_path).logs == tmp_path / "tuning_logs"
    assert Store(tmp_path, Path("/logs")).logs == Path("/logs")


def test_predictors_of_another_space_are_refused(tmp_path: Path) -> None:
    genes = SPACE.sample_genes(np.random.default_rng(0), 12, (32,))
    AccuracyPredictor(SPACE).fit(genes, SPACE.macs_batch(genes) / 1e8).save(tmp_path / "accuracy.model")
    latency_model().save(tmp_path / "latency.model")
    other = get_space("ofa_mbv3_w1.0")
    assert isinstance(load_accuracy(tmp_path / "accuracy.model", SPACE), AccuracyPredictor)
    with pytest.raises(UsageError, match=r"is for ofa_digits, not ofa_mbv3_w1\.0"):
        load_accuracy(tmp_path / "accuracy.model", other)
    with pytest.raises(UsageError, match=r"is of subnets in float32, not in int8; .* -n 12 --fit NEW --from"):
        load_accuracy(tmp_path / "accuracy.model", SPACE, "int8")
    with pytest.raises(UsageError, match=r"is for ofa_digits, not ofa_mbv3_w1\.0"):
        load_latency(tmp_path / "latency.model", other)
    with pytest.raises(UserError, match="there is no accuracy predictor"):
        load_accuracy(tmp_path / "none.model", SPACE)
    with pytest.raises(UsageError, match="holds a latency_regressor"):
        load_accuracy(tmp_path / "latency.model", SPACE)
