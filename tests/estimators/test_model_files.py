"""Files of fitted models that were written by others: a model that gives numbers, or one sentence."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ofa_tvm.latency.generalized
from ofa_tvm.accuracy.mlp import MLPAccuracyPredictor
from ofa_tvm.accuracy.predictor import AccuracyPredictor
from ofa_tvm.errors import UserError
from ofa_tvm.estimators.files import model_kind
from ofa_tvm.latency.generalized import GeneralizedLatency
from ofa_tvm.latency.regression import LatencyRegressor
from ofa_tvm.spaces import get_space

SPACE = get_space("ofa_digits")
Contents = dict[str, Any]
KINDS: dict[str, type[AccuracyPredictor | MLPAccuracyPredictor | LatencyRegressor | GeneralizedLatency]] = {
    "accuracy": AccuracyPredictor,
    "mlp": MLPAccuracyPredictor,
    "latency": LatencyRegressor,
    "generalized": GeneralizedLatency,
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("models")
    genes = SPACE.sample_genes(np.random.default_rng(0), 20)
    truth = SPACE.macs_batch(genes) / 1e7
    AccuracyPredictor(SPACE).fit(genes, truth / truth.max()).save(folder / "accuracy")
    MLPAccuracyPredictor(SPACE).fit(genes, truth / truth.max()).save(folder / "mlp")
    LatencyRegressor(SPACE, n_classes=10).fit(genes, truth).save(folder / "latency")
    shipped = Path(ofa_tvm.latency.generalized.__file__).parent / "data" / "generalized.model"
    return {name: (folder / name).read_bytes() for name in KINDS if name != "generalized"} | {
        "generalized": shipped.read_bytes()
    }


def rewritten(content: bytes, edit: Callable[[Contents, Contents], object]) -> bytes:
    """The file as somebody would write it who knows the format: whole, with checksums of zip."""
    with np.load(io.BytesIO(content)) as data:
        arrays = dict(data)
    header = json.loads(arrays.pop("header").tobytes())
    edit(header, arrays)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, header=np.frombuffer(json.dumps(header).encode(), np.uint8), **arrays)
    return buffer.getvalue()


def refused(kind: str, content: bytes, folder: Path) -> str:
    (folder / "x.model").write_bytes(content)
    with pytest.raises(UserError) as caught:
        KINDS[kind].load(folder / "x.model")
    message = str(caught.value)
    assert "x.model" in message and len(message.replace(str(folder), "")) < 300
    return message


@pytest.mark.parametrize("kind", KINDS)
def test_a_header_without_a_key_or_with_another_value_is_refused(
    kind: str, files: dict[str, bytes], tmp_path: Path
) -> None:
    (tmp_path / "x.model").write_bytes(files[kind])
    KINDS[kind].load(tmp_path / "x.model")
    with np.load(io.BytesIO(files[kind])) as data:
        keys = json.loads(data["header"].tobytes()).keys()
    for key in keys:
        refused(kind, rewritten(files[kind], lambda header, _, key=key: header.pop(key)), tmp_path)
        for value in (None, [1], {"a": []}, "\udcff" * 900, -(10**40)):  # any text does where text is free
            if not isinstance(value, str) or (
                key != "target" and (kind, key) != ("generalized", "data_sha256")
            ):
                edit = lambda header, _, key=key, value=value: header.update({key: value})  # noqa: E731
                refused(kind, rewritten(files[kind], edit), tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_arrays_that_are_missing_or_hold_no_numbers_are_refused(
    kind: str, files: dict[str, bytes], tmp_path: Path
) -> None:
    with np.load(io.BytesIO(files[kind])) as data:
        names = [name for name in data.files if name != "header"][:6]

    def spoilt(name: str, value: float) -> Callable[[Contents, Contents], None]:
        def edit(header: Contents, arrays: Contents) -> None:
            arrays[name] = arrays[name].astype(np.float64)
            arrays[name].flat[0] = value

        return edit

    for name in names:
        refused(kind, rewritten(files[kind], lambda _, arrays, name=name: arrays.pop(name)), tmp_path)
        refused(
            kind, rewritten(files[kind], lambda _, a, name=name: a.update({name: a[name][:-1]})), tmp_path
        )
        refused(
            kind,
            rewritten(files[kind], lambda _, a, name=name: a.update({name: a[name].astype(str)})),
            tmp_path,
        )
        for value in (np.nan, np.inf):
            refused(kind, rewritten(files[kind], spoilt(name, value)), tmp_path)


def test_numbers_that_overflow_are_refused(files: dict[str, bytes], tmp_path: Path) -> None:
    for kind, name in (("mlp", "weight0"), ("latency", "tables"), ("accuracy", "log_variances")):
        for value in (1e308, -1e308):
            content = rewritten(
                files[kind], lambda _, a, n=name, v=value: a.update({n: np.full_like(a[n], v, float)})
            )
            assert "damaged" in refused(kind, content, tmp_path)


def test_subnets_of_another_space_are_refused(files: dict[str, bytes], tmp_path: Path) -> None:
    for kind in ("accuracy", "mlp", "latency"):
        for value in (-1, 99):
            content = rewritten(files[kind], lambda _, a, v=value: a["genes"].__setitem__((0, 0), v))
            assert "its subnets are none of ofa_digits" in refused(kind, content, tmp_path)
        refused(
            kind, rewritten(files[kind], lambda header, _: header.update(space="ofa_mbv3_w1.0")), tmp_path
        )


def test_files_that_unpack_to_too_much_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.model"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("header.npy", "w") as entry,
    ):
        for _ in range(300):
            entry.write(bytes(1 << 20))
    with pytest.raises(UserError, match="not a model file"):
        model_kind(path)


def test_a_member_that_is_no_array_is_refused(files: dict[str, bytes], tmp_path: Path) -> None:
    buffer = io.BytesIO(files["latency"])
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("notes.txt", "no array")
    assert "not a model file" in refused("latency", buffer.getvalue(), tmp_path)
