"""Which cores a device's sessions run on, and code that has instructions which they lack."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from emulated import arm_target
from local_device import devices, local_device
from small_module import write_small_onnx

import ofa_tvm
from ofa_tvm.compiler.templates import templates_of
from ofa_tvm.devices import Fleet, Place, TrackerUnreachable
from ofa_tvm.devices.features import used_features
from ofa_tvm.devices.session import open_session
from ofa_tvm.devices.tracker import TrackerProcess, wait_until
from ofa_tvm.errors import UserError

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tuning"))
from test_campaign import kernels

from ofa_tvm.tuning.messages import DeviceRequest
from ofa_tvm.tuning.rpc import RpcRunner

INSTRUCTIONS = {
    "dotprod": """
        sdot v0.4s,v1.16b,v2.16b; udot v0.2s,v1.8b,v2.8b; sdot v0.4s,v1.16b,v2.4b[3]""",
    "fullfp16": """
        fadd v0.8h,v1.8h,v2.8h; fmla v0.4h,v1.4h,v2.4h; fsqrt v3.8h,v1.8h; fmla v0.8h,v1.8h,v2.h[7];
        fmul v0.4h,v1.4h,v2.h[1]; fmls v0.4h,v1.4h,v2.h[1]; fadd h0,h1,h2; fmadd h0,h1,h2,h3;
        fcmgt v3.8h,v1.8h,#0.0""",
    "bf16": """
        bfdot v0.4s,v1.8h,v2.8h; bfdot v0.2s,v1.4h,v2.2h[1]; bfmmla v0.4s,v1.8h,v2.8h; bfcvt h0,s1;
        bfmlalt v0.4s,v1.8h,v2.8h; bfcvtn v0.4h,v1.4s""",
    "i8mm": """
        smmla v0.4s,v1.16b,v2.16b; usmmla v0.4s,v1.16b,v2.16b; usdot v0.4s,v1.16b,v2.16b;
        usdot v0.4s,v1.16b,v2.4b[1]; sudot v0.4s,v1.16b,v2.4b[1]""",
    # What ARM v8.0 has, as near to these as can be.
    "": """
        fcvt s0,h1; fcvt h0,s1; fcvtl v0.4s,v1.4h; fcvtn v0.4h,v1.4s; fmla v0.4s,v1.4s,v2.s[1];
        fadd s0,s1,s2; fmadd s0,s1,s2,s3; smull v0.8h,v1.8b,v2.8b; smlal v0.4s,v1.4h,v2.h[3];
        mla v0.8h,v1.8h,v2.h[7]; mul v0.4s,v1.4s,v2.s[1]; sqrdmulh v0.4s,v1.4s,v2.4s; ins v0.h[1],w1;
        dup v0.8h,w1; zip1 v0.8h,v1.8h,v2.8h; ext v0.16b,v1.16b,v2.16b,#3; tbl v0.16b,{v1.16b},v2.16b;
        saddlp v0.4s,v1.8h; fcvtns v0.4s,v1.4s; movi v0.8h,#1; fmov s0,#1.0; shl v0.8h,v1.8h,#3;
        sqrshrn v0.4h,v1.4s,#3; fmaxnmv s0,v1.4s; fdiv v0.4s,v1.4s,v2.4s""",
}


@pytest.mark.parametrize("feature", INSTRUCTIONS)
def test_the_features_of_code_are_read_from_it(feature: str, tmp_path: Path) -> None:
    """Each instruction alone, as the assembler of the cross compiler writes it."""
    compiler = arm_target().link.find()
    for number, line in enumerate(INSTRUCTIONS[feature].split(";")):
        source = tmp_path / f"{number}.s"
        source.write_text(f".arch armv8.6-a+fp16+bf16+i8mm\n{line.strip()}\n")
        subprocess.run([*compiler, "-c", source, "-o", source.with_suffix(".o")], check=True)
        assert used_features(source.with_suffix(".o")) == ({feature} if feature else set()), line


@pytest.mark.slow
def test_code_for_newer_cores_is_refused_in_a_sentence(tmp_path: Path) -> None:
    """It would end the session by an illegal instruction, and nobody would know why."""
    older, newer = arm_target("cortex-a72"), arm_target("cortex-a76")
    onnx = write_small_onnx(tmp_path / "m.onnx")
    so = ofa_tvm.compile(onnx, newer.with_dtype("float16"), tmp_path / "m.so").path
    assert used_features(so) == {"fullfp16"}
    with Fleet(older, devices=1) as fleet:
        with (
            open_session(fleet.place) as session,
            pytest.raises(UserError, match=r"m\.so uses fullfp16, which"),
        ):
            session.load(so)
        (softmax,) = (kernel for kernel in kernels(newer) if kernel.name.startswith("softmax"))
        request = DeviceRequest(str(fleet.place), newer.link.find(), emulated=True, wait_s=30.0)
        with RpcRunner(softmax.mod, newer.tvm_target(), request, 1.0, alive=_pass, note=_pass) as runner:
            first = next(templates_of(newer.tvm_target()).ranked(softmax.mod))
            with pytest.raises(
                TrackerUnreachable, match="do not have dotprod, fullfp16, which the target is"
            ):
                runner.run(first)


def _pass(*_: object) -> None:
    pass


@pytest.mark.parametrize(("cpus", "kept"), [("big", {1}), ("little", {0}), ("0,900", {0})])
def test_a_session_keeps_to_the_cores_that_are_asked_for(
    cpus: str, kept: set[int], tmp_path: Path, all_cpus: set[int]
) -> None:
    if not {0, 1} <= all_cpus:
        pytest.skip("the first two CPUs are not this process's")
    for number, part in enumerate(("0x803", "0x802")):  # Kryo 385 Silver and Gold
        clock = tmp_path / f"sys/devices/system/cpu/cpu{number}/cpufreq/cpuinfo_max_freq"
        clock.parent.mkdir(parents=True)
        clock.write_text(f"{1766400 + number * 1036800}\n")
        (tmp_path / "proc").mkdir(exist_ok=True)
        with (tmp_path / "proc/cpuinfo").open("a") as file:
            file.write(f"processor\t: {number}\nCPU implementer\t: 0x51\nCPU part\t: {part}\n\n")
    with TrackerProcess() as tracker:
        place = Place(tracker.host, tracker.port, "here")
        with local_device(place, tmp_path, options=("--cpus", cpus, "--system", str(tmp_path))):
            assert wait_until(lambda: devices(place) == 1, 20)
            with open_session(place) as session:
                session.set_threads(2)
                status = str(session.call("ofa_tvm.device.read", "/proc/self/status"))
                threads = session.call("runtime.NumThreads")
    allowed = re.findall(r"Cpus_allowed_list:\t(.*)", status)
    assert allowed == [",".join(map(str, sorted(kept))).replace("0,1", "0-1")]
    assert threads == len(kept)
