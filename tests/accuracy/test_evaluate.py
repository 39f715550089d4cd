"""Evaluation of subnets: right, repeatable, resumable, and without a trace on the supernet."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ofa_tvm.accuracy.evaluate import evaluate_subnets
from ofa_tvm.errors import UsageError
from ofa_tvm.spaces import Arch, get_space
from ofa_tvm.supernet import Supernet, build_supernet
from ofa_tvm.supernet.checkpoint import weights_hash
from ofa_tvm.training import ArrayData, Phase, digits, digits_config, train
from ofa_tvm.training.validation import accuracy, calibrated_subnet, calibration_batches

SPACE = get_space("ofa_digits")


@pytest.fixture(scope="module")
def data() -> ArrayData:
    return digits()


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory, data: ArrayData) -> Supernet:
    """Two short epochs are enough to be far better than chance."""
    config = digits_config().replace(phases=(Phase("full", {}, 2, 1, 5e-2),), resolutions=(32,))
    result = train(config, data, tmp_path_factory.mktemp("evaluate"))
    net = build_supernet(SPACE, n_classes=10)
    net.load_checkpoint(result.checkpoint)
    return net


@pytest.fixture
def archs(rng: np.random.Generator) -> list[Arch]:
    return [SPACE.max_arch(32), SPACE.sample(rng), SPACE.min_arch(40)]


@pytest.mark.slow
def test_accuracy_is_the_share_of_right_answers(net: Supernet, data: ArrayData) -> None:
    found = evaluate_subnets(net, [SPACE.max_arch(32)], data, "test", calibration_images=300)[0]
    sub = calibrated_subnet(net, SPACE.max_arch(32), data, 300)
    with torch.no_grad():
        answers = sub(data.batch("test", range(300), 32)).argmax(1).numpy()
    assert found == np.mean(answers == data.targets("test"))
    assert found > 0.6, "a trained net is far better than one in ten"


def test_calibration_is_needed_and_leaves_the_supernet_alone(
    net: Supernet, data: ArrayData, archs: list[Arch]
) -> None:
    before = {name: value.clone() for name, value in net.state_dict().items()}
    mode, active = net.training, net.active_arch
    evaluate_subnets(net, archs, data, calibration_images=100)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert (net.training, net.active_arch) == (mode, active)
    small = SPACE.max_arch(32).replace(ks=SPACE.min_arch().ks)
    assert accuracy(net.extract(small), data, "val", 32) < accuracy(
        calibrated_subnet(net, small, data, 300), data, "val", 32
    )


def test_an_accuracy_does_not_depend_on_its_company(
    net: Supernet, data: ArrayData, archs: list[Arch]
) -> None:
    together = evaluate_subnets(net, archs, data, calibration_images=100)
    apart = [evaluate_subnets(net, [arch], data, calibration_images=100)[0] for arch in reversed(archs)]
    assert together.tolist() == apart[::-1]


def test_cache_resumes_and_knows_what_it_is_for(
    net: Supernet, data: ArrayData, archs: list[Arch], tmp_path: Path
) -> None:
    cache = tmp_path / "accuracies.jsonl"
    first = evaluate_subnets(net, archs[:2], data, calibration_images=100, cache_path=cache)
    with cache.open("a") as handle:
        handle.write('{"key": "torn')
    # A cached value is taken as it is, which a value that no evaluation gives shows.
    lines = cache.read_text().splitlines()
    record = json.loads(lines[0])
    cache.write_text("\n".join([json.dumps({**record, "accuracy": 1 / 3}), *lines[1:]]))
    again = evaluate_subnets(net, archs, data, calibration_images=100, cache_path=cache)
    assert again[0] == 1 / 3 and again[1] == first[1] and 0 <= again[2] <= 1
    assert (
        again.tolist()
        == evaluate_subnets(net, archs, data, calibration_images=100, cache_path=cache).tolist()
    )
    for other in ({"split": "test"}, {"calibration_images": 50}, {"seed": 1}):
        settings = {"split": "val", "calibration_images": 100, "seed": 0, **other}
        assert evaluate_subnets(net, archs[:1], data, cache_path=cache, **settings)[0] <= 1  # type: ignore[arg-type]
    changed = build_supernet(SPACE, n_classes=10)
    assert weights_hash(changed) != weights_hash(net)
    assert evaluate_subnets(changed, archs[:1], data, calibration_images=100, cache_path=cache)[0] <= 1


def test_calibration_images_come_from_the_training_split(data: ArrayData) -> None:
    batches = list(calibration_batches(data, 32, 250, 0, torch.device("cpu")))
    assert sum(map(len, batches)) == 250
    every = {row.numpy().tobytes() for row in data.batch("train", range(data.size("train")), 32)}
    assert all(row.numpy().tobytes() in every for batch in batches for row in batch)


def test_requests_that_do_not_fit(net: Supernet, data: ArrayData) -> None:
    with pytest.raises(UsageError, match="unknown split"):
        evaluate_subnets(net, [SPACE.max_arch()], data, "holdout")
    with pytest.raises(UsageError, match="r = 33"):
        evaluate_subnets(net, [SPACE.max_arch().replace(r=33)], data)
    assert evaluate_subnets(net, [], data).shape == (0,)


def test_the_package_is_light() -> None:
    import subprocess

    code = "import sys; sys.modules['torch'] = None; import ofa_tvm.accuracy"
    subprocess.run([sys.executable, "-c", code], check=True)
