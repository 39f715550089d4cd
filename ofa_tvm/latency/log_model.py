"""The tuning log as a latency table: a subnet costs the sum of its kernels' recorded times."""

from __future__ import annotations

import statistics

from ofa_tvm.errors import UserError
from ofa_tvm.latency.kernel_sum import KernelSum
from ofa_tvm.logs import KernelTable
from ofa_tvm.spaces import Layer
from ofa_tvm.spaces.space import Space
from ofa_tvm.tuning import KernelUnion


def kernel_sum_from_log(
    space: Space,
    union: KernelUnion,
    records: KernelTable,
    *,
    n_classes: int = 1000,
    unit: str = "ms",
    tune: str = "ofa-tvm tune",
) -> KernelSum:
    """Kernel-sum model whose entries are the best records of each block's kernels, in the records' unit.

    Records of this device count where there are any; else those of another device, whose proportions are a
    fair start for `fit`. A kernel without a record counts as fast, per operation, as the median kernel that
    has one. Blocks at resolutions outside the union cost nothing, so the model holds for the union's
    resolutions only.

    Raises
    ------
    UserError
        If no kernel of the union has a record; says to `tune`.
    """
    every = {key: best.cost for key in (k.key for k in union.kernels) if (best := records.best(key))}
    known = {key: cost for key, cost in every.items() if key not in records.foreign} or every
    if not known:
        raise UserError(f"the tuning log has no record of any of the space's kernels; run `{tune}` first")
    flops = {kernel.key: kernel.flops for kernel in union.kernels}
    pace = statistics.median(cost / max(flops[key], 1.0) for key, cost in known.items())

    def block_cost(layers: tuple[Layer, ...]) -> float:
        keys = union.of_block(layers)
        return sum(known[key] if key in known else flops[key] * pace for key in keys)

    return KernelSum(space, block_cost, n_classes=n_classes, unit=unit, resolutions=union.resolutions)
