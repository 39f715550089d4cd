from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from ofa_tvm.accuracy.official import load_official
from ofa_tvm.errors import UsageError, UserError
from ofa_tvm.spaces import Arch, get_space

torch = pytest.importorskip("torch")


def reference(path: Path, x: np.ndarray) -> np.ndarray:
    """The published network, run by torch."""
    state = torch.load(path, weights_only=True, map_location="cpu")
    state = state.get("state_dict", state)
    h = torch.from_numpy(x)
    weights = [k for k, v in state.items() if v.ndim == 2]
    for i, key in enumerate(weights):
        bias = state.get(key.replace("weight", "bias"))
        h = torch.nn.functional.linear(h, state[key], bias)
        if i < len(weights) - 1:
            h = torch.relu(h)
    return h[:, 0].numpy() + (float(state["base_acc"]) if "base_acc" in state else 0.0)


def mbv3_encoding(arch: Arch) -> np.ndarray:
    """The published encoding, block by block."""
    x = np.zeros(128, dtype=np.float32)
    for b in range(20):
        if b % 4 < arch.d[b // 4]:
            x[3 * b + (3, 5, 7).index(arch.ks[b])] = 1
            x[60 + 3 * b + (3, 4, 6).index(int(arch.e[b]))] = 1
    x[120 + (arch.r - 112) // 16] = 1
    return x


def test_mbv3_outputs_are_the_published_networks(shared_data: Path, rng: np.random.Generator) -> None:
    path = shared_data / "accuracy" / "acc_predictor.pth"
    space = get_space("ofa_mbv3_w1.2")
    predictor = load_official(path, space)
    archs = space.decode(space.sample_genes(rng, 100, [160, 176, 192, 208, 224]))
    x = np.array([mbv3_encoding(arch) for arch in archs])
    np.testing.assert_array_equal(predictor.encode(space.encode(archs)), x)
    np.testing.assert_allclose(predictor.predict(archs), reference(path, x), atol=2e-6)
    assert spearmanr(predictor.predict(archs), [space.macs(a) for a in archs]).statistic > 0.8


def test_resnet_outputs_are_the_published_networks(shared_data: Path, rng: np.random.Generator) -> None:
    path = shared_data / "accuracy" / "ofa_resnet50_acc_predictor.pth"
    space = get_space("ofa_resnet50")
    predictor = load_official(path, space)
    archs = space.decode(space.sample_genes(rng, 100, list(predictor.resolutions)))
    x = np.zeros((100, 82), dtype=np.float32)
    base, starts = (2, 2, 4, 2), (0, 4, 8, 14)
    for row, arch in zip(x, archs, strict=True):
        row[(128, 144, 160, 176, 192, 224, 240, 256).index(arch.r)] = 1
        row[8 + (arch.d[0] > 0)] = 1
        for i, w in enumerate(arch.w):
            row[10 + 3 * i + w] = 1
        for stage in range(4):
            for b in range(starts[stage], starts[stage] + base[stage] + arch.d[stage + 1]):
                row[28 + 3 * b + (0.2, 0.25, 0.35).index(arch.e[b])] = 1
    np.testing.assert_array_equal(predictor.encode(space.encode(archs)), x)
    np.testing.assert_allclose(predictor.predict(archs), reference(path, x), atol=2e-6)


def test_other_resolutions_and_spaces_are_refused(shared_data: Path) -> None:
    space = get_space("ofa_mbv3_w1.2")
    path = shared_data / "accuracy" / "acc_predictor.pth"
    with pytest.raises(UsageError, match="resolution 164"):
        load_official(path, space).predict([space.min_arch(164)])
    for other in ("ofa_resnet50", "ofa_proxyless_w1.3", "ofa_digits"):
        with pytest.raises(UserError):
            load_official(path, get_space(other))


def test_files_that_are_no_predictor_are_refused(tmp_path: Path) -> None:
    space = get_space("ofa_mbv3_w1.2")
    with pytest.raises(UserError, match="does not exist"):
        load_official(tmp_path / "absent.pth", space)
    (tmp_path / "bad.pth").write_bytes(b"nonsense")
    with pytest.raises(UserError, match="loaded safely"):
        load_official(tmp_path / "bad.pth", space)
    torch.save(torch.nn.Linear(3, 3), tmp_path / "module.pth")  # a pickled object
    with pytest.raises(UserError, match="loaded safely"):
        load_official(tmp_path / "module.pth", space)
    torch.save({"a.weight": torch.zeros(3, 3), "a.bias": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="chain"):
        load_official(tmp_path / "other.pth", space)
