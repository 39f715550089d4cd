"""The process that tunes kernels: it searches, builds and times, and reports every trial as it ends.

All of a kernel's work happens in one warm process that loads only what a CPU target needs: no process is
started for a trial and, where this machine is the device, no module is sent and nothing is linked. A schedule
that crashes or hangs takes the process with it; the parent knows which one it was, records the failure, and
goes on in a new process.
"""

from __future__ import annotations

import gc
import math
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from ofa_tvm.compiler.toolchain import load_cpu_intrinsics, on_cpu
from ofa_tvm.process import forget_torch, leave_torch_out

leave_torch_out()

import tvm  # noqa: E402
from tvm.s_tir import Schedule  # noqa: E402

from ofa_tvm.compiler.nvrtc import compiling_cuda, on_cuda  # noqa: E402
from ofa_tvm.compiler.tilings import Tiling  # noqa: E402
from ofa_tvm.compiler.traces import scheduled_by_trace  # noqa: E402
from ofa_tvm.devices.tracker import TrackerUnreachable  # noqa: E402
from ofa_tvm.measurement.device_watch import DeviceWatches  # noqa: E402
from ofa_tvm.measurement.pinning import pin  # noqa: E402
from ofa_tvm.measurement.watch import Watch, local_watch  # noqa: E402
from ofa_tvm.process import EventPipe, requests  # noqa: E402
from ofa_tvm.tuning.gpu import GpuRunner  # noqa: E402
from ofa_tvm.tuning.local import LocalRunner  # noqa: E402
from ofa_tvm.tuning.messages import GaveUp, Note, Report, TuningRequest, to_event  # noqa: E402
from ofa_tvm.tuning.rpc import RpcRunner  # noqa: E402
from ofa_tvm.tuning.runner import Runner, reason  # noqa: E402
from ofa_tvm.tuning.search import Job, tune  # noqa: E402
from ofa_tvm.tuning.trials import Trials  # noqa: E402

forget_torch()

_LONGEST_REASON = 300


def _job(request: TuningRequest) -> Job:
    mod = tvm.ir.load_json(request.mod)
    known = [(_fitting(mod, trace), microseconds * 1e-6) for trace, microseconds in request.known]
    return Job(
        mod=mod,
        target=tvm.target.Target(dict(request.target)),
        known=[(sch, seconds) for sch, seconds in known if sch is not None],
        failed=[sch for trace in request.failed if (sch := _fitting(mod, trace)) is not None],
        hints=[Tiling(*hint) for hint in request.hints],
        trials=request.trials,
        deadline_s=math.inf if request.seconds is None else time.monotonic() + request.seconds,
        seed=request.seed,
    )


def _fitting(mod: tvm.IRModule, trace: Any) -> Schedule | None:
    """Schedule of a trace, None if another version of the compiler made it."""
    try:
        return scheduled_by_trace(mod, trace)
    except ValueError:
        return None


def _runner(
    job: Job,
    request: TuningRequest,
    watches: DeviceWatches,
    here: Watch | None,
    events: EventPipe,
    report: Callable[[Report], None],
) -> Runner:
    if request.device is not None:
        return RpcRunner(
            job.mod,
            job.target,
            request.device,
            job.best_s,
            alive=events.beat,
            note=lambda message: report(Note(message)),
            watches=watches,
        )
    if not on_cpu(job.target):
        return GpuRunner(job.mod, job.target, job.best_s)
    return LocalRunner(
        job.mod,
        job.target,
        request.l2_bytes,
        job.best_s,
        watch=here,
        alive=events.beat,
        note=lambda message: report(Note(message)),
    )


def _building(target: tvm.target.Target) -> AbstractContextManager[object]:
    return compiling_cuda(str(target.attrs["arch"])) if on_cuda(target) else nullcontext()


def _answer(request: TuningRequest, watches: DeviceWatches, here: Watch | None, events: EventPipe) -> None:
    def report(one: Report) -> None:
        events.send(**to_event(one))

    job = _job(request)
    try:
        with _building(job.target), _runner(job, request, watches, here, events, report) as runner:
            trials = Trials(runner, report, job.tried)
            if request.again:
                trials.again([sch for sch, _ in job.known])
            else:
                tune(job, trials)
    except TrackerUnreachable as error:
        report(GaveUp(str(error), no_device=True))
    except Exception as error:  # a search that TVM gives up on is the end of this kernel, not of the worker
        report(GaveUp(reason(error)[:_LONGEST_REASON]))
    else:
        events.send(event="done")


def main() -> None:
    """Serve until standard input closes."""
    events = EventPipe()
    cpus = tuple(int(cpu) for cpu in sys.argv[1].split(",")) if sys.argv[1] else ()
    if cpus:
        pin(cpus)
    load_cpu_intrinsics()
    gc.disable()  # a collection in the middle of a sample would count as the kernel's time
    watches, here = DeviceWatches(), local_watch(cpus)  # what was learned outlasts a kernel
    for request in requests():
        gc.collect()
        _answer(TuningRequest.from_json(request), watches, here, events)


if __name__ == "__main__":
    main()
