"""Progressive shrinking: the full net first, then ever smaller subnets, taught by the full net."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn

from ofa_tvm import files
from ofa_tvm.errors import UsageError, UserError
from ofa_tvm.progress import SILENT, Progress
from ofa_tvm.spaces import Arch, get_space
from ofa_tvm.supernet import Supernet, build_supernet
from ofa_tvm.supernet.batchnorm import calibrate
from ofa_tvm.training import sampling
from ofa_tvm.training.checkpoint import CheckpointFolder
from ofa_tvm.training.config import PER_IMAGES, Phase, TrainingConfig
from ofa_tvm.training.data import BatchPlan, ImageData
from ofa_tvm.training.distributed import add_up, add_up_gradients, process_group
from ofa_tvm.training.loss import shrinking_loss
from ofa_tvm.training.optimiser import build_optimiser, cosine_with_warmup, set_learning_rate
from ofa_tvm.training.validation import accuracy, calibrated_subnet, calibration_batches

Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class PhaseResult:
    """Validation accuracies (0..1) at the end of a phase, by subnet ("ks=min d=max @48")."""

    name: str
    accuracies: dict[str, float]


@dataclass(frozen=True)
class TrainingResult:
    """Where the supernet lies, and how each phase ended."""

    checkpoint: Path
    phases: tuple[PhaseResult, ...]


@dataclass(frozen=True)
class MicroBatch:
    """Images of one forward pass and their classes, on the device that computes."""

    images: Tensor
    targets: Tensor
    dropout_seed: int


def train(
    config: TrainingConfig,
    data: ImageData,
    out_dir: str | Path,
    *,
    progress: Progress = SILENT,
    seed: int = 0,
) -> TrainingResult:
    """Train a supernet by progressive shrinking (Cai et al., arXiv 1908.09791, section 3.3).

    Called again with the same arguments it continues where it was stopped, in whatever way, and ends with the
    same weights as an unbroken run; a finished training returns at once. Under torchrun all processes share
    the work.

    Parameters
    ----------
    config
        Settings; `paper_config(space)` or `digits_config()`.
    data
        Training and validation splits are used, the test split never.
    out_dir
        Receives `supernet.pt`, `metrics.jsonl` (a line an epoch), `phases/<name>.pt` and `checkpoints/`.
    seed
        Of weights, order, augmentation and subnets.

    Raises
    ------
    UsageError
        If the settings do not fit the space, or the folder holds a training with other settings.
    UserError
        If the loss stops being finite, or a file cannot be written.
    """
    out = Path(out_dir)
    device = choose_device(config.device)
    with ExitStack() as stack:
        rank, world = stack.enter_context(process_group(device))
        if rank == 0:
            stack.enter_context(_only_one(out))
        if config.threads is not None:
            stack.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(config.threads)
        return _Training(config, data, out, device, seed, rank, world, progress).run()


def choose_device(name: str) -> torch.device:
    """ "auto" is CUDA where there is one, else the CPU.

    Raises
    ------
    UsageError
        If the device is unknown or absent.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"unknown device {name!r}; use auto, cpu or cuda") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError("this machine has no CUDA device that torch can use; use device cpu")
    return device


@contextmanager
def _only_one(out: Path) -> Iterator[None]:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}") from error
    lock = FileLock(out / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"another process is training in {out}; wait for it or choose another folder"
        ) from None
    try:
        yield
    finally:
        lock.release()


def shrinking_step(
    net: Supernet,
    optimiser: torch.optim.Optimizer,
    batches: Sequence[MicroBatch],
    archs: Sequence[Arch],
    config: TrainingConfig,
    teacher: nn.Module | None = None,
    *,
    world: int = 1,
) -> float:
    """One update: the gradients of all subnets, over all micro-batches and processes, added up.

    Nothing is updated when the loss is not finite.

    Returns
    -------
    float
        Mean loss over subnets and images.
    """
    optimiser.zero_grad(set_to_none=True)
    total = 0.0
    micro_batches = len(batches) * world
    kind = batches[0].images.device.type
    for batch in batches:
        with torch.autocast(kind, dtype=torch.bfloat16, enabled=config.precision == "bfloat16"):
            with torch.no_grad():
                teacher_logits = None if teacher is None else teacher(batch.images)
            for number, arch in enumerate(archs):
                torch.manual_seed(sampling.derived_seed(batch.dropout_seed, number))
                net.set_active(arch)
                loss = shrinking_loss(
                    net(batch.images),
                    batch.targets,
                    teacher_logits,
                    smoothing=config.label_smoothing,
                    distillation=config.distillation,
                    kind=config.distillation_type,
                )
                (loss / micro_batches).backward()
                total += float(loss.detach()) / (micro_batches * len(archs))
    if world > 1:
        total = add_up(total, batches[0].images.device)
    if math.isfinite(total):
        if world > 1:
            add_up_gradients(p for group in optimiser.param_groups for p in group["params"])
        optimiser.step()
    return total


class _Training:
    """One call of `train`."""

    def __init__(
        self,
        config: TrainingConfig,
        data: ImageData,
        out: Path,
        device: torch.device,
        seed: int,
        rank: int,
        world: int,
        progress: Progress,
    ) -> None:
        self.config, self.data, self.out, self.device = config, data, out, device
        self.seed, self.rank, self.world, self.progress = seed, rank, world, progress
        self.space = get_space(config.space)
        self.resolutions = config.resolutions or self.space.resolutions
        for resolution in self.resolutions:
            if resolution not in self.space.resolutions:
                raise UsageError(f"{self.space.name} has no resolution {resolution}")
        for phase in config.phases:
            sampling.gene_ranges(self.space, phase)

        self.batch_size = min(config.batch_size, data.size("train"))
        self.steps_per_epoch = data.size("train") // self.batch_size
        micro = min(config.micro_batch_size or self.batch_size, self.batch_size)
        self.micro_batches = -(-self.batch_size // micro)
        if self.micro_batches % world:
            raise UsageError(
                f"a batch has {self.micro_batches} micro-batches, which {world} processes cannot "
                "share equally; choose batch_size and micro_batch_size accordingly"
            )
        self.checkpoints = CheckpointFolder(out / "checkpoints")
        self.metrics = out / "metrics.jsonl"
        self.result_path = out / "supernet.pt"
        # What must be the same for a run to be continued; where it computes may differ.
        settings = config.to_dict()
        for free in ("device", "threads", "checkpoint_every_s"):
            del settings[free]
        self.identity = json.dumps(
            {"config": settings, "seed": seed, "data": data.fingerprint, "labels": list(data.labels)},
            sort_keys=True,
        )

        self.results: list[PhaseResult] = []
        self.teacher: nn.Module | None = None
        self.net = self._fresh_net(config.dropout)

    def _fresh_net(self, dropout: float) -> Supernet:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            net = build_supernet(self.space, n_classes=self.data.n_classes, dropout=dropout)
        return self._placed(net)

    def _placed(self, net: Module) -> Module:
        if self.config.channels_last:
            net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        net.to(self.device)
        return net

    def run(self) -> TrainingResult:
        first_phase, first_step, state = self._restore()
        for index in range(first_phase, len(self.config.phases)):
            self._run_phase(index, first_step if index == first_phase else 0, state)
            state = None
        if self.rank == 0 and not self.result_path.exists():
            self._save_supernet(self.result_path)
        return TrainingResult(self.result_path, tuple(self.results))

    # -- state ------------------------------------------------------------------------------------------

    def _restore(self) -> tuple[int, int, dict[str, Any] | None]:
        """Continue from the newest checkpoint: (phase, step, state)."""
        state = self.checkpoints.load_last(self.progress)
        if state is None:
            self._keep_metrics(0, 0)
            return 0, 0, None
        if state["identity"] != self.identity:
            raise UsageError(
                f"{self.out} holds a training with other settings, data or seed; "
                "choose another folder or delete it"
            )
        phase, step = int(state["phase"]), int(state["step"])
        self.net.load_state_dict(state["net"])
        self.results = [PhaseResult(name, dict(accuracies)) for name, accuracies in state["results"]]
        self._keep_metrics(phase, step)
        if phase < len(self.config.phases):
            self.progress.say(f"continuing phase {self.config.phases[phase].name} at step {step}")
        return phase, step, state

    def _save(self, phase: int, step: int, optimiser: torch.optim.Optimizer | None, loss_sum: float) -> None:
        if self.rank != 0:
            return
        if not all(bool(torch.isfinite(p).all()) for p in self.net.parameters()):
            return  # a diverged step; the next loss will say so
        self.checkpoints.save(
            phase,
            step,
            {
                "identity": self.identity,
                "phase": phase,
                "step": step,
                "net": self.net.state_dict(),
                "optimiser": None if optimiser is None else optimiser.state_dict(),
                "epoch_loss_sum": loss_sum,
                "results": [(result.name, result.accuracies) for result in self.results],
            },
        )

    def _keep_metrics(self, phase: int, step: int) -> None:
        """Drop lines of steps that will be taken again."""
        if self.rank != 0 or not self.metrics.exists():
            return
        kept = []
        for line in self.metrics.read_text().splitlines():
            try:
                record = json.loads(line)
            except ValueError:  # cut short by a kill
                continue
            if (record["phase_index"], record["step"]) <= (phase, step):
                kept.append(line + "\n")
        files.write_atomic(self.metrics, "".join(kept))

    def _log(self, record: dict[str, Any]) -> None:
        if self.rank == 0:
            files.append_line(self.metrics, json.dumps(record))

    # -- one phase --------------------------------------------------------------------------------------

    def _run_phase(self, index: int, first_step: int, state: dict[str, Any] | None) -> None:
        config, phase = self.config, self.config.phases[index]
        self._load_teacher(index)
        if first_step == 0 and phase.sort_channels:
            self.net.sort_channels(sampling.trained_ratios(self.space, config.phases[:index]))
        optimiser = build_optimiser(self.net, config.momentum, config.weight_decay)
        loss_sum = 0.0
        if first_step and state is not None:
            optimiser.load_state_dict(state["optimiser"])
            loss_sum = float(state["epoch_loss_sum"])

        steps = phase.total_epochs * self.steps_per_epoch
        warmup = phase.warmup_epochs * self.steps_per_epoch
        peak = phase.learning_rate * self.batch_size / PER_IMAGES
        pixels = self.data.training_batches(self._plan(index, first_step, steps))
        saved_at = started = time.monotonic()
        self.net.train()
        with (
            _frozen_statistics(self.net),
            torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []),
            self.progress.task(f"train {phase.name}", total=steps) as bar,
        ):
            bar.advance(first_step)
            for step in range(first_step, steps):
                set_learning_rate(optimiser, cosine_with_warmup(step, steps, warmup, peak))
                resolution = self._resolution(index, step)
                loss = shrinking_step(
                    self.net,
                    optimiser,
                    [self._micro_batch(next(pixels), index, step, m) for m in self._my_micro_batches()],
                    sampling.step_subnets(self.space, phase, index, self.seed, step, resolution),
                    config,
                    self.teacher,
                    world=self.world,
                )
                if not math.isfinite(loss):
                    raise UserError(
                        f"the loss became {loss} in phase {phase.name} at step {step + 1} of {steps}; "
                        f"the last good checkpoint is kept in {self.checkpoints.folder}; "
                        "lower the phase's learning_rate"
                    )
                loss_sum += loss
                done = step + 1
                if done % self.steps_per_epoch == 0:
                    self._log(
                        {
                            "phase": phase.name,
                            "phase_index": index,
                            "epoch": done // self.steps_per_epoch,
                            "step": done,
                            "loss": loss_sum / self.steps_per_epoch,
                            "seconds": round(time.monotonic() - started, 3),
                        }
                    )
                    loss_sum = 0.0
                if done < steps and time.monotonic() - saved_at >= config.checkpoint_every_s:
                    self._save(index, done, optimiser, loss_sum)
                    saved_at = time.monotonic()
                bar.advance(1, note=f"loss {loss:.3f}")
        self._end_phase(index, steps)

    def _end_phase(self, index: int, steps: int) -> None:
        phase = self.config.phases[index]
        if self.rank == 0:
            result = PhaseResult(phase.name, self._validate(phase))
            self.results.append(result)
            self._log(
                {"phase": phase.name, "phase_index": index, "step": steps, "accuracies": result.accuracies}
            )
            self._save_supernet(self._phase_path(phase))
            self._save(index + 1, 0, None, 0.0)
        if self.world > 1:
            torch.distributed.barrier()

    def _validate(self, phase: Phase) -> dict[str, float]:
        accuracies = {}
        for label, arch in sampling.corner_subnets(self.space, phase).items():
            for resolution in sorted({min(self.resolutions), max(self.resolutions)}):
                sub = calibrated_subnet(
                    self.net, arch.replace(r=resolution), self.data, self.config.calibration_images, self.seed
                )
                accuracies[f"{label} @{resolution}"] = accuracy(sub, self.data, "val", resolution)
        return accuracies

    def _load_teacher(self, index: int) -> None:
        """The full net as the first phase left it; it normalises by each batch, as in the paper's code."""
        if index == 0 or self.config.distillation == 0 or self.teacher is not None:
            return
        full = self._fresh_net(dropout=0.0)
        full.load_checkpoint(self._phase_path(self.config.phases[0]))
        self.teacher = self._placed(full.extract(self.space.max_arch()))
        self.teacher.train().requires_grad_(False)

    def _phase_path(self, phase: Phase) -> Path:
        return self.out / "phases" / f"{phase.name}.pt"

    def _save_supernet(self, path: Path) -> None:
        """The weights, with the batch statistics of the full net."""
        full = self.space.max_arch(self.space.median_resolution)
        self.net.set_active(full)
        images = self.config.calibration_images
        calibrate(self.net, calibration_batches(self.data, full.r, images, self.seed, self.device))
        self.net.save_checkpoint(path)

    # -- batches ----------------------------------------------------------------------------------------

    def _my_micro_batches(self) -> range:
        return range(self.rank, self.micro_batches, self.world)

    def _resolution(self, phase: int, step: int) -> int:
        return sampling.step_resolution(self.resolutions, self.seed, phase, step)

    def _indices(self, phase: int, step: int, micro_batch: int) -> np.ndarray:
        epoch, position = divmod(step, self.steps_per_epoch)
        order = sampling.epoch_order(self.data.size("train"), self.seed, phase, epoch)
        batch = order[position * self.batch_size : (position + 1) * self.batch_size]
        return np.array_split(batch, self.micro_batches)[micro_batch]

    def _plan(self, phase: int, first_step: int, steps: int) -> Iterator[BatchPlan]:
        for step in range(first_step, steps):
            resolution = self._resolution(phase, step)
            for m in self._my_micro_batches():
                seed = sampling.derived_seed(sampling.PIXELS, self.seed, phase, step, m)
                yield self._indices(phase, step, m), resolution, seed

    def _micro_batch(self, images: Tensor, phase: int, step: int, m: int) -> MicroBatch:
        layout = torch.channels_last if self.config.channels_last else torch.contiguous_format
        targets = torch.from_numpy(self.data.targets("train")[self._indices(phase, step, m)])
        return MicroBatch(
            images.to(self.device, memory_format=layout, non_blocking=True),
            targets.to(self.device, non_blocking=True),
            sampling.derived_seed(sampling.DROPOUT, self.seed, phase, step, m),
        )


@contextmanager
def _frozen_statistics(net: nn.Module) -> Iterator[None]:
    """Keep running statistics out of training: every subnet would mix its own into them.

    Batches are normalised by their own statistics; a subnet's are estimated when it is evaluated.
    """
    norms = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked.zero_()  # it counts forward passes, which processes share
