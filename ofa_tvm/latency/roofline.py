"""Rooflines: the least time that a device's arithmetic and memory allow each layer (Williams et al., 2009).

A layer of c multiply-adds that moves b bytes takes at least max(2 c / peak, b / bandwidth). On GPUs the
memory traffic that counts is what misses the last cache, which falls with the cache's size by a power law
(Hartstein et al., "On the nature of cache behavior", 2008: exponents 0.3 to 0.7).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ofa_tvm.errors import UserError
from ofa_tvm.latency.features import KERNEL_CLASSES, kernel_class
from ofa_tvm.spaces.blocks import BlockStructure
from ofa_tvm.targets.devices import Platform

_REFERENCE_CACHE_KIB = 4096.0
# Bytes a floating-point operation where a descriptor has no bandwidth; CPUs have 0.05 to 0.4.
_BYTES_PER_FLOP = 0.1
# Kernels reach a greater part of a GPU's peak than of its bandwidth (which cache misses and strided reads
# waste), so the two are not on one scale: arithmetic counts by this factor.
_GPU_ARITHMETIC = 0.25


@dataclass(frozen=True)
class Rates:
    """What a platform can do: GFLOP/s and GB/s of the threads in use, the last cache against 4 MiB."""

    gflops: float
    gb_s: float
    cache: float

    @classmethod
    def of(cls, platform: Platform) -> Rates:
        """Rates from a descriptor.

        Raises
        ------
        UserError
            If it has neither the peak nor the figures that it follows from.
        """
        device, hardware = platform.device, platform.device.hardware
        peak = hardware.peak_gflops
        if peak is None:
            parts = (hardware.cores, hardware.clock_ghz, hardware.simd_bits)
            if None in parts:
                raise UserError(
                    f"the descriptor {device.name} lacks peak_gflops (or cores, clock_ghz and simd_bits), "
                    "without which no latency can be estimated; add it under hardware"
                )
            cores, clock, bits = (float(part) for part in parts if part is not None)
            peak = 2.0 * cores * clock * bits / 32 * (hardware.fma_units or 1)
        if platform.threads is not None and hardware.cores and is_cpu(platform):
            peak *= min(1.0, platform.threads / hardware.cores)
        bandwidth = hardware.bandwidth_gb_s or _BYTES_PER_FLOP * peak
        return cls(peak, bandwidth, (hardware.l2_kib or _REFERENCE_CACHE_KIB) / _REFERENCE_CACHE_KIB)


def is_cpu(platform: Platform) -> bool:
    """Whether the device runs one kernel after another without a host that feeds it."""
    return platform.device.kind not in ("cuda", "opencl")


@dataclass(frozen=True)
class _Layers:
    """Layers of all contexts of all blocks, in columns."""

    context: np.ndarray
    kernel_class: np.ndarray
    macs: np.ndarray
    elements: np.ndarray
    weights: np.ndarray
    n_contexts: int


@lru_cache(maxsize=8)
def _layers(structure: BlockStructure) -> _Layers:
    rows, context = [], 0
    for block in structure.blocks:
        for layers in block.contexts:
            for la in layers:
                moved = la.c_in * la.h_in**2 + la.c_out * la.h_out**2 * (2 if la.residual else 1)
                rows.append((context, KERNEL_CLASSES.index(kernel_class(la)), la.macs, moved, la.params))
            context += 1
    where, kinds, macs, elements, weights = np.array(rows, dtype=np.float64).T
    return _Layers(where.astype(np.int64), kinds.astype(np.int64), macs, elements, weights, context)


def rooflines(
    structure: BlockStructure, platform: Platform, exponent: float
) -> tuple[np.ndarray, np.ndarray]:
    """Least times of every context of every block, stacked.

    Parameters
    ----------
    exponent : of the cache's power law, 0 for none

    Returns
    -------
    times : (n_contexts, n_classes) array
        Sums over the layers of each class of `KERNEL_CLASSES`, in ms for the platform's batch.
    kernels : (n_contexts,) array
        Number of kernels.
    """
    rates, layers, batch = Rates.of(platform), _layers(structure), platform.batch
    arithmetic = 2 * layers.macs * batch / rates.gflops
    memory = 4 * (layers.elements * batch + layers.weights) / (rates.gb_s * rates.cache**exponent)
    cells = layers.context * len(KERNEL_CLASSES) + layers.kernel_class
    size = layers.n_contexts * len(KERNEL_CLASSES)
    if not is_cpu(platform):
        arithmetic = _GPU_ARITHMETIC * arithmetic
    times = np.bincount(cells, np.maximum(arithmetic, memory) / 1e6, size)
    kernels = np.bincount(layers.context, minlength=layers.n_contexts).astype(np.float64)
    return times.reshape(-1, len(KERNEL_CLASSES)), kernels
