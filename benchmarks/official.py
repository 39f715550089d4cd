"""The official implementation beside ours: `pip install ofa torchvision`, then

    python benchmarks/official.py                            # same outputs, same training step
    python benchmarks/training_step.py --peer official       # time of a training step, in turns

The check takes a supernet of the official code with random weights, transform matrices and statistics and
loads its saved state into ours. Compared in float64 are the logits of random subnets, active and extracted,
half of them after the channels were sorted by importance; and one update with four sampled subnets, the full
net teaching: its loss and everything it changes (the official code's smoothed labels are float32).
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from provenance import save
from torch import Tensor, nn

try:
    from ofa.imagenet_classification.elastic_nn import networks
    from ofa.utils import cross_entropy_loss_with_soft_target, cross_entropy_with_label_smoothing
except ImportError as error:
    sys.exit(f"error: {error}; the official code is needed: pip install ofa torchvision")

from ofa_tvm.spaces import Arch, Space, get_space
from ofa_tvm.supernet import Supernet, build_supernet
from ofa_tvm.training import paper_config
from ofa_tvm.training.optimiser import build_optimiser, set_learning_rate
from ofa_tvm.training.step import MicroBatch, training_step

SPACES = ("ofa_mbv3_w1.0", "ofa_mbv3_w1.2", "ofa_proxyless_w1.3", "ofa_resnet50")
VARIANTS: dict[str, dict[str, Any]] = {"as published": {}, "in channels_last": {"channels_last": True}}
RESULTS = Path(__file__).resolve().parent / "results" / "official.json"


def official_net(space: Space) -> Any:
    """The official supernet of a space, all dimensions elastic."""
    if space.name == "ofa_resnet50":
        return networks.OFAResNets(
            depth_list=[0, 1, 2], expand_ratio_list=[0.2, 0.25, 0.35], width_mult_list=[0.65, 0.8, 1.0]
        )
    choices = {"ks_list": [3, 5, 7], "expand_ratio_list": [3, 4, 6], "depth_list": [2, 3, 4]}
    multiplier = float(space.name[-3:])
    if "proxyless" in space.name:
        return networks.OFAProxylessNASNets(
            bn_param=(0.1, 1e-3), base_stage_width="proxyless", width_mult=multiplier, **choices
        )
    return networks.OFAMobileNetV3(width_mult=multiplier, **choices)


def activate(net: Any, arch: Arch) -> None:
    settings: dict[str, list[Any]] = {"d": list(arch.d), "e": list(arch.e)}
    settings |= {"w": list(arch.w)} if arch.w else {"ks": list(arch.ks)}
    net.set_active_subnet(**settings)


def optimiser_of(net: Any, momentum: float, weight_decay: float, rate: float) -> torch.optim.SGD:
    """SGD as the official trainer sets it up."""
    keys = ["bn", "bias"]
    return torch.optim.SGD(
        [
            {"params": list(net.get_parameters(keys, mode="exclude")), "weight_decay": weight_decay},
            {"params": list(net.get_parameters(keys, mode="include")), "weight_decay": 0.0},
        ],
        lr=rate,
        momentum=momentum,
        nesterov=True,
    )


def stepper(
    net: Any, optimiser: torch.optim.Optimizer, archs: list[Arch], teacher: nn.Module | None
) -> Callable[[Tensor, Tensor], float]:
    """The official trainer's step, as published: gradients of all subnets, soft and smoothed labels."""

    def step(images: Tensor, targets: Tensor) -> float:
        net.zero_grad()
        soft = None
        if teacher is not None:
            teacher.train()
            with torch.no_grad():
                soft = torch.softmax(teacher(images), dim=1)
        total = 0.0
        for arch in archs:
            activate(net, arch)
            output = net(images)
            loss = cross_entropy_with_label_smoothing(output, targets)
            if soft is not None:
                loss = loss + cross_entropy_loss_with_soft_target(output, soft)
            loss.backward()
            total += loss.item()
        optimiser.step()
        return total / len(archs)

    return step


def make_step(
    *,
    subnets: int = 4,
    resolution: int = 128,
    teacher: bool = False,
    channels_last: bool = False,
    seed: int = 0,
) -> Callable[[Tensor, Tensor], float]:
    """What `training_step.make_step` returns, of the official code."""
    space = get_space("ofa_mbv3_w1.0")
    config = paper_config(space)
    torch.manual_seed(seed)
    net = official_net(space).train()
    full = official_net(space).train().requires_grad_(False) if teacher else None
    if channels_last:
        net.to(memory_format=torch.channels_last)
    rng = np.random.default_rng(seed)
    archs = [space.sample(rng).replace(r=resolution) for _ in range(subnets)]
    step = stepper(net, optimiser_of(net, config.momentum, config.weight_decay, 1e-3), archs, full)

    def placed(images: Tensor, targets: Tensor) -> float:
        layout = torch.channels_last if channels_last else torch.contiguous_format
        return step(images.contiguous(memory_format=layout), targets)

    return placed


def randomise(net: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if parameter.ndim == 1 or "matrix" in name:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
        for name, buffer in net.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(0.1 * torch.randn(buffer.shape, generator=generator))
            elif name.endswith("running_var"):
                buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))


def without_dropout(net: nn.Module) -> nn.Module:
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return net


def ours_from(net: nn.Module, space: Space) -> Supernet:
    """Our supernet with the official one's state, through a checkpoint file."""
    ours = build_supernet(space, dropout=0.0).double()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "official.pth"
        stored = io.BytesIO()
        torch.save({"state_dict": net.state_dict()}, stored)
        path.write_bytes(stored.getvalue())
        ours.load_checkpoint(path)
    return ours


def apart(ours: Tensor, official: Tensor) -> float:
    """Largest difference relative to the largest value."""
    return float((ours - official).detach().abs().max() / official.detach().abs().max().clamp(min=1e-30))


def compare(space: Space, subnets: int, seed: int) -> dict[str, float]:
    """The largest relative differences found, by what was compared."""
    torch.manual_seed(seed)
    official = official_net(space).double()
    randomise(official, seed)
    without_dropout(official)
    ours = ours_from(official, space).eval()
    official.eval()
    rng = np.random.default_rng(seed)
    found = {"active": 0.0, "extracted": 0.0, "sorted": 0.0}

    def note(what: str, logits: Tensor, expected: Tensor) -> None:
        found[what] = max(found[what], apart(logits, expected))

    for number in range(subnets):
        if number == subnets // 2:
            ours.sort_channels()
            official.re_organize_middle_weights()
        arch = space.sample(rng)
        images = torch.randn(1, 3, arch.r, arch.r, dtype=torch.float64)
        activate(official, arch)
        ours.set_active(arch)
        with torch.no_grad():
            expected = official(images)
            note("active" if number < subnets // 2 else "sorted", ours(images), expected)
            note("extracted", ours.extract(arch).eval()(images), expected)

    side, rate = min(space.resolutions), 0.1
    archs = [space.sample(rng).replace(r=side) for _ in range(4)]
    images, targets = torch.randn(8, 3, side, side, dtype=torch.float64), torch.randint(1000, (8,))
    config = paper_config(space).replace(dropout=0.0)
    official_teacher = official_net(space).double()
    official_teacher.load_state_dict(official.state_dict())
    activate(without_dropout(official_teacher), space.max_arch())
    teacher = ours.extract(space.max_arch()).train().requires_grad_(False)
    optimiser = build_optimiser(ours.train(), config.momentum, config.weight_decay)
    set_learning_rate(optimiser, rate)
    loss = training_step(ours, optimiser, [MicroBatch(images, targets, 0)], archs, config, teacher)
    step = stepper(
        official.train(),
        optimiser_of(official, config.momentum, config.weight_decay, rate),
        archs,
        official_teacher,
    )
    expected_loss = step(images, targets)
    found["loss"] = abs(loss - expected_loss) / abs(expected_loss)
    after = ours_from(official, space).state_dict()
    found["after the update"] = max(
        apart(value, after[name]) for name, value in ours.state_dict().items() if value.is_floating_point()
    )  # not the counters of batches, which a fixed momentum never reads
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--subnets", type=int, default=40, help="random subnets of each space")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=RESULTS, help="write the figures to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name in SPACES:
        found = compare(get_space(name), options.subnets, options.seed)
        rows.append({"space": name, "subnets": options.subnets, **found})
        print(f"{name:20}" + "".join(f"  {what} {value:.1e}" for what, value in found.items()), flush=True)
    save(options.json, {"relative_differences": rows})


if __name__ == "__main__":
    main()
