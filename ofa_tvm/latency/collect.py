"""True latencies of subnets: extract, export, compile with the tuning log, measure, write down."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from ofa_tvm.errors import UserError
from ofa_tvm.latency.dataset import Column, LatencyWriter
from ofa_tvm.logs import KernelTable
from ofa_tvm.measurement import Measurement, Measurer
from ofa_tvm.progress import SILENT, Progress
from ofa_tvm.spaces import Arch
from ofa_tvm.targets import Target

if TYPE_CHECKING:
    from ofa_tvm.supernet import Supernet

_GROUP = 16
_MAD_TO_DEVIATION = 1.4826


@dataclass(frozen=True)
class CompiledSubnet:
    """A subnet's files and how much of it was tuned (0..1)."""

    arch: Arch
    onnx: Path
    so: Path
    tuned_fraction: float


class SubnetBench:
    """Compiles subnets of one supernet for one target and measures them; a context manager.

    Weights do not change a latency, so subnets are taken as they are, without calibrated statistics.

    Parameters
    ----------
    net
        The supernet.
    target
        A target that runs on this machine.
    records
        Tuning records to compile with.
    """

    def __init__(self, net: Supernet, target: Target, records: KernelTable) -> None:
        self.net, self.target, self.records = net, target, records
        self._measurer = Measurer(target)
        self._folder = tempfile.TemporaryDirectory(prefix="ofa-tvm-bench-")

    def __enter__(self) -> SubnetBench:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._measurer.close()
        self._folder.cleanup()

    def compile(self, arch: Arch) -> CompiledSubnet:
        """Compile one subnet into this bench's own folder.

        Raises
        ------
        UserError
            If it cannot be exported or compiled.
        """
        from ofa_tvm.compiler import compile as compile_onnx
        from ofa_tvm.export import export_onnx

        name = hashlib.sha256(arch.to_json().encode()).hexdigest()[:16]
        onnx, so = (Path(self._folder.name) / f"{name}.{suffix}" for suffix in ("onnx", "so"))
        export_onnx(self.net.extract(arch), onnx, resolution=arch.r)
        compiled = compile_onnx(onnx, self.target, so, records=self.records)
        return CompiledSubnet(arch, onnx, so, compiled.tuned_fraction)

    def measure(self, archs: Sequence[Arch], *, repeats: int | None = None) -> list[Measurement]:
        """Compile and time subnets, interleaved so that their order holds."""
        compiled = [self.compile(arch) for arch in archs]
        results = self._measurer.measure_many([c.so for c in compiled], repeats=repeats)
        for files in compiled:
            files.so.unlink(missing_ok=True)
            files.onnx.unlink(missing_ok=True)
        return results

    def costs(self, archs: Sequence[Arch]) -> tuple[np.ndarray, np.ndarray]:
        """Costs and noise margins (one robust standard deviation of a sample), both (n,), for a search."""
        results = self.measure(archs)
        noise = [_MAD_TO_DEVIATION * (result.mad_ms or 0.0) for result in results]
        return np.array([result.cost for result in results]), np.array(noise)


def collect(
    bench: SubnetBench,
    path: Path,
    n: int,
    resolutions: Sequence[int],
    *,
    seed: int = 0,
    progress: Progress = SILENT,
) -> LatencyWriter:
    """Measure `n` uniformly sampled subnets into a latency table, row by row.

    A table that is already there is extended: subnets in it are not measured again.

    Parameters
    ----------
    bench
        What compiles and measures.
    path
        The CSV file, with one column for the bench's target.
    n
        Rows that the table shall have.
    resolutions
        Drawn uniformly, as every other dimension.
    seed
        Of the sample.
    progress
        Told of every subnet.

    Raises
    ------
    UserError
        If the table holds something else, or a subnet cannot be compiled or measured.
    """
    space, target = bench.net.space, bench.target
    writer = LatencyWriter(path, space, Column(target.name, target.unit))
    rng = np.random.default_rng(seed)
    sample: list[Arch] = []
    for _ in range(100):
        if len(sample) >= n:
            break
        drawn = space.decode(space.sample_genes(rng, n, resolutions))
        sample = list(dict.fromkeys([*sample, *drawn]))
    waiting = [arch for arch in sample[:n] if arch not in writer.measured]
    with progress.task("measuring subnets", len(waiting)) as task:
        for start in range(0, len(waiting), _GROUP):
            group = waiting[start : start + _GROUP]
            for arch, result in zip(group, bench.measure(group), strict=True):
                if not result.cost > 0:
                    raise UserError(f"subnet {arch.to_json()} gave the latency {result.cost}")
                writer.append(
                    arch,
                    result.cost,
                    mad_ms=result.mad_ms,
                    repeats=result.repeats,
                    threads=result.threads,
                    noisy=result.noisy,
                    machine=result.machine,
                    date=result.date,
                    n_classes=bench.net.n_classes,
                )
                task.advance(1, f"{result.cost:.4g} {result.unit}")
    return writer
