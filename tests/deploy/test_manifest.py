"""The manifest as types: read from files of every age, written as it always was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ofa_tvm.deploy.manifest import AccuracyEntry, LatencyEntry, Manifest, TargetEntry
from ofa_tvm.errors import UserError
from ofa_tvm.spaces import get_space
from ofa_tvm.targets import Variant, get_target
from ofa_tvm.yamlfile import write_yaml

ARCH = get_space("ofa_digits").max_arch(32)


def shipped() -> dict[str, Any]:
    """What a search for an emulated device wrote in November 2026, by the letter."""
    return {
        "format": 1,
        "created": "2026-11-28T18:40:00+00:00",
        "space": "ofa_digits",
        "arch": ARCH.to_dict(),
        "target": {
            "name": "cortex-a72",
            "kind": "arm",
            "tvm": {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a72"},
            "threads": 1,
        },
        "latency": {
            "budget": 2.04,
            "predicted": None,
            "measured": 1.998915,
            "unit": "Minstr",
            "how": {
                "median_ms": None,
                "mad_ms": None,
                "repeats": 3,
                "samples_ms": [],
                "calls": 1,
                "passes": 1,
                "noisy": False,
                "threads": 1,
                "cpus": [],
                "target": "cortex-a72",
                "machine": "qemu-aarch64 as cortex-a72 (emulated)",
                "date": "2026-11-28T18:39:51+00:00",
                "unit": "Minstr",
                "instructions": 1998915,
                "cold_ms": None,
            },
        },
        "accuracy": {"predicted": None, "measured": 0.54, "data": "digits", "float32": 0.55, "change": -0.01},
        "search": {
            "rounds": 1,
            "candidates": [
                {
                    "arch": ARCH.to_dict(),
                    "round": 1,
                    "predicted_accuracy": 0.53,
                    "validation_accuracy": validated,
                    "predicted": 2.0,
                    "measured": 1.998915,
                    "noise": 0.0,
                    "within": True,
                }
                for validated in (None, 0.52)
            ],
        },
        "kernels": [
            {"name": "relu 4->4", "calls": 2, "schedule": "default", "cost": None},
            {"name": "relu 8->8", "calls": 1, "schedule": "tuned", "cost": 0.5, "inside_us": 1.5},
        ],
        "inputs": [{"name": "input", "shape": [1, 3, 32, 32], "dtype": "float32"}],
        "outputs": [{"name": "logits", "shape": [1, 10], "dtype": "float32"}],
        "preprocessing": {
            "mean": [0.5, 0.5, 0.5],
            "std": [0.25, 0.25, 0.25],
            "resolution": 32,
            "interpolation": "bilinear",
            "crop": None,
        },
        "labels": ["0", "1"],
        "check": {
            "dtype": "float16",
            "against": "onnxruntime",
            "max_abs_difference": 0.01,
            "max_rel_difference": 0.002,
            "max_rel_difference_by_input": {"random": 0.002, "zeros": 0.0},
            "tuned_fraction": 0.75,
        },
        "versions": {"ofa-tvm": "0.1"},
        "sha256": {"model.so": "a" * 64, "model.onnx": "b" * 64},
    }


def write(folder: Path, content: dict[str, Any]) -> Path:
    path = folder / "manifest.yaml"
    path.write_text(write_yaml(content))
    return path


def test_what_was_written_is_read_and_written_alike(tmp_path: Path) -> None:
    manifest = Manifest.read(write(tmp_path, shipped()))
    assert manifest.to_dict() == shipped()
    assert list(manifest.to_dict()) == list(shipped()), "the order of the file"
    assert manifest.arch == ARCH and manifest.latency.how is not None
    assert manifest.latency.how.instructions == 1998915
    assert [c.accuracy for c in manifest.search.candidates] == [0.53, 0.52]
    assert [kernel.inside_us for kernel in manifest.kernels] == [None, 1.5]
    assert manifest.outputs[0].shape == (1, 10)
    assert manifest.variant == Variant("cortex-a72", 1, "float16", emulated=True)


@pytest.mark.usefixtures("all_cpus")
def test_nothing_is_written_of_what_is_not_known() -> None:
    target = get_target("x86").with_threads(2)
    manifest = Manifest(TargetEntry.of(target), accuracy=AccuracyEntry(None, None, "digits", 0.9))
    assert manifest.to_dict() == {
        "format": 1,
        "target": {"name": "x86", "kind": "x86", "tvm": dict(target.tvm), "threads": 2},
        "accuracy": {"predicted": None, "measured": None, "data": "digits", "float32": 0.9},
    }
    assert Manifest.from_dict(manifest.to_dict()) == manifest
    assert manifest.variant == Variant.of(target) == Variant("x86", 2)


def test_old_files_say_less(tmp_path: Path) -> None:
    """The first versions wrote no unit, no check's number format, and other names of kernels' costs."""
    content = shipped()
    content["latency"] = {"measured": 1.5}
    content["check"] = {"max_rel_difference": 0.1}
    content["kernels"] = [{"name": "relu 4->4", "time_us": 3.0}]
    del content["search"], content["arch"]
    manifest = Manifest.read(write(tmp_path, content))
    assert manifest.latency == LatencyEntry(None, None, 1.5, "ms")
    assert manifest.check.dtype == "float32" and manifest.check.tuned_fraction is None
    assert manifest.kernels[0].cost is None and manifest.kernels[0].calls == 1
    assert manifest.arch is None and not manifest.search.candidates


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"arch": {"d": [1]}}, r"manifest\.yaml: the architecture lacks the field 'e'"),
        ({"kernels": [{"calls": 1}]}, r"kernels\.0: the key 'name' is missing"),
        ({"kernels": [{"name": "x", "cost": "much"}]}, r"kernels\.0\.cost: 'much' is not a number or null"),
        ({"latency": {"how": {"median_ms": 1}}}, r"latency\.how: the key 'mad_ms' is missing"),
        ({"search": {"candidates": [{}]}}, r"search\.candidates\.0: the key 'arch' is missing"),
        ({"check": {"dtype": "float8"}}, r"check\.dtype: 'float8' is not one of float32, float16"),
    ],
)
def test_what_no_version_wrote_is_refused(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        Manifest.read(write(tmp_path, shipped() | change))
    assert caught.value.exit_code == 1, "a broken file is no bad usage"
