"""Training one extracted subnet further: its weights become its own, which gains a little accuracy."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import nn

from ofa_tvm.errors import UsageError
from ofa_tvm.progress import NEVER, SILENT, Deadline, Progress, as_progress
from ofa_tvm.spaces import Arch
from ofa_tvm.supernet import Network, Supernet
from ofa_tvm.supernet.batchnorm import calibrate
from ofa_tvm.supernet.checkpoint import weights_hash
from ofa_tvm.supernet.supernet import initialise
from ofa_tvm.training.config import Phase, TrainingConfig
from ofa_tvm.training.data import ImageData
from ofa_tvm.training.job import TrainingJob, TrainingResult
from ofa_tvm.training.loop import TrainingLoop, run_training
from ofa_tvm.training.validation import calibration_batches


def finetune(
    net: Supernet,
    arch: Arch,
    config: TrainingConfig,
    data: ImageData,
    out_dir: str | Path,
    *,
    from_scratch: bool = False,
    deadline: Deadline = NEVER,
    progress: Progress | bool = SILENT,
    seed: int = 0,
) -> TrainingResult:
    """Train one subnet further, at its own resolution (Once-for-All, section 4.2: for 25 or 75 epochs).

    Continues where it was stopped, as `train` does; the supernet is left as it is.

    Parameters
    ----------
    net
        The trained supernet that the subnet comes from; its full net teaches if `config.distillation` is
        above 0.
    config
        `finetune_config(space)`; its phases open nothing.
    from_scratch
        Begin with fresh weights: what the subnet reaches alone.
    deadline, progress
        As of `train`.
    out_dir
        Receives `subnet.pt`, `metrics.jsonl` and `checkpoints/`.

    Raises
    ------
    UsageError
        If the settings do not fit, or the classes of data and supernet differ.
    UserError
        As `train`.
    """
    net.space.validate(arch)
    if net.n_classes != data.n_classes:
        raise UsageError(
            f"the supernet has {net.n_classes} classes and {data.name} has {data.n_classes}; "
            "train the supernet on these images first (train --init CHECKPOINT)"
        )
    for phase in config.phases:
        if phase.open:
            raise UsageError(f"phase {phase.name} opens {', '.join(phase.open)}; one subnet has no choices")
    if config.resolutions not in (None, (arch.r,)):
        raise UsageError(f"the subnet is trained at its own resolution {arch.r}; leave resolutions out")
    return run_training(
        lambda s: _FineTuning(s, net, arch, from_scratch),
        config,
        data,
        out_dir,
        as_progress(progress),
        seed,
        deadline,
    )


class _FineTuning(TrainingLoop):
    """One call of `finetune`."""

    result_name = "subnet.pt"
    net: Network

    def __init__(self, setting: TrainingJob, supernet: Supernet, arch: Arch, from_scratch: bool) -> None:
        self.supernet, self.arch, self.from_scratch = supernet, arch, from_scratch
        origin = {
            "supernet": None if from_scratch else weights_hash(supernet),
            "arch": arch.to_dict(),
        }
        super().__init__(setting, supernet.space, origin)

    def build(self) -> Network:
        net = self.supernet.extract(self.arch)
        net.dropout = self.config.dropout
        if self.from_scratch:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.seed)
                initialise(net)
        return self.placed(net)

    def resolutions(self) -> tuple[int, ...]:
        return (self.arch.r,)

    def subnets(self, index: int, step: int, resolution: int) -> list[Arch]:
        return [self.arch]

    def begin_phase(self, index: int, first_step: int) -> None:
        """Nothing to prepare."""

    def is_fixed(self, phase: Phase) -> bool:
        return True

    def teacher(self, index: int) -> nn.Module | None:
        full = self.placed(self.supernet.extract(self.space.max_arch()))
        full.dropout = 0.0
        return full.train().requires_grad_(False)

    def validated(self, phase: Phase) -> dict[str, Arch]:
        return {f"subnet @{self.arch.r}": self.arch}

    def calibrated(self, arch: Arch) -> nn.Module:
        ready = copy.deepcopy(self.net)
        self._calibrate(ready)
        return ready.eval()

    def save_network(self, path: Path) -> None:
        self._calibrate(self.net)
        self.net.save_checkpoint(path)

    def _calibrate(self, net: Network) -> None:
        images = self.config.calibration_images
        calibrate(net, calibration_batches(self.data, self.arch.r, images, self.seed, self.device))
