"""The loop that all trainings share: phases of epochs, checkpoints to continue from, metrics, validation."""

from __future__ import annotations

import json
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from ofa_tvm.errors import UsageError, UserError
from ofa_tvm.files import write_atomic
from ofa_tvm.job import in_job
from ofa_tvm.progress import NEVER, Deadline, Progress
from ofa_tvm.spaces import Arch, Space
from ofa_tvm.supernet.checkpoint import read_checkpoint
from ofa_tvm.supernet.depthwise import weight_gradient
from ofa_tvm.supernet.fake_quantization import load_ranges, set_dtype
from ofa_tvm.training.batches import Batches
from ofa_tvm.training.checkpoint import CheckpointFolder
from ofa_tvm.training.config import PER_IMAGES, Phase, TrainingConfig
from ofa_tvm.training.data import ImageData
from ofa_tvm.training.decoders import dead_workers_explained
from ofa_tvm.training.distributed import add_up, add_up_values, choose_device, process_group
from ofa_tvm.training.identity import identity
from ofa_tvm.training.job import PhaseResult, TrainingJob, TrainingResult, only_one
from ofa_tvm.training.loggers import loggers
from ofa_tvm.training.memory import keep_freed_memory
from ofa_tvm.training.metrics import Metrics
from ofa_tvm.training.optimiser import build_optimiser, cosine_with_warmup, set_learning_rate
from ofa_tvm.training.parts import SETTINGS, VALIDATE, settings_file, steps_task, training_parts
from ofa_tvm.training.reserve import Reserve
from ofa_tvm.training.statistics import frozen_statistics
from ofa_tvm.training.step import Forward, gradient_scaler, training_step
from ofa_tvm.training.validation import accuracy

Module = TypeVar("Module", bound=nn.Module)
_ENDS = 2  # subnets that are validated when the time is up
_STATE = ("identity", "phase", "step", "net", "optimiser", "scaler", "epoch_loss_sum", "results")


def run_training(
    make: Callable[[TrainingJob], TrainingLoop],
    config: TrainingConfig,
    data: ImageData,
    out_dir: str | Path,
    progress: Progress,
    seed: int,
    deadline: Deadline = NEVER,
) -> TrainingResult:
    """Run one training in its folder, alone or as one of torchrun's processes."""
    out = Path(out_dir)
    device = choose_device(config.device)
    if device.type == "cpu":
        keep_freed_memory()
    with ExitStack() as stack:
        rank, world = stack.enter_context(process_group(device))
        if rank == 0:
            stack.enter_context(only_one(out))
            if device.type == "cpu" and (problem := weight_gradient()[1]):
                progress.say(f"training without the fast depthwise gradients: {problem}")
        if config.threads is not None:
            stack.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(config.threads)
        return make(TrainingJob(config, data, out, device, seed, rank, world, progress, deadline)).run()


class TrainingLoop(ABC):
    """Trains a network through phases; what the network is and which subnets a step runs is the subclass's.

    Everything random is a function of (seed, phase, step): the checkpoint needs no generator states, and
    every process draws the same.
    """

    result_name: str
    """File of the trained network, in the training's folder."""

    def __init__(self, setting: TrainingJob, space: Space, origin: Mapping[str, Any]) -> None:
        """`origin` says what the network starts from, if not from fresh weights; it must stay the same."""
        config, data = setting.config, setting.data
        self.setting, self.config, self.data, self.space = setting, config, data, space
        self.out, self.device, self.seed = setting.out, setting.device, setting.seed
        self.progress = setting.progress
        images = data.size("train")
        self.batch_size, self.steps_per_epoch = config.batch(images), config.steps_per_epoch(images)
        self.micro_batches = -(-self.batch_size // config.micro_batch(images))
        if self.micro_batches % setting.world:
            raise UsageError(
                f"a batch has {self.micro_batches} micro-batches, which {setting.world} processes cannot "
                "share equally; choose batch_size and micro_batch_size accordingly"
            )
        self.checkpoints = CheckpointFolder(self.out / "checkpoints")
        steps = [phase.total_epochs * self.steps_per_epoch for phase in config.phases]
        told = loggers(config.log, self.out, steps) if setting.rank == 0 else ()
        self.metrics = Metrics(self.out / "metrics.jsonl", setting.rank == 0, told)
        self.identity = identity(setting, origin)
        self.results: list[PhaseResult] = []
        self.net = self.build()

    # -- what subclasses say ----------------------------------------------------------------------------

    @abstractmethod
    def build(self) -> nn.Module:
        """The network before its first step, placed on the device."""

    @abstractmethod
    def resolutions(self) -> tuple[int, ...]:
        """Those that steps draw from."""

    @abstractmethod
    def subnets(self, index: int, step: int, resolution: int) -> list[Arch]:
        """The subnets of one step."""

    @abstractmethod
    def begin_phase(self, index: int, first_step: int) -> None:
        """Called before a phase's steps, or before the rest of them."""

    @abstractmethod
    def teacher(self, index: int) -> nn.Module | None:
        """Who teaches in a phase: a network whose shape never changes, in the mode it is to run in."""

    @abstractmethod
    def is_fixed(self, phase: Phase) -> bool:
        """Whether all steps of a phase run the same network."""

    @abstractmethod
    def validated(self, phase: Phase) -> dict[str, Arch]:
        """Subnets, with resolutions, to validate at the end of a phase, by what logs call them."""

    @abstractmethod
    def calibrated(self, arch: Arch) -> nn.Module:
        """One of those subnets, ready to evaluate."""

    @abstractmethod
    def save_network(self, path: Path) -> None:
        """Write the network as it is now."""

    # -- running ----------------------------------------------------------------------------------------

    @property
    def result_path(self) -> Path:
        return self.out / self.result_name

    def run(self) -> TrainingResult:
        first_phase, first_step, state = self._restore()
        if self.setting.rank == 0:
            write_atomic(self.out / SETTINGS, settings_file(self.config, self.data, self.seed))
        left = self.config.phases[first_phase:]
        parts = [part for number, _ in enumerate(left, first_phase) for part in training_parts(self, number)]
        with in_job(self.progress, "train", parts, self.setting.deadline) as job, closing(self.metrics):
            self.progress = job
            for index in range(first_phase, len(self.config.phases)):
                with job.phase(self.config.phases[index].name):
                    done = self._run_phase(index, first_step if index == first_phase else 0, state)
                    if done is not None:
                        return self._unfinished(index, done)
                state = None
        if self.setting.rank == 0 and not self._has_result():
            self.save_network(self.result_path)
        return TrainingResult(self.result_path, tuple(self.results))

    def _unfinished(self, index: int, done: int) -> TrainingResult:
        """The network as it is when the time is up, and what its smallest and largest subnets answer."""
        steps = [phase.total_epochs * self.steps_per_epoch for phase in self.config.phases[index:]]
        phase = self.config.phases[index]
        every = list(self.validated(phase).items())
        ends = self._validate({**dict(every[:1]), **dict(every[-1:])})
        found = PhaseResult(f"{phase.name}, step {done} of {steps[0]}", ends)
        if self.setting.rank == 0:
            self.save_network(self.result_path)
        return TrainingResult(self.result_path, (*self.results, found), sum(steps) - done)

    def _has_result(self) -> bool:
        """Whether the trained network is there, as it was written."""
        if not self.result_path.exists():
            return False
        try:
            read_checkpoint(self.result_path)
        except UserError as error:
            self.progress.say(f"{error}; it is written again")
            return False
        return True

    def placed(self, net: Module) -> Module:
        """On the device, in the memory layout of the settings."""
        if self.config.channels_last:
            net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        net.to(self.device)
        return net

    # -- state ------------------------------------------------------------------------------------------

    def _restore(self) -> tuple[int, int, dict[str, Any] | None]:
        """Continue from the newest checkpoint: (phase, step, state)."""
        state = self.checkpoints.load_last(_STATE, self.progress)
        if state is None:
            if self.result_path.exists():
                raise UsageError(
                    f"{self.result_path} is of a training whose checkpoints are gone; choose another folder "
                    "or move it away"
                )
            self.metrics.keep(0, 0)
            return 0, 0, None
        if json.loads(state["identity"]) != json.loads(self.identity):  # as values: 0 is 0.0
            raise UsageError(
                f"{self.out} holds a training with other settings, data or seed; "
                "choose another folder or delete it"
            )
        phase, step = int(state["phase"]), int(state["step"])
        load_ranges(self.net, state["net"], None, self.checkpoints.folder)
        self.net.load_state_dict(state["net"])
        self.results = [PhaseResult(name, dict(accuracies)) for name, accuracies in state["results"]]
        self.metrics.keep(phase, step)
        if phase < len(self.config.phases):
            self.progress.say(f"continuing phase {self.config.phases[phase].name} at step {step}")
        return phase, step, state

    def _save(
        self,
        phase: int,
        step: int,
        optimiser: torch.optim.Optimizer | None = None,
        scaler: torch.amp.GradScaler | None = None,
        loss_sum: float = 0.0,
    ) -> None:
        if self.setting.rank != 0:
            return
        if not self._is_finite():
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
                "scaler": None if scaler is None else scaler.state_dict(),
                "epoch_loss_sum": loss_sum,
                "results": [(result.name, result.accuracies) for result in self.results],
            },
        )

    # -- one phase --------------------------------------------------------------------------------------

    def _run_phase(self, index: int, first_step: int, state: dict[str, Any] | None) -> int | None:
        """All steps, or those for which there is time: how many are done then."""
        config, phase = self.config, self.config.phases[index]
        if phase.quantize:
            set_dtype(self.net, "int8")
        self.begin_phase(index, first_step)
        teacher = self._compiled(self.teacher(index) if config.distillation else None)
        forward = self._compiled(self.net) if self.is_fixed(phase) else None
        optimiser = build_optimiser(self.net, config.momentum, config.weight_decay)
        scaler = gradient_scaler(config, self.device)
        loss_sum = 0.0
        if first_step and state is not None:
            optimiser.load_state_dict(state["optimiser"])
            scaler.load_state_dict(state["scaler"])
            loss_sum = float(state["epoch_loss_sum"])

        steps = phase.total_epochs * self.steps_per_epoch
        warmup = phase.warmup_epochs * self.steps_per_epoch
        peak = phase.learning_rate * self.batch_size / PER_IMAGES
        batches = Batches(self.setting, index, self.batch_size, self.micro_batches, self.resolutions())
        pixels = batches.pixels(first_step, steps)
        reserve = self._reserve(index)
        saved_at = started = stepped = time.monotonic()
        self.net.train()
        with (
            dead_workers_explained(),
            frozen_statistics(self.net),
            torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []),
            self.progress.task(steps_task(phase), total=steps) as bar,
        ):
            bar.advance(first_step)
            for step in range(first_step, steps):
                set_learning_rate(optimiser, cosine_with_warmup(step, steps, warmup, peak))
                loss = training_step(
                    self.net,
                    optimiser,
                    batches.of_step(pixels, step),
                    self.subnets(index, step, batches.resolution(step)),
                    config,
                    teacher,
                    world=self.setting.world,
                    scaler=scaler,
                    forward=forward,
                )
                if not math.isfinite(loss):
                    raise self._diverged(f"the loss became {loss}", phase, step + 1, steps)
                loss_sum += loss
                done = step + 1
                if done % self.steps_per_epoch == 0:
                    self._note_epoch(index, done, loss_sum, time.monotonic() - started)
                    loss_sum = 0.0
                reserve.took(time.monotonic() - stepped)
                stepped = time.monotonic()
                over = done < steps and self._time_is_up(reserve)
                if done < steps and (over or time.monotonic() - saved_at >= config.checkpoint_every_s):
                    self._save(index, done, optimiser, scaler, loss_sum)
                    saved_at = time.monotonic()
                bar.advance(1, note=f"loss {loss:.3f}")
                if over:
                    return done
        if not self._is_finite():  # no loss follows that would say so
            raise self._diverged("the weights stopped being finite", phase, steps, steps)
        self._end_phase(index, steps)
        return None

    def _reserve(self, index: int) -> Reserve:
        step, validation = training_parts(self, index)
        return Reserve(step.unit_s, validation.unit_s, _ENDS)

    def _time_is_up(self, reserve: Reserve) -> bool:
        """The same in all processes: what one does they all do. There is time for a step and validating."""
        if self.setting.deadline == NEVER:
            return False
        over = self.setting.deadline.left_s <= reserve.seconds
        return bool(add_up(float(over), self.device)) if self.setting.world > 1 else over

    def _note_epoch(self, index: int, done: int, loss_sum: float, seconds: float) -> None:
        self.metrics.append(
            {
                "phase": self.config.phases[index].name,
                "phase_index": index,
                "epoch": done // self.steps_per_epoch,
                "step": done,
                "loss": loss_sum / self.steps_per_epoch,
                "seconds": round(seconds, 3),
            }
        )

    def _is_finite(self) -> bool:
        return all(bool(torch.isfinite(p).all()) for p in self.net.parameters())

    def _diverged(self, what: str, phase: Phase, step: int, steps: int) -> UserError:
        return UserError(
            f"{what} in phase {phase.name} at step {step} of {steps}; the last good checkpoint is kept in "
            f"{self.checkpoints.folder}; start again in another folder with a lower learning_rate"
        )

    def _compiled(self, net: nn.Module | None) -> Forward | None:
        if net is None or not self.config.compile:
            return net
        compiled: Forward = torch.compile(net)
        return compiled

    def _end_phase(self, index: int, steps: int) -> None:
        phase = self.config.phases[index]
        result = PhaseResult(phase.name, self._validate(self.validated(phase)))
        self.results.append(result)
        if self.setting.rank == 0:
            self.metrics.append(
                {"phase": phase.name, "phase_index": index, "step": steps, "accuracies": result.accuracies}
            )
            if len(self.config.phases) > 1:
                self.save_network(self.phase_path(phase))
            if index + 1 == len(self.config.phases):
                self.result_path.unlink(missing_ok=True)  # of an earlier run whose time was up
            self._save(index + 1, 0)
        if self.setting.world > 1:
            torch.distributed.barrier()

    def _validate(self, chosen: Mapping[str, Arch]) -> dict[str, float]:
        """Processes take turns, so that none waits for another's whole validation."""
        found = np.zeros(len(chosen))
        with self.progress.task(VALIDATE, len(chosen)) as bar:
            for position, arch in enumerate(chosen.values()):
                if position % self.setting.world == self.setting.rank:
                    found[position] = accuracy(self.calibrated(arch), self.data, "val", arch.r)
                bar.advance(1)
        if self.setting.world > 1:
            found = add_up_values(found, self.device)
        return dict(zip(chosen, found.tolist(), strict=True))

    def phase_path(self, phase: Phase) -> Path:
        """The network as a phase left it."""
        return self.out / "phases" / f"{phase.name}.pt"
