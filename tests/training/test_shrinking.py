"""Training: it learns, it resumes exactly, it stops on nonsense, and processes share it without a trace."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from ofa_tvm.errors import UsageError, UserError
from ofa_tvm.progress import Deadline
from ofa_tvm.spaces import get_space
from ofa_tvm.supernet import build_supernet, dtype_of
from ofa_tvm.supernet.depthwise import weight_gradient
from ofa_tvm.training import Phase, TrainingConfig, TrainingResult, digits, train
from ofa_tvm.training.checkpoint import CheckpointFolder
from ofa_tvm.training.config import CONFIG_SCHEMA
from ofa_tvm.training.job import only_one
from ofa_tvm.training.loss import distillation_loss, label_loss, shrinking_loss
from ofa_tvm.training.optimiser import build_optimiser, cosine_with_warmup, set_learning_rate
from ofa_tvm.training.step import MicroBatch, gradient_scaler, training_step
from ofa_tvm.yamlfile import read_yaml

TINY = Path(tiny.__file__)


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["state_dict"]


def same(a: Path, b: Path) -> bool:
    left, right = weights(a), weights(b)
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def records(out: Path) -> list[dict]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainingResult]:
    out = tmp_path_factory.mktemp("unbroken")
    return out, train(tiny.CONFIG, tiny.tiny_digits(), out)


def test_a_finished_training_leaves_what_it_promises(
    unbroken: tuple[Path, TrainingResult],
) -> None:
    out, result = unbroken
    assert result.checkpoint == out / "supernet.pt" and result.checkpoint.is_file()
    assert [phase.name for phase in result.phases] == ["full", "all", "quantize"]
    assert set(result.phases[0].accuracies) == {"max @32"} and len(result.phases[1].accuracies) == 8
    assert sorted(p.name for p in (out / "phases").iterdir()) == ["all.pt", "full.pt", "quantize.pt"]
    assert len(list((out / "checkpoints").iterdir())) == 2
    epochs = [(r["phase"], r["epoch"]) for r in records(out) if "loss" in r]
    assert epochs == [*((p, e) for p in ("full", "all") for e in (1, 2, 3)), ("quantize", 1)]
    net = build_supernet("ofa_digits", n_classes=10)
    net.load_checkpoint(result.checkpoint)
    assert dtype_of(net) == "int8"
    net.load_checkpoint(out / "phases" / "all.pt")
    assert dtype_of(net) == "float32"


# In the first phase, the second and the third, at a phase's last step, and where no checkpoint of the phase
# exists yet.
@pytest.mark.slow
@pytest.mark.parametrize(("steps", "every_s"), [(4, 0.0), (13, 0.0), (20, 0.0), (9, 0.0), (14, 1e9)])
def test_a_killed_training_continues_as_if_unbroken(
    tmp_path: Path, unbroken: tuple[Path, TrainingResult], steps: int, every_s: float
) -> None:
    child = subprocess.run([sys.executable, TINY, "train", tmp_path, str(steps), str(every_s)])
    assert child.returncode == -signal.SIGKILL
    assert not (tmp_path / "supernet.pt").exists()
    result = train(tiny.CONFIG, tiny.tiny_digits(), tmp_path)
    assert same(result.checkpoint, unbroken[0] / "supernet.pt")
    assert result.phases == unbroken[1].phases
    assert records(tmp_path) == records(unbroken[0])


@pytest.mark.slow
def test_a_training_out_of_time_is_usable_and_goes_on_as_if_unbroken(
    tmp_path: Path, unbroken: tuple[Path, TrainingResult]
) -> None:
    config, data = tiny.CONFIG.replace(log=("csv",)), tiny.tiny_digits()
    for step in (1, 2):
        stopped = train(config, data, tmp_path, deadline=Deadline.after(0.0))
        assert stopped.steps_left == 21 - step and stopped.phases[-1].name == f"full, step {step} of 9"
        assert 0 <= stopped.phases[-1].accuracies["max @32"] <= 1
        build_supernet("ofa_digits", n_classes=10).load_checkpoint(stopped.checkpoint)
    result = train(config, data, tmp_path)
    assert same(result.checkpoint, unbroken[0] / "supernet.pt")
    assert result == TrainingResult(tmp_path / "supernet.pt", unbroken[1].phases)
    assert records(tmp_path) == records(unbroken[0])
    epochs = list(csv.DictReader((tmp_path / "epochs.csv").read_text().splitlines()))
    lines = [r for r in records(tmp_path) if "loss" in r]
    assert [(e["phase"], int(e["epoch"]), float(e["loss"])) for e in epochs] == [
        (r["phase"], r["epoch"], r["loss"]) for r in lines
    ]
    accuracies = list(csv.DictReader((tmp_path / "accuracies.csv").read_text().splitlines()))
    assert [(a["phase"], a["subnet"], float(a["accuracy"])) for a in accuracies] == [
        (phase.name, *pair) for phase in result.phases for pair in phase.accuracies.items()
    ]
    used = TrainingConfig.from_dict(read_yaml(tmp_path / "settings.yaml", CONFIG_SCHEMA))
    assert used == config, "the file of settings is one for --config"


def test_tensorboard_shows_the_losses(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = tiny.CONFIG.replace(phases=(Phase("full", {}, 1),), log=("tensorboard",))
    train(config, tiny.tiny_digits(), tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    (loss,) = events.Scalars("loss")
    assert loss.step == 3 and loss.value == pytest.approx(records(tmp_path)[0]["loss"])
    assert [one.step for one in events.Scalars("accuracy/max @32")] == [3]


def test_without_tensorboards_library_nothing_is_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    config = tiny.CONFIG.replace(log=("tensorboard",))
    with pytest.raises(UserError, match="pip install tensorboard"):
        train(config, tiny.tiny_digits(), tmp_path)
    assert not (tmp_path / "checkpoints").exists()


@pytest.fixture(scope="module")
def tuned_alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainingResult]:
    out = tmp_path_factory.mktemp("finetune")
    return out, tiny.finetune_tiny(out)


# In the middle, at the last step, and where no checkpoint was written yet.
@pytest.mark.slow
@pytest.mark.parametrize(("steps", "every_s"), [(4, 0.0), (9, 0.0), (5, 1e9)])
def test_a_killed_fine_tuning_continues_as_if_unbroken(
    tmp_path: Path, tuned_alone: tuple[Path, TrainingResult], steps: int, every_s: float
) -> None:
    child = subprocess.run([sys.executable, TINY, "finetune", tmp_path, str(steps), str(every_s)])
    assert child.returncode == -signal.SIGKILL
    assert bool(CheckpointFolder(tmp_path / "checkpoints").paths()) == (every_s == 0)
    assert not (tmp_path / "subnet.pt").exists()
    result = tiny.finetune_tiny(tmp_path)
    assert same(result.checkpoint, tuned_alone[0] / "subnet.pt")
    assert result.phases == tuned_alone[1].phases
    assert records(tmp_path) == records(tuned_alone[0])


@pytest.mark.slow
def test_ctrl_c_leaves_a_state_to_continue(tmp_path: Path, unbroken: tuple[Path, TrainingResult]) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(tiny.CONFIG, tiny.tiny_digits(), tmp_path, progress=tiny.AfterSteps(5, signal.SIGINT))
    assert same(train(tiny.CONFIG, tiny.tiny_digits(), tmp_path).checkpoint, unbroken[0] / "supernet.pt")


@pytest.mark.slow
def test_a_training_without_a_compiler_says_so_and_goes_on(
    tmp_path: Path, unbroken: tuple[Path, TrainingResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "ziglang", None)
    monkeypatch.setenv("OFA_TVM_CACHE", str(tmp_path))
    weight_gradient.cache_clear()
    progress = tiny.AfterSteps(-1, signal.SIGINT)  # never
    try:
        result = train(tiny.CONFIG, tiny.tiny_digits(), tmp_path / "out", progress=progress)
    finally:
        weight_gradient.cache_clear()
    said, *phases = progress.said
    assert "needs a C++ compiler" in said and "apt-get install g++" in said
    assert [line.partition(":")[0] for line in phases] == ["full", "all", "quantize"], "nothing else is wrong"
    assert records(tmp_path / "out")[0]["loss"] == pytest.approx(records(unbroken[0])[0]["loss"], rel=1e-4)
    assert not same(result.checkpoint, unbroken[0] / "supernet.pt")  # else it was not another way


def test_a_finished_training_is_not_repeated(unbroken: tuple[Path, TrainingResult]) -> None:
    out, result = unbroken
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*.pt")}
    assert train(tiny.CONFIG, tiny.tiny_digits(), out) == result
    assert repr(tiny.CONFIG.distillation) == "1.0"  # as in a YAML file, where it may be 1 the next time
    assert train(tiny.CONFIG.replace(distillation=1), tiny.tiny_digits(), out) == result
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*.pt")} == before


def test_other_settings_are_refused_in_the_same_folder(
    unbroken: tuple[Path, TrainingResult],
) -> None:
    for config, data, seed in (
        (tiny.CONFIG.replace(momentum=0.8), tiny.tiny_digits(), 0),
        (tiny.CONFIG, tiny.tiny_digits(64), 0),
        (tiny.CONFIG, tiny.tiny_digits(), 1),
    ):
        with pytest.raises(UsageError, match="other settings, data or seed"):
            train(config, data, unbroken[0], seed=seed)


@pytest.mark.slow
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    tmp_path: Path, unbroken: tuple[Path, TrainingResult]
) -> None:
    subprocess.run([sys.executable, TINY, "train", tmp_path, "12", "0"])
    before, newest = CheckpointFolder(tmp_path / "checkpoints").paths()
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1  # among the weights: one of them is slightly off
    newest.write_bytes(data)
    progress = tiny.AfterSteps(1000, signal.SIGKILL)
    checkpoint = train(tiny.CONFIG, tiny.tiny_digits(), tmp_path, progress=progress).checkpoint
    assert same(checkpoint, unbroken[0] / "supernet.pt")
    assert f"{newest} is damaged" in progress.said[0] and "continuing" in progress.said[1]
    assert before.name.split("-")[-1].removesuffix(".pt").lstrip("0") in progress.said[1]
    # A damaged result is written again from the last state.
    data = bytearray(checkpoint.read_bytes())
    data[len(data) // 2] ^= 1
    checkpoint.write_bytes(data)
    assert same(train(tiny.CONFIG, tiny.tiny_digits(), tmp_path).checkpoint, unbroken[0] / "supernet.pt")
    for path in (tmp_path / "checkpoints").iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"all checkpoints .* are damaged"):
        train(tiny.CONFIG, tiny.tiny_digits(), tmp_path)


def test_the_seed_decides(tmp_path: Path) -> None:
    config = tiny.CONFIG.replace(phases=(Phase("full", {}, 1, 0, 5e-2),))
    paths = [
        train(config, tiny.tiny_digits(), tmp_path / name, seed=seed).checkpoint
        for name, seed in (("a", 7), ("b", 7), ("c", 8))
    ]
    assert same(paths[0], paths[1]) and not same(paths[0], paths[2])


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_state(tmp_path: Path) -> None:
    good, wild = tiny.CONFIG.phases[0], Phase("wild", {"ks": 0}, 3, 0, 1e30)
    config = tiny.CONFIG.replace(phases=(good, wild), label_smoothing=0.0)
    with pytest.raises(UserError, match=r"the loss became (nan|inf) in phase wild at step \d+ of 9"):
        train(config, tiny.tiny_digits(), tmp_path)
    state = CheckpointFolder(tmp_path / "checkpoints").load_last()
    assert state is not None
    assert all(bool(torch.isfinite(t).all()) for t in state["net"].values())
    assert not (tmp_path / "supernet.pt").exists() and (tmp_path / "phases" / "full.pt").exists()


def test_weights_that_are_not_finite_after_the_last_step_are_no_result(tmp_path: Path) -> None:
    config = tiny.CONFIG.replace(phases=(Phase("wild", {}, 1, 0, 1e30),), batch_size=96, weight_decay=1e30)
    with pytest.raises(UserError, match="weights stopped being finite in phase wild at step 1 of 1"):
        train(config, tiny.tiny_digits(), tmp_path)
    assert not list(tmp_path.rglob("*.pt"))


@pytest.mark.slow
def test_a_trained_supernet_is_quantised_and_its_full_net_teaches(
    tmp_path: Path, unbroken: tuple[Path, TrainingResult]
) -> None:
    """From a file of float32, and from a quantised one, whose ranges do not matter."""
    before = unbroken[0] / "phases" / "all.pt"
    alone = tiny.CONFIG.replace(phases=tiny.CONFIG.phases[2:])
    result = train(alone, tiny.tiny_digits(), tmp_path / "alone", init=before)
    net = build_supernet("ofa_digits", n_classes=10)
    net.load_checkpoint(result.checkpoint)
    assert dtype_of(net) == "int8"
    first, again = (r["loss"] for r in (records(tmp_path / "alone")[0], records(unbroken[0])[-2]))
    assert first == pytest.approx(again, rel=0.3)
    untaught = train(alone.replace(distillation=0), tiny.tiny_digits(), tmp_path / "untaught", init=before)
    assert not same(untaught.checkpoint, result.checkpoint)
    train(alone, tiny.tiny_digits(), tmp_path / "again", init=result.checkpoint)


def test_a_result_without_its_checkpoints_is_not_trained_over(
    unbroken: tuple[Path, TrainingResult], tmp_path: Path
) -> None:
    (tmp_path / "supernet.pt").write_bytes((unbroken[0] / "supernet.pt").read_bytes())
    with pytest.raises(UsageError, match="whose checkpoints are gone"):
        train(tiny.CONFIG, tiny.tiny_digits(), tmp_path)
    assert same(tmp_path / "supernet.pt", unbroken[0] / "supernet.pt")


def in_two_processes(out: Path, steps: int) -> int:
    """Train under torchrun, each process killed after so many steps (-1: never); returns the exit code."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run([*command, TINY, "train", out, str(steps), "0"], capture_output=True, timeout=120)
    return done.returncode


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shared")
    assert in_two_processes(out, -1) == 0
    return out


@pytest.mark.slow
@pytest.mark.usefixtures("all_cpus")
def test_two_processes_give_the_single_process_result(
    shared: Path, unbroken: tuple[Path, TrainingResult]
) -> None:
    # With one subnet a step, each process adds one term and the sums are the same to the last bit.
    assert same(shared / "phases" / "full.pt", unbroken[0] / "phases" / "full.pt")
    # With two, gradients are added in another order; rounding grows with the steps.
    for ours, single in zip(records(shared), records(unbroken[0]), strict=True):
        assert ours.get("loss", 0) == pytest.approx(single.get("loss", 0), rel=1e-3)


@pytest.mark.slow
@pytest.mark.usefixtures("all_cpus")
def test_two_killed_processes_continue_as_if_unbroken(tmp_path: Path, shared: Path) -> None:
    assert in_two_processes(tmp_path, 13) != 0
    assert not (tmp_path / "supernet.pt").exists() and (tmp_path / "phases" / "full.pt").exists()
    assert in_two_processes(tmp_path, -1) == 0
    assert same(tmp_path / "supernet.pt", shared / "supernet.pt")
    assert records(tmp_path) == records(shared)


def test_one_folder_belongs_to_one_training(tmp_path: Path) -> None:
    with only_one(tmp_path), pytest.raises(UserError, match="another process is training"):
        train(tiny.CONFIG, tiny.tiny_digits(), tmp_path)


def test_requests_that_do_not_fit(tmp_path: Path) -> None:
    data = tiny.tiny_digits()
    with pytest.raises(UsageError, match="no resolution 33"):
        train(tiny.CONFIG.replace(resolutions=(33,)), data, tmp_path)
    with pytest.raises(UsageError, match="opens 'w'"):
        train(tiny.CONFIG.replace(phases=(Phase("x", {"w": 0}),)), data, tmp_path)
    with pytest.raises(UsageError, match="phase quantize quantises a trained supernet: name one"):
        train(tiny.CONFIG.replace(phases=tiny.CONFIG.phases[2:]), data, tmp_path)
    with pytest.raises(UsageError, match="phase all comes after one that quantises"):
        tiny.CONFIG.replace(phases=tiny.CONFIG.phases[::-1])
    with pytest.raises(UsageError, match="unknown device 'gpu9'"):
        train(tiny.CONFIG.replace(device="gpu9"), data, tmp_path)
    with pytest.raises(UsageError, match="device 'meta' cannot be trained on"):
        train(tiny.CONFIG.replace(device="meta"), data, tmp_path)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot write"):
        train(tiny.CONFIG, data, tmp_path / "file")


# ---- a step -----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "distilled"), [("float32", False), ("float32", True), ("bfloat16", False)]
)
def test_the_loss_goes_down_on_real_digits(precision: str, distilled: bool) -> None:
    torch.manual_seed(0)
    data, space = digits(), get_space("ofa_digits")
    config = tiny.CONFIG.replace(precision=precision)
    net = build_supernet(space, n_classes=10).train()
    teacher = net.extract(space.max_arch()).train() if distilled else None
    optimiser = build_optimiser(net, 0.9, 3e-5)
    set_learning_rate(optimiser, 0.05)
    # A CPU without bfloat16 takes ten times as long for a network of full size.
    arch = space.max_arch(32) if precision == "float32" else space.min_arch(32)
    rng = np.random.default_rng(0)
    losses = []
    for step in range(25):
        indices = rng.integers(data.size("train"), size=32)
        batch = MicroBatch(
            data.training_batch(indices, 32, step), torch.from_numpy(data.targets("train")[indices]), step
        )
        losses.append(training_step(net, optimiser, [batch], [arch], config, teacher))
    assert np.mean(losses[-3:]) < (0.9 if distilled else 0.7) * np.mean(losses[:3])


def test_float16_scales_its_loss_and_skips_overflowing_updates() -> None:
    torch.manual_seed(0)
    config = tiny.CONFIG.replace(precision="float16", dropout=0.0)
    net = build_supernet("ofa_digits", n_classes=10).train()
    optimiser = build_optimiser(net, 0.0, 0.0)
    set_learning_rate(optimiser, 0.01)
    batch = MicroBatch(torch.randn(4, 3, 32, 32), torch.arange(4), 0)
    scaler = gradient_scaler(config, torch.device("cpu"))
    assert scaler.is_enabled() and not gradient_scaler(tiny.CONFIG, torch.device("cpu")).is_enabled()
    archs = [net.space.min_arch(32)]
    weight = net.get_parameter("first_conv.conv.weight")

    def step() -> torch.Tensor:
        before = weight.detach().clone()
        training_step(net, optimiser, [batch], archs, config, scaler=scaler)
        return (weight.detach() - before).abs().max()

    scale = scaler.get_scale()
    scaler.load_state_dict({**scaler.state_dict(), "scale": 2.0**40})  # overflows
    assert step() == 0 and scaler.get_scale() == 2.0**39
    scaler.load_state_dict({**scaler.state_dict(), "scale": scale / 64})
    assert 0 < step() < 1


def test_gradients_of_subnets_add_up() -> None:
    space = get_space("ofa_digits")
    archs = [space.min_arch(32), space.max_arch(32)]
    config = tiny.CONFIG.replace(dropout=0.0)
    torch.manual_seed(0)
    net = build_supernet(space, n_classes=10).train()
    batch = MicroBatch(torch.randn(8, 3, 32, 32), torch.arange(8), 0)
    optimiser = build_optimiser(net, 0.0, 0.0)  # learning rate 0: weights stay

    def gradient(subnets: list) -> torch.Tensor:
        training_step(net, optimiser, [batch], subnets, config)
        weight = net.get_parameter("first_conv.conv.weight")
        assert weight.grad is not None
        return weight.grad.clone()

    torch.testing.assert_close(gradient(archs), gradient(archs[:1]) + gradient(archs[1:]))


def test_losses_follow_their_formulas() -> None:
    logits, teacher = torch.randn(4, 10, dtype=torch.float64), torch.randn(4, 10, dtype=torch.float64)
    logits, teacher = logits.float(), teacher.float()
    targets = torch.tensor([1, 0, 9, 3])
    log_p = logits.log_softmax(1)
    soft = torch.full((4, 10), 0.01).scatter(1, targets[:, None], 0.91)
    torch.testing.assert_close(label_loss(logits, targets, 0.1), -(soft * log_p).sum(1).mean())
    ce = -(teacher.softmax(1) * log_p).sum(1).mean()
    torch.testing.assert_close(distillation_loss(logits, teacher, "ce"), ce)
    torch.testing.assert_close(distillation_loss(logits, teacher, "mse"), ((logits - teacher) ** 2).mean())
    both = shrinking_loss(logits, targets, teacher, smoothing=0.1, distillation=3.0, kind="ce")
    torch.testing.assert_close(both, (label_loss(logits, targets, 0.1) + 3 * ce) / 2)


def test_only_weights_are_decayed() -> None:
    net = build_supernet("ofa_digits", n_classes=10)
    optimiser = build_optimiser(net, 0.9, 3e-5)
    decayed, free = (group["params"] for group in optimiser.param_groups)
    assert len(decayed) + len(free) == len(list(net.parameters()))
    names = {id(p): name for name, p in net.named_parameters()}
    assert all(".bn." in names[id(p)] or names[id(p)].endswith("bias") for p in free)
    assert not any(".bn." in names[id(p)] or names[id(p)].endswith("bias") for p in decayed)
    assert optimiser.param_groups[0]["nesterov"] and optimiser.param_groups[1]["weight_decay"] == 0


def test_schedule() -> None:
    rates = [cosine_with_warmup(step, 100, 10, 2.0) for step in range(100)]
    assert rates[0] == pytest.approx(0.2) and rates[9] == rates[10] == 2.0
    assert all(a > b for a, b in pairwise(rates[10:]))
    assert rates[55] == pytest.approx(1.0) and 0 < rates[99] < 0.01


def test_a_compiled_net_takes_the_same_step() -> None:
    """Traced as for a compiler, and run by torch: code generation would take a minute."""
    config = tiny.CONFIG.replace(dropout=0.0)
    batch = MicroBatch(
        torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1)), torch.arange(4), 0
    )
    losses = []
    for compiled in (False, True):
        torch.manual_seed(0)
        net = build_supernet("ofa_digits", n_classes=10).train()
        forward = torch.compile(net, backend="eager") if compiled else None
        optimiser = build_optimiser(net, 0.9, 0.0)
        set_learning_rate(optimiser, 0.1)
        archs = [net.space.max_arch(32)]
        losses.append([training_step(net, optimiser, [batch], archs, config, forward=forward) for _ in "ab"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4) and losses[0][0] != losses[0][1]
