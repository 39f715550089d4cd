"""Progressive shrinking: the full net first, then ever smaller subnets, taught by the full net."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from ofa_tvm import files
from ofa_tvm.errors import UsageError, UserError
from ofa_tvm.imagenet import N_CLASSES, imagenet_outputs
from ofa_tvm.progress import NEVER, SILENT, Deadline, Progress, as_progress
from ofa_tvm.spaces import Arch, Space, get_space
from ofa_tvm.supernet import Supernet, build_supernet
from ofa_tvm.supernet.batchnorm import calibrate
from ofa_tvm.supernet.checkpoint import load_weights
from ofa_tvm.supernet.fake_quantization import without_ranges
from ofa_tvm.supernet.supernet import read_supernet, require_space
from ofa_tvm.training import sampling
from ofa_tvm.training.config import Phase, TrainingConfig
from ofa_tvm.training.data import ImageData
from ofa_tvm.training.job import TrainingJob, TrainingResult
from ofa_tvm.training.loop import TrainingLoop, run_training
from ofa_tvm.training.parts import validated_subnets
from ofa_tvm.training.validation import calibrated_subnet, calibration_batches


def train(
    config: TrainingConfig,
    data: ImageData,
    out_dir: str | Path,
    *,
    space: Space | None = None,
    init: str | Path | None = None,
    deadline: Deadline = NEVER,
    progress: Progress | bool = SILENT,
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
    space
        A space of one's own; None takes the one that ships under `config.space`.
    init
        A trained supernet to start from, own or official. Its classifier is kept if it has the data's number
        of classes, else a fresh one is put in its place, and it cannot teach.
    deadline
        Once it is over, `supernet.pt` is the network as it is then; called again, the training goes on.
    progress
        Shows phases, steps and validations; True for bars in a terminal or a notebook.
    seed
        Of weights, order, augmentation and subnets.

    Raises
    ------
    UsageError
        If the settings do not fit the space, or the folder holds a training with other settings.
    UserError
        If the loss stops being finite, a file cannot be written, or `init` is missing or of another space.
    """
    start = None if init is None else Path(init)
    if start is not None and not start.exists():  # before there is a folder
        raise UserError(f"cannot read {start}: No such file or directory")
    return run_training(
        lambda setting: _Shrinking(setting, space or get_space(config.space), start),
        config,
        data,
        out_dir,
        as_progress(progress),
        seed,
        deadline,
    )


class _Shrinking(TrainingLoop):
    """One call of `train`."""

    result_name = "supernet.pt"
    net: Supernet

    def __init__(self, setting: TrainingJob, space: Space, init: Path | None) -> None:
        config = setting.config
        for resolution in config.resolutions or ():
            if resolution not in space.resolutions:
                raise UsageError(
                    f"{space.name} has no resolution {resolution}; it has "
                    f"{', '.join(map(str, space.resolutions))}"
                )
        for phase in config.phases:
            sampling.gene_ranges(space, phase)
        if config.phases[0].quantize and init is None:
            raise UsageError(
                f"phase {config.phases[0].name} quantises a trained supernet: name one (init), or let the "
                "phases that train it come before"
            )
        self.init = init
        self._teacher: nn.Module | None = None
        super().__init__(setting, space, {} if init is None else {"init": files.sha256(init)})

    def build(self) -> Supernet:
        net = self._fresh(self.config.dropout)
        if self.init is not None:
            self._start_from(net, self.init)
        return net

    def _fresh(self, dropout: float) -> Supernet:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            net = build_supernet(self.space, n_classes=self.data.n_classes, dropout=dropout)
        return self.placed(net)

    def _start_from(self, net: Supernet, path: Path) -> None:
        """Its weights, in float32 whatever it was trained for."""
        state, _ = read_supernet(path, self.space)
        state = without_ranges(state)
        classifier = [name for name in net.state_dict() if name.startswith("classifier.")]
        theirs = next((len(t) for name, t in state.items() if name.endswith(classifier[0])), net.n_classes)
        if theirs == net.n_classes:
            require_space(net, state, path)
        else:
            rows = self._rows_of_imagenet(theirs)
            if rows is None:
                self._take_fresh_classifier(path, theirs, net.n_classes)
            whole = build_supernet(self.space, theirs)
            require_space(whole, state, path)
            load_weights(whole, state, path)
            state = whole.state_dict()
            for name in classifier:
                state[name] = net.state_dict()[name] if rows is None else state[name][list(rows)]
        load_weights(net, state, path)

    def _rows_of_imagenet(self, theirs: int) -> tuple[int, ...] | None:
        """The rows of a classifier of ImageNet's 1,000 classes that are of the data's, if these are some."""
        if theirs != N_CLASSES:
            return None
        try:
            rows = imagenet_outputs(self.data.labels)
        except UserError:  # not all of them are
            return None
        if rows is not None:
            self.progress.say(
                f"{self.data.name} has {len(rows)} of ImageNet's 1,000 classes: their rows are kept"
            )
        return rows

    def _take_fresh_classifier(self, path: Path, theirs: int, ours: int) -> None:
        """Say that one takes the place of a checkpoint's, which cannot teach then."""
        first = self.config.phases[0]
        if (first.open or first.quantize) and self.config.distillation:
            raise UsageError(
                f"{path} has {theirs} classes and {self.data.name} has {ours}: it cannot teach "
                f"phase {first.name}; begin with a phase that opens nothing, or set "
                "distillation=0"
            )
        self.progress.say(
            f"{path} has {theirs} classes and {self.data.name} has {ours}: "
            "a fresh classifier takes the place of its own"
        )

    def resolutions(self) -> tuple[int, ...]:
        return self.config.resolutions or self.space.resolutions

    def subnets(self, index: int, step: int, resolution: int) -> list[Arch]:
        phase = self.config.phases[index]
        return sampling.step_subnets(self.space, phase, index, self.seed, step, resolution)

    def begin_phase(self, index: int, first_step: int) -> None:
        if first_step == 0 and self.config.phases[index].sort_channels:
            # A supernet to start from has all its widths trained.
            trained = (
                sampling.trained_ratios(self.space, self.config.phases[:index])
                if self.init is None
                else tuple(sorted(self.space.expands)[:-1])
            )
            self.net.sort_channels(trained)

    def is_fixed(self, phase: Phase) -> bool:
        return not phase.open

    def teacher(self, index: int) -> nn.Module | None:
        """The full net before any smaller one was trained: as `init` has it, or as the first phase left it.

        It normalises by each batch, as in the paper's code.
        """
        first = self.config.phases[0]
        given = self.init is not None and bool(first.open or first.quantize)
        if self._teacher is None and (index > 0 or given):
            full = self._fresh(dropout=0.0)
            if given and self.init is not None:
                self._start_from(full, self.init)
            else:
                full.load_checkpoint(self.phase_path(first))
            self._teacher = self.placed(full.extract(self.space.max_arch()))
            self._teacher.train().requires_grad_(False)
        return self._teacher

    def validated(self, phase: Phase) -> dict[str, Arch]:
        return validated_subnets(self.space, phase, self.resolutions())

    def calibrated(self, arch: Arch) -> nn.Module:
        return calibrated_subnet(self.net, arch, self.data, self.config.calibration_images, self.seed)

    def save_network(self, path: Path) -> None:
        """The weights, with the batch statistics of the full net."""
        full = self.space.max_arch(self.space.median_resolution)
        self.net.set_active(full)
        images = self.config.calibration_images
        calibrate(self.net, calibration_batches(self.data, full.r, images, self.seed, self.device))
        self.net.save_checkpoint(path)
