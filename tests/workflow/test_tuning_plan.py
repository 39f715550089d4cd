"""What is left to tune is counted and timed as it is then done."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_module import write_small_onnx

from ofa_tvm.errors import UsageError, UserError
from ofa_tvm.logs import find_records
from ofa_tvm.targets import get_target
from ofa_tvm.tuning import allot
from ofa_tvm.workflow.tune import DEFAULT_TRIAL_S, START_S, model_kernels, plan_tuning, tune


@pytest.mark.slow
def test_plan_and_campaign_agree(tmp_path: Path) -> None:
    target, logs = get_target("x86"), tmp_path / "logs"
    kernels = model_kernels(write_small_onnx(tmp_path / "small.onnx"), target)
    plan = plan_tuning(kernels, target, logs, trials=4)
    assert plan.kernels == len(kernels) == sum(kind.kernels for kind in plan.kinds)
    assert {kind.kind for kind in plan.kinds} == {kernel.signature.kind for kernel in kernels}
    assert any("conv2d" in kind.kind for kind in plan.kinds)
    assert sum(kind.calls for kind in plan.kinds) == sum(kernel.calls for kernel in kernels)
    assert plan.logged == 0
    wanted = allot(kernels, 4)
    assert len(kernels) <= plan.trials < sum(wanted.values()), "an elementwise kernel has one schedule"
    assert not plan.timed and plan.trial_s == DEFAULT_TRIAL_S
    assert plan.seconds == pytest.approx(START_S + plan.trials * plan.trial_s / plan.workers)
    assert not logs.exists(), "a plan writes nothing"

    first = tune(kernels, target, logs, trials=1)
    assert first.complete and first.tuned == len(kernels)
    then = plan_tuning(kernels, target, logs, trials=4)
    assert then.logged == len(kernels) and then.trials == plan.trials - first.trials
    assert first.trials < 50 and not then.timed, "so few say how long a worker takes to start"
    (pace,) = logs.glob("*/pace.json")
    noted = json.loads(pace.read_text())
    assert noted["trials"] == first.trials and noted["worker_seconds"] >= 0
    pace.write_text(json.dumps({"trials": 100, "worker_seconds": 30.0}))
    then = plan_tuning(kernels, target, logs, trials=4)
    assert then.timed and then.trial_s == pytest.approx(0.3)
    assert plan_tuning(kernels, target, logs, trials=1).trials == 0
    assert tune(kernels, target, logs, trials=1).trials == 0
    assert find_records(target, [logs]).problems == [], "the note of the pace is no log"


@pytest.mark.slow
def test_time_is_a_limit_and_the_next_call_goes_on(tmp_path: Path) -> None:
    target, logs = get_target("x86"), tmp_path / "logs"
    kernels = model_kernels(write_small_onnx(tmp_path / "small.onnx"), target)
    stopped = tune(kernels, target, logs, trials=1, seconds=0.0)
    assert not stopped.complete and stopped.tuned < len(kernels)
    assert tune(kernels, target, logs, trials=1).tuned == len(kernels)


def test_a_models_own_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no ONNX file"):
        model_kernels(tmp_path / "none.onnx", get_target("x86"))
    model = write_small_onnx(tmp_path / "small.onnx")
    with pytest.raises(UsageError, match="has no input 'image'"):
        model_kernels(model, get_target("x86"), {"image": (1, 3, 16, 16)})
