"""What spaces are trained with unless told otherwise: the settings of the Once-for-All paper (1908.09791)."""

from __future__ import annotations

from collections.abc import Sequence

from ofa_tvm.errors import UsageError, shown
from ofa_tvm.spaces import Space
from ofa_tvm.training.config import PER_IMAGES, Phase, TrainingConfig, dimensions


def paper_config(space: Space) -> TrainingConfig:
    """Progressive shrinking with the paper's settings: kernel, then depth, then width."""
    has = dimensions(space)
    opened: dict[str, int] = {}
    phases = [Phase("full", {}, epochs=180, learning_rate=2.6 * PER_IMAGES / 2048)]
    if "ks" in has:
        opened = {**opened, "ks": 0}
        phases.append(Phase("kernel", opened, 120, 5, 3e-2, 1))
    phases.append(Phase("depth1", {**opened, "d": 2}, 25, 0, 2.5e-3, 2))
    opened = {**opened, "d": 0}
    phases.append(Phase("depth2", opened, 120, 5, 7.5e-3, 2))
    phases.append(Phase("expand1", {**opened, "e": 2}, 25, 0, 2.5e-3, 4, sort_channels=True))
    opened = {**opened, "e": 0}
    phases.append(Phase("expand2", opened, 120, 5, 7.5e-3, 4, sort_channels=True))
    if "w" in has:
        phases.append(Phase("width1", {**opened, "w": 2}, 25, 0, 2.5e-3, 4, sort_channels=True))
        phases.append(Phase("width2", {**opened, "w": 0}, 120, 5, 7.5e-3, 4, sort_channels=True))
    return TrainingConfig(space.name, tuple(phases))


def finetune_config(space: Space, epochs: int = 25) -> TrainingConfig:
    """One subnet trained further, for the paper's 25 or 75 epochs.

    The paper gives no learning rates for it: these are those of its phases of 25 and of 120 epochs.
    """
    short = epochs <= 25
    phase = Phase("finetune", {}, epochs, 0 if short else 5, 2.5e-3 if short else 7.5e-3)
    return default_config(space).replace(phases=(phase,), distillation=0.0, resolutions=None)


def default_config(space: Space) -> TrainingConfig:
    """What a space is trained with unless told otherwise."""
    return digits_config() if space.name == "ofa_digits" else paper_config(space)


def digits_config() -> TrainingConfig:
    """The paper's phases sized to the quickstart: `ofa_digits` on 1,197 scans."""
    return TrainingConfig(
        "ofa_digits",
        (
            Phase("full", {}, 14, 1, 5e-2),
            Phase("kernel", {"ks": 0}, 3, 1, 3e-2),
            Phase("depth1", {"ks": 0, "d": 2}, 2, 0, 2e-2, 2),
            Phase("depth2", {"ks": 0, "d": 0}, 4, 0, 2e-2, 2),
            Phase("expand1", {"ks": 0, "d": 0, "e": 2}, 2, 0, 2e-2, 2, sort_channels=True),
            Phase("expand2", {"ks": 0, "d": 0, "e": 0}, 6, 1, 3e-2, 2, sort_channels=True),
        ),
        batch_size=64,
        micro_batch_size=None,
        dropout=0.0,
        calibration_images=256,
        checkpoint_every_s=5.0,
    )


def quantize_phase(config: TrainingConfig) -> Phase:
    """Training on with integers of 8 bits, after and with all that the phases of a training open.

    It is as long as one of the paper's short phases, and no phase of a default training.
    """
    last = config.phases[-1]
    if config.space == "ofa_digits":
        return Phase("quantize", last.open, 3, 0, 1e-2, 2, quantize=True)
    return Phase("quantize", last.open, 25, 0, 2.5e-3, last.subnets, quantize=True)


def with_phases(config: TrainingConfig, names: Sequence[str]) -> TrainingConfig:
    """A copy with some of its phases only, in their own order; "quantize" may be among them in any case.

    Raises
    ------
    UsageError
        If there is no such phase.
    """
    phases = {phase.name: phase for phase in (quantize_phase(config), *config.phases)}
    for name in names:
        if name not in phases:
            known = [phase.name for phase in config.phases]
            raise UsageError(
                f"there is no phase {shown(name)}; there are {', '.join(dict.fromkeys([*known, 'quantize']))}"
            )
    own = [phase for phase in config.phases if phase.name in names]
    added = [phases["quantize"]] if "quantize" in names and phases["quantize"] not in own else []
    return config.replace(phases=(*own, *added))
