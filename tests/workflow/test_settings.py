"""Options first, then the nearest project, then the stated defaults."""

from __future__ import annotations

from pathlib import Path

import pytest

from ofa_tvm.errors import UsageError, UserError
from ofa_tvm.workflow.project import Project
from ofa_tvm.workflow.settings import resolve


@pytest.fixture
def project(tmp_path: Path) -> Path:
    Project(
        tmp_path,
        space="ofa_digits",
        checkpoint=Path("training/supernet.pt"),
        data="digits",
        resolutions=(32, 48),
        accuracy_predictor=Path("accuracy.model"),
        tuning_logs=Path("logs"),
    ).save()
    inside = tmp_path / "deeper" / "still"
    inside.mkdir(parents=True)
    return inside


def test_without_a_project_the_stated_defaults_hold(tmp_path: Path) -> None:
    settings = resolve("x86", start=tmp_path)
    assert settings.space.name == "ofa_mbv3_w1.0"
    assert settings.resolutions is None and settings.chosen_resolutions == (128, 160, 192, 224)
    assert settings.checkpoint is None and settings.n_classes == 1000
    assert settings.logs == tmp_path / "tuning_logs"
    assert "no ofa-tvm.yaml" in settings.describe() and "128, 160, 192, 224" in settings.describe()


def test_the_nearest_project_counts(project: Path) -> None:
    settings = resolve("x86", start=project)
    root = project.parents[1]
    assert settings.space.name == "ofa_digits" and settings.chosen_resolutions == (32, 48)
    assert settings.checkpoint == root / "training/supernet.pt" and settings.logs == root / "logs"
    assert str(root / "ofa-tvm.yaml") in settings.describe()


def test_options_come_first(project: Path) -> None:
    settings = resolve("x86-64-v3", space="ofa_digits", resolutions=(40,), start=project)
    assert settings.chosen_resolutions == (40,) and settings.target.name == "x86-64-v3"
    assert settings.checkpoint is not None, "the space is the project's own"


def test_what_belongs_to_another_space_does_not_count(project: Path) -> None:
    settings = resolve("x86", space="ofa_resnet50", start=project)
    assert settings.checkpoint is None and settings.project.data is None
    assert settings.project.accuracy_predictor is None
    assert settings.chosen_resolutions == (128, 160, 192, 224)
    assert settings.logs == project.parents[1] / "logs", "kernels are kernels, whatever space they serve"


def test_errors_say_what_is_wrong(project: Path) -> None:
    with pytest.raises(UsageError, match=r"resolution 31 is not in the space ofa_mbv3_w1\.0.*128 to 224"):
        resolve("x86", space="ofa_mbv3_w1.0", resolutions=(31,), start=project)
    with pytest.raises(UsageError, match="unknown target"):
        resolve("x87", start=project)
    with pytest.raises(UserError, match=r"training/supernet\.pt"):
        _ = resolve("x86", start=project).n_classes
    missing = resolve("x86", space="ofa_resnet50", start=project).missing("data", "the images")
    assert isinstance(missing, UsageError) and "`data`" in str(missing) and "ofa-tvm.yaml" in str(missing)
