"""Spaces of other packages: the example package, installed by pip, through the verbs; and those that fail."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from verbs import Verbs

import ofa_tvm
from ofa_tvm.errors import UsageError, UserError

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "plugin_space"
QUICK = """
phases: [{name: all, open: {ks: 0, d: 0, e: 0}, epochs: 1, learning_rate: 1e-2}]
resolutions: [32]
batch_size: 400
micro_batch_size: 200
calibration_images: 50
threads: 1
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plugin")
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps",
         "--no-build-isolation", "--target", folder, EXAMPLE],
        check=True,
    )  # fmt: skip
    return folder


@pytest.fixture
def plugin(installed: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    ofa_tvm.get_space.cache_clear()
    monkeypatch.syspath_prepend(str(installed))
    yield
    ofa_tvm.get_space.cache_clear()


def register(folder: Path, package: str, entries: str) -> None:
    """What an installer leaves of a package's entry points."""
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entries)


def test_a_plugin_is_a_space_like_others(plugin: None) -> None:
    assert "ofa_pico" in ofa_tvm.list_spaces()
    space = ofa_tvm.get_space("ofa_pico")
    assert space.size == (2 * 2 + (2 * 2) ** 2 + (2 * 2) ** 3) ** 2
    arch = space.sample(np.random.default_rng(0))
    assert space.decode(space.encode([arch])) == [arch]
    net = ofa_tvm.build_supernet("ofa_pico", n_classes=10)
    weights = dict(net.named_parameters())
    # Its own way of building: the last batch norm is 0 where there is a residual, and only there.
    assert weights["blocks.2.conv.point_linear.bn.bn.weight"].abs().sum() == 0
    assert weights["blocks.1.conv.point_linear.bn.bn.weight"].abs().sum() > 0


@pytest.mark.slow
def test_verbs_know_a_plugin(plugin: None, ofa: Verbs, tmp_path: Path) -> None:
    (tmp_path / "quick.yaml").write_text(QUICK)
    done = ofa(
        tmp_path, "train", "--data", "digits", "--space", "ofa_pico", "--config", "quick.yaml", "--json"
    )
    assert done.code == 0, done.err
    assert "space: ofa_pico" in (tmp_path / "ofa-tvm.yaml").read_text()
    done = ofa(tmp_path, "export", "median", "--calibration-images", 50, "-o", "m.onnx", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["space"] == "ofa_pico" and json.loads(done.out)["calibrated"]
    done = ofa(tmp_path, "tune", "--dry-run", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["kernels"] > 20
    done = ofa(tmp_path, "evaluate", "min", "--calibration-images", 50, "--json")
    assert done.code == 0, done.err


def test_a_plugin_that_fails_says_which_package(
    ofa: Verbs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(
        tmp_path,
        "acme-spaces",
        "[ofa_tvm.spaces]\nacme_absent = acme_absent:space\nacme_wrong = acme:wrong\n"
        "acme_other = acme:other\nacme_net = acme:net\nofa_digits = acme:wrong\n"
        "[ofa_tvm.supernets]\nacme_net = acme:build\n",
    )
    (tmp_path / "acme.py").write_text(
        "from dataclasses import replace\n"
        "from ofa_tvm import get_space\n"
        "def wrong(): return 3\n"
        "def other(): return get_space('ofa_digits')\n"
        "def net(): return replace(get_space('ofa_digits'), name='acme_net')\n"
        "def build(space, n_classes, dropout): return None\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "acme_absent" in ofa_tvm.list_spaces()  # names are known without importing anything
    package = r"acme-spaces 1\.0"
    with pytest.raises(UserError, match=rf"{package}.*No module named 'acme_absent'.*uninstall"):
        ofa_tvm.get_space("acme_absent")
    with pytest.raises(UserError, match=rf"{package}.*returned a int"):
        ofa_tvm.get_space("acme_wrong")
    with pytest.raises(
        UserError, match="has to return the space acme_other and returned the space ofa_digits"
    ):
        ofa_tvm.get_space("acme_other")
    with pytest.raises(UserError, match="acme:build has to return a Supernet"):
        ofa_tvm.build_supernet("acme_net")
    assert ofa_tvm.get_space("ofa_digits").name == "ofa_digits"  # those that ship cannot be replaced
    with pytest.raises(UsageError, match=r"no search space 'acme'.*acme_absent"):
        ofa_tvm.get_space("acme")
    message = ofa(tmp_path, "tune", "--space", "acme_absent", "--dry-run").error(1)
    assert "acme-spaces 1.0" in message
    register(tmp_path, "other-spaces", "[ofa_tvm.spaces]\nacme_absent = other:space\n")
    with pytest.raises(UserError, match=r"acme-spaces 1\.0 and other-spaces 1\.0 both register"):
        ofa_tvm.get_space("acme_absent")
    ofa_tvm.get_space.cache_clear()
