"""Which images, resolution and subnets a step trains: functions of the seed and the step alone."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import product

import numpy as np
import numpy.typing as npt

from ofa_tvm.errors import UsageError, shown
from ofa_tvm.spaces import Arch, Space
from ofa_tvm.training.config import Phase, dimensions

# First words of derived seeds, so that no two uses share a stream.
_ORDER, _RESOLUTION, _SUBNETS = 1, 2, 3
PIXELS, DROPOUT, CALIBRATION = 4, 5, 6


def derived_seed(*parts: int) -> int:
    """A 63-bit seed that depends on all parts."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


@lru_cache(maxsize=4)
def epoch_order(n: int, seed: int, phase: int, epoch: int) -> npt.NDArray[np.int64]:
    """Order of the training images in one epoch, (n,)."""
    order = np.random.default_rng([_ORDER, seed, phase, epoch]).permutation(n)
    order.flags.writeable = False
    return order


def step_resolution(resolutions: Sequence[int], seed: int, phase: int, step: int) -> int:
    """The one resolution of a step's batch."""
    return int(np.random.default_rng([_RESOLUTION, seed, phase, step]).choice(resolutions))


def gene_ranges(space: Space, phase: Phase) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Smallest and largest choice index of every gene in a phase, (n_genes,) each.

    Raises
    ------
    UsageError
        If the phase opens a dimension that the space lacks.
    """
    for name in phase.open:
        if name not in dimensions(space):
            raise UsageError(
                f"phase {phase.name} opens {shown(name)}, but {space.name} has {', '.join(dimensions(space))}"
            )
    largest = np.asarray(space.cardinalities, dtype=np.int64) - 1
    smallest = largest.copy()
    for name, count in phase.open.items():
        columns = space.columns(name)
        smallest[columns] = 0 if count == 0 else np.maximum(0, largest[columns] + 1 - count)
    return smallest, largest


def trained_ratios(space: Space, phases: Sequence[Phase]) -> tuple[float, ...]:
    """Expand ratios below the largest that some phase has trained; sorting keeps their channels together."""
    counts = [phase.open["e"] for phase in phases if "e" in phase.open]
    ratios = sorted(space.expands)
    if not counts:
        return ()
    opened = len(ratios) if 0 in counts else max(counts)
    return tuple(ratios[-opened:-1])


def step_subnets(space: Space, phase: Phase, index: int, seed: int, step: int, resolution: int) -> list[Arch]:
    """The subnets of a step, every open gene uniform."""
    smallest, largest = gene_ranges(space, phase)
    rng = np.random.default_rng([_SUBNETS, seed, index, step])
    genes = rng.integers(smallest, largest + 1, size=(phase.subnets, len(largest)))
    return [arch.replace(r=resolution) for arch in space.decode(genes)]


def corner_subnets(space: Space, phase: Phase) -> dict[str, Arch]:
    """Subnets with every open dimension at its smallest or largest, by name ("ks=min d=max")."""
    smallest, largest = gene_ranges(space, phase)
    opened = [name for name in dimensions(space) if name in phase.open]
    corners = {}
    for ends in product(("min", "max"), repeat=len(opened)):
        genes = largest.copy()
        for name, end in zip(opened, ends, strict=True):
            if end == "min":
                genes[space.columns(name)] = smallest[space.columns(name)]
        label = " ".join(f"{name}={end}" for name, end in zip(opened, ends, strict=True)) or "max"
        corners[label] = space.decode(genes[None])[0]
    return corners
