"""Subnets as compiled modules, measured: here, or shared over the boards of a tracker."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ofa_tvm.logs import KernelTable
from ofa_tvm.measurement import Measurement, Measurer
from ofa_tvm.measurement.boards import AGREEMENT, Boards, OnBoard
from ofa_tvm.number_formats import arithmetic
from ofa_tvm.progress import SILENT, Progress
from ofa_tvm.spaces import Arch
from ofa_tvm.targets import Target
from ofa_tvm.temporaries import scratch_folder

if TYPE_CHECKING:
    from ofa_tvm.supernet import Supernet

CANDIDATES = "compile and measure candidates"
_MAD_TO_DEVIATION = 1.4826

Measured = Callable[[Sequence[Arch]], tuple[list[Measurement], Measurement | None]]
"""Subnets -> their measurements, and the reference's among them if there is one; all by one board."""

Work = Callable[[Sequence[Arch], Measured], None]
"""Takes a group of compiled subnets, and what measures them."""


class SubnetBench:
    """Compiles subnets of one supernet for one target and measures them; a context manager.

    Weights do not change a latency, so subnets are taken as they are, without calibrated statistics. Where
    the target's devices are behind a tracker, all of them measure, while the next subnets are compiled here.

    Parameters
    ----------
    net
        The supernet.
    target
        A target that runs on this machine, in the emulator or on boards.
    records
        Tuning records to compile with.
    progress
        Told of boards that are left out, and of candidates that are measured.
    agreement
        Boards whose time of the reference subnet is more off their median are left out, as a share.

    Attributes
    ----------
    boards
        How many measure at once; 0 where the target is not behind a tracker.
    """

    def __init__(
        self,
        net: Supernet,
        target: Target,
        records: KernelTable,
        *,
        agreement: float = AGREEMENT,
        progress: Progress = SILENT,
    ) -> None:
        self.net, self.target, self.records = net, target, records
        self._progress = progress
        shared = target.run.where == "rpc"
        self._by = Boards(target, progress=progress, agreement=agreement) if shared else Measurer(target)
        self.boards = self._by.size if isinstance(self._by, Boards) else 0
        self._folder = scratch_folder("bench")

    def __enter__(self) -> SubnetBench:
        return self

    def __exit__(self, *_: object) -> None:
        self._by.close()
        self._folder.cleanup()

    def measure(self, archs: Sequence[Arch], *, repeats: int | None = None) -> list[Measurement]:
        """Compile and time subnets, those of one board interleaved so that their order holds.

        Raises
        ------
        UserError
            If one cannot be exported, compiled or measured.
        """
        distinct = list(dict.fromkeys(archs))
        found: dict[Arch, Measurement] = {}

        def work(group: Sequence[Arch], measure: Measured) -> None:
            found.update(zip(group, measure(group)[0], strict=True))

        groups = [distinct[i :: self.boards] for i in range(min(self.boards, len(distinct)))] or [distinct]
        reference = None
        if self.boards > 1 and self.target.unit == "ms":
            reference = self.net.space.min_arch(min(self.net.space.default_resolutions))
        self.each(groups, work, reference, repeats=repeats)
        return [found[arch] for arch in archs]

    def each(
        self,
        groups: Iterable[Sequence[Arch]],
        work: Work,
        reference: Arch | None = None,
        *,
        repeats: int | None = None,
    ) -> None:
        """Compile groups of subnets and hand each to `work`, with several boards to several threads at once.

        Parameters
        ----------
        groups
            Of distinct subnets.
        work
            Called with a group and what measures its subnets as often as it likes.
        reference
            Measured with every group: tells whether a machine is as it was, and boards are alike.
        repeats
            Of each measurement.

        Raises
        ------
        UserError
            If a subnet cannot be exported, compiled or measured.
        """
        if reference is None:
            self._each(groups, work, None, repeats)
            return
        with self._compiled([reference], "reference") as files:
            self._each(groups, work, files[reference], repeats)

    def _each(
        self, groups: Iterable[Sequence[Arch]], work: Work, reference: Path | None, repeats: int | None
    ) -> None:
        if isinstance(self._by, Boards):
            self._by.run(self._jobs(groups), _on_board(work, reference), reference, repeats=repeats)
            return
        measurer = self._by
        for group in groups:
            with self._compiled(group) as files:

                def here(paths: Sequence[Path]) -> list[Measurement]:
                    every = paths if reference is None else [reference, *paths]
                    return measurer.measure_many(every, repeats=repeats)

                work(group, _measured(here, files, reference))

    def _jobs(self, groups: Iterable[Sequence[Arch]]) -> Iterator[Mapping[Arch, Path]]:
        for group in groups:
            yield self._libraries(group)

    @contextmanager
    def _compiled(self, archs: Sequence[Arch], name: str = "") -> Iterator[Mapping[Arch, Path]]:
        files = self._libraries(archs, name)
        try:
            yield files
        finally:
            for library in files.values():
                library.unlink(missing_ok=True)

    def _libraries(self, archs: Sequence[Arch], name: str = "") -> dict[Arch, Path]:
        """Libraries of subnets; each is linked while the next is compiled, which takes about as long."""
        from ofa_tvm.compiler.build import prepare
        from ofa_tvm.export import export_onnx
        from ofa_tvm.supernet import timed_subnet

        libraries, links = {}, []
        with ThreadPoolExecutor(max_workers=1) as linker:
            for arch in archs:
                stem = name or hashlib.sha256(arch.to_json().encode()).hexdigest()[:16]
                onnx, library = (Path(self._folder.name) / f"{stem}.{suffix}" for suffix in ("onnx", "so"))
                network = timed_subnet(self.net, arch, arithmetic(self.target.dtype))
                export_onnx(network, onnx, resolution=arch.r, batch=self.target.batch)
                links.append(linker.submit(prepare(onnx, self.target, library, records=self.records).link))
                libraries[arch] = library
                onnx.unlink()
        for link in links:
            link.result()
        return libraries

    def costs(self, archs: Sequence[Arch]) -> tuple[np.ndarray, np.ndarray]:
        """Costs and noise margins, both (n,), for a search.

        A margin is one robust standard deviation of a sample, or what the slowest board would take longer
        if that is more: a budget is to hold on each of them.
        """
        with self._progress.task(CANDIDATES, len(archs)) as task:
            results = self.measure(archs)
            task.advance(len(archs))
        noise = [_MAD_TO_DEVIATION * (result.mad_ms or 0.0) for result in results]
        if isinstance(boards := self._by, Boards):
            longer = [boards.slower(result.device) * result.cost for result in results]
            noise = [max(pair) for pair in zip(noise, longer, strict=True)]
        return np.array([result.cost for result in results]), np.array(noise)


def _measured(measure: OnBoard, files: Mapping[Arch, Path], reference: Path | None) -> Measured:
    def measured(archs: Sequence[Arch]) -> tuple[list[Measurement], Measurement | None]:
        results = measure([files[arch] for arch in archs])
        return (results, None) if reference is None else (results[1:], results[0])

    return measured


def _on_board(work: Work, reference: Path | None) -> Callable[[Mapping[Arch, Path], OnBoard], None]:
    def on_board(files: Mapping[Arch, Path], measure: OnBoard) -> None:
        work(list(files), _measured(measure, files, reference))
        for library in files.values():
            library.unlink(missing_ok=True)

    return on_board
