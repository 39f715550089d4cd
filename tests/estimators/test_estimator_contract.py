"""What every predictor of subnets keeps; one joins by a line in `PREDICTORS`."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone as sklearn_clone

from ofa_tvm.accuracy.mlp import MLPAccuracyPredictor
from ofa_tvm.accuracy.predictor import AccuracyPredictor
from ofa_tvm.errors import UsageError, UserError
from ofa_tvm.estimators.base import SubnetEstimator, kind_among
from ofa_tvm.estimators.contract import UncertainSubnetModel
from ofa_tvm.estimators.files import FORMAT
from ofa_tvm.latency.regression import LatencyRegressor
from ofa_tvm.spaces import get_space
from ofa_tvm.spaces.blocks import block_structure

SPACE = get_space("ofa_digits")
GUESS = block_structure(SPACE, 10).tables(lambda layers: sum(la.macs for la in layers) / 1e7 + 0.01, 0.05)


@dataclass(frozen=True)
class Case:
    """A predictor, unfitted, and the fewest rows that it can be fitted to."""

    make: Callable[[], SubnetEstimator]
    fewest: int


PREDICTORS = {
    "latency": Case(lambda: LatencyRegressor(SPACE, target="x86", n_classes=10), 1),
    "latency with a guess": Case(
        lambda: LatencyRegressor(SPACE, GUESS, unit="Minstr", n_classes=10, variations=(GUESS,)), 1
    ),
    "accuracy": Case(lambda: AccuracyPredictor(SPACE, robust=False), 2),
    "accuracy, robust": Case(lambda: AccuracyPredictor(SPACE), 2),
    "accuracy, network": Case(lambda: MLPAccuracyPredictor(SPACE, seed=3), 20),
}


@pytest.fixture(scope="module", params=PREDICTORS)
def case(request: pytest.FixtureRequest) -> Case:
    return PREDICTORS[request.param]


def measured(n: int, seed: int = 0, resolutions: tuple[int, ...] | None = None) -> tuple[Any, np.ndarray]:
    """Subnets and values between 0 and 1, two of them far off."""
    rng = np.random.default_rng(seed)
    genes = SPACE.sample_genes(rng, n, resolutions)
    macs = SPACE.macs_batch(genes)
    values = 0.4 + 0.5 * macs / macs.max() + 0.01 * rng.standard_normal(n)
    values[:2] *= 0.8
    return genes, values


@pytest.fixture(scope="module")
def fitted(case: Case) -> SubnetEstimator:
    return case.make().fit(*measured(40))


@pytest.fixture
def file(fitted: SubnetEstimator, tmp_path: Path) -> Path:
    fitted.save(tmp_path / "p.model")
    return tmp_path / "p.model"


def edited(path: Path, edit: Callable[[dict[str, Any], dict[str, np.ndarray]], object]) -> Path:
    """The file as another version would have written it."""
    with np.load(io.BytesIO(path.read_bytes())) as data:
        arrays = dict(data)
    header = json.loads(arrays.pop("header").tobytes())
    edit(header, arrays)
    with path.open("wb") as stream:
        np.savez(stream, header=np.frombuffer(json.dumps(header).encode(), np.uint8), **arrays)
    return path


TEST = SPACE.sample_genes(np.random.default_rng(9), 200)


def same_predictions(a: SubnetEstimator, b: SubnetEstimator, rtol: float = 1e-9) -> None:
    for _ in range(2):  # asking for deviations changes nothing
        np.testing.assert_allclose(a.predict(TEST), b.predict(TEST), rtol=rtol)
        if isinstance(a, UncertainSubnetModel):
            assert isinstance(b, UncertainSubnetModel)
            pairs = zip(a.predict(TEST, return_std=True), b.predict(TEST, return_std=True), strict=True)
            for one, other in pairs:
                np.testing.assert_allclose(one, other, rtol=rtol)


def test_a_saved_one_is_as_whole_as_the_fitted(file: Path, fitted: SubnetEstimator) -> None:
    loaded = type(fitted).load(file, SPACE)
    same_predictions(loaded, fitted)
    assert loaded.validation_ == fitted.validation_ and loaded.validation_["n"] > 0
    assert loaded.resolutions == fitted.resolutions == SPACE.resolutions
    plain = {k: v for k, v in fitted.get_params().items() if isinstance(v, str | int | bool)}
    assert plain and plain == {k: loaded.get_params()[k] for k in plain}
    assert vars(loaded).keys() == vars(fitted).keys()  # those of `fit` and of what predictions were asked
    loaded.save(file)
    same_predictions(type(fitted).load(file), fitted)
    more, values = measured(30, 1)
    loaded.fit(np.concatenate([loaded.genes_, more]), np.concatenate([measured(40)[1], values]))
    assert len(loaded.genes_) == 70 and not np.array_equal(loaded.predict(TEST), fitted.predict(TEST))


def test_a_clone_is_unfitted_and_of_the_same_parameters(fitted: SubnetEstimator) -> None:
    for copy in (fitted.clone(), sklearn_clone(fitted)):
        assert type(copy) is type(fitted) and not hasattr(copy, "genes_")
        assert all(copy.get_params()[name] is value for name, value in fitted.get_params().items())
        same_predictions(copy.fit(*measured(40)), fitted, 0)
    other = get_space("ofa_mbv3_w1.0")
    assert fitted.clone(space=other).space is other and fitted.space is SPACE


def test_another_space_kind_version_or_other_features_are_refused(
    file: Path, fitted: SubnetEstimator
) -> None:
    kind, others = type(fitted), {AccuracyPredictor, MLPAccuracyPredictor, LatencyRegressor} - {type(fitted)}
    with pytest.raises(UsageError, match=r"p\.model is for ofa_digits, not ofa_mbv3_w1\.0"):
        kind.load(file, get_space("ofa_mbv3_w1.0"))
    for other in others:
        with pytest.raises(UsageError, match=f"holds a {kind.KIND}, not a {other.KIND}"):
            other.load(file)
    assert kind_among(file, [kind, *others]) is kind
    with pytest.raises(UsageError, match=f"holds a {kind.KIND}, not a .* or "):
        kind_among(file, list(others))
    content = file.read_bytes()
    for edit in (
        lambda header, _: header.update(format=FORMAT + 1),
        lambda header, _: header.update(features=["smell"]),
        lambda header, _: header["features"].pop(),
        lambda header, _: header.pop("features"),
        lambda _, arrays: arrays.update(log_variances=arrays["log_variances"][1:]),
        lambda _, arrays: arrays.pop("row_weights"),
    ):
        file.write_bytes(content)
        try:
            edited(file, edit)
        except KeyError:
            continue  # a network has neither variances nor weights of rows
        with pytest.raises(UserError, match=r"p\.model .*fit it again"):
            kind.load(file)
    file.write_bytes(content[:-200])
    with pytest.raises(UserError, match="not a model file"):
        kind.load(file)


def test_files_of_the_first_format_are_read(file: Path, fitted: SubnetEstimator) -> None:
    def older(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        header["format"] = 1
        arrays.pop("row_weights", None)
        if isinstance(fitted, MLPAccuracyPredictor):
            del header["features"]

    same_predictions(type(fitted).load(edited(file, older)), fitted, rtol=0.15)


def test_rows_may_be_few_but_not_too_few(case: Case) -> None:
    genes, values = measured(case.fewest)
    model = case.make().fit(SPACE.decode(genes), values)
    assert np.isfinite(model.predict(TEST)).all() and abs(np.median(model.predict(TEST)) - 0.6) < 0.4
    for n in {0, case.fewest - 1}:
        with pytest.raises(UserError, match="at least"):
            case.make().fit(genes[:n], values[:n])
    with pytest.raises(UserError, match=r"got \d+ and \d+"):
        case.make().fit(genes, np.append(values, 0.5))


def test_equal_values_are_predicted_as_they_are(case: Case, tmp_path: Path) -> None:
    genes, values = measured(25)
    genes[1] = genes[0]
    model = case.make().fit(genes, np.full_like(values, 0.5))
    np.testing.assert_allclose(model.predict(TEST), 0.5, rtol=0.02)
    model.save(tmp_path / "t.model")
    same_predictions(type(model).load(tmp_path / "t.model"), model)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_value_that_is_no_number_is_named(case: Case, bad: float) -> None:
    genes, values = measured(25)
    values[7] = bad
    with pytest.raises(UserError, match=f"of sample 7 is {bad}"):
        case.make().fit(genes, values)


def test_architectures_are_predicted_as_their_genes_and_choices_that_are_off_do_not_count(
    fitted: SubnetEstimator,
) -> None:
    np.testing.assert_allclose(fitted.predict(TEST), fitted(SPACE.canonical(TEST)), rtol=1e-5)
    np.testing.assert_allclose(fitted.predict(SPACE.decode(TEST)), fitted(TEST), rtol=1e-5)
    np.testing.assert_allclose(fitted.collapsed(TEST), fitted(TEST), rtol=1e-12)


def test_it_knows_the_resolutions_of_its_rows(case: Case, tmp_path: Path) -> None:
    some = SPACE.resolutions[1:3]
    model = case.make().fit(*measured(40, 2, some))
    model.save(tmp_path / "r.model")
    assert model.resolutions == type(model).load(tmp_path / "r.model").resolutions == some
