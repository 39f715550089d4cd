"""Detection, on what other machines say of themselves."""

from __future__ import annotations

from pathlib import Path

import pytest

from ofa_tvm.errors import UserError
from ofa_tvm.targets import get_target
from ofa_tvm.targets.load import probe_arm, probe_x86
from ofa_tvm.targets.machine import Machine, detect_machine

V2 = "fpu sse sse2 pni ssse3 cx16 sse4_1 sse4_2 popcnt lahf_lm"
V3 = V2 + " avx avx2 bmi1 bmi2 f16c fma abm movbe xsave adx"
V4 = V3 + " avx512f avx512bw avx512cd avx512dq avx512vl"
ICELAKE = V4 + " avx512ifma avx512vbmi avx512_vbmi2 avx512_vnni avx512_bitalg gfni vaes avx512_vpopcntdq"
ZEN5 = ICELAKE + " avx512_bf16 avx_vnni avx512_vp2intersect sha_ni"


def machine_of(
    root: Path,
    vendor: str,
    family: int,
    model: int,
    flags: str,
    *,
    cores: int = 2,
    siblings: int = 1,
    caches: tuple[str, ...] = ("1 Data 32K", "1 Instruction 64K", "2 Unified 1M", "3 Unified 16384K"),
    max_khz: str = "",
) -> Machine:
    blocks = [
        f"processor\t: {core * siblings + thread}\nvendor_id\t: {vendor}\ncpu family\t: {family}\n"
        f"model\t\t: {model}\nmodel name\t: A Processor\ncpu MHz\t\t: 2000.000\nphysical id\t: 0\n"
        f"core id\t\t: {core}\nflags\t\t: {flags}\n"
        for core in range(cores)
        for thread in range(siblings)
    ]
    cpu0 = root / "sys/devices/system/cpu/cpu0"
    (root / "proc").mkdir(parents=True)
    (root / "proc/cpuinfo").write_text("\n".join(blocks))
    (root / "proc/meminfo").write_text("MemTotal:       16777216 kB\nMemFree: 1 kB\n")
    for index, cache in enumerate(caches):
        folder = cpu0 / f"cache/index{index}"
        folder.mkdir(parents=True)
        for name, value in zip(("level", "type", "size"), cache.split(), strict=True):
            (folder / name).write_text(value + "\n")
    if max_khz:
        (cpu0 / "cpufreq").mkdir(parents=True)
        (cpu0 / "cpufreq/cpuinfo_max_freq").write_text(max_khz)
    return detect_machine(root, "x86_64")


@pytest.mark.parametrize(
    ("vendor", "family", "model", "flags", "level", "cpu"),
    [
        ("AuthenticAMD", 26, 2, ZEN5, "x86-64-v4", "znver5"),
        ("AuthenticAMD", 25, 17, ICELAKE + " avx512_bf16", "x86-64-v4", "znver4"),
        ("AuthenticAMD", 25, 33, V3 + " sha_ni vaes", "x86-64-v3", "znver3"),
        ("AuthenticAMD", 23, 49, V3 + " sha_ni", "x86-64-v3", "znver2"),
        ("AuthenticAMD", 23, 1, V3 + " sha_ni", "x86-64-v3", "znver1"),
        ("GenuineIntel", 6, 63, V3, "x86-64-v3", "haswell"),
        ("GenuineIntel", 6, 85, V4, "x86-64-v4", "skylake-avx512"),
        ("GenuineIntel", 6, 85, V4 + " avx512_vnni", "x86-64-v4", "cascadelake"),
        ("GenuineIntel", 6, 106, ICELAKE, "x86-64-v4", "icelake-server"),
        # A hypervisor hides AVX-512: code for the processor's own name would be an illegal instruction.
        ("GenuineIntel", 6, 85, V3, "x86-64-v3", ""),
        ("AuthenticAMD", 26, 2, V4, "x86-64-v4", ""),
        # Too new or too old to be known by model.
        ("GenuineIntel", 6, 250, V4, "x86-64-v4", ""),
        ("GenuineIntel", 6, 44, V2, "x86-64-v2", ""),
        ("SomeoneElse", 6, 85, V3, "x86-64-v3", ""),
        ("GenuineIntel", 6, 15, "fpu sse sse2", "x86-64", ""),
    ],
)
def test_level_and_cpu(
    tmp_path: Path, vendor: str, family: int, model: int, flags: str, level: str, cpu: str
) -> None:
    machine = machine_of(tmp_path, vendor, family, model, flags)
    assert (machine.level, machine.cpu) == (level, cpu)


def test_sizes_and_counts(tmp_path: Path) -> None:
    machine = machine_of(tmp_path, "AuthenticAMD", 26, 2, ZEN5, cores=4, siblings=2, max_khz="4000000\n")
    assert (machine.cores, machine.threads) == (4, 8)
    assert (machine.l1d_kib, machine.l2_kib, machine.l3_kib) == (32, 1024, 16384)
    assert machine.ram_gib == 16.0
    assert machine.clock_ghz == 4.0
    # 4 cores x 4 GHz x 16 lanes x 2 operations x 2 units
    assert machine.peak_gflops == pytest.approx(1024.0)


def test_flags_and_llvm_features_are_the_same_thing(tmp_path: Path) -> None:
    machine = machine_of(tmp_path, "AuthenticAMD", 26, 2, ZEN5)
    assert machine.has("avx512vnni") and machine.has("avx512_vnni") and machine.has("sse4.2")
    assert not machine.has("amx-tile")


def test_probed_target_lists_what_its_logs_may_come_from(tmp_path: Path) -> None:
    target = probe_x86(machine_of(tmp_path / "a", "AuthenticAMD", 26, 2, ZEN5))
    assert target.tvm["mcpu"] == "znver5"
    assert target.compatible == ("znver5", *get_target("znver5").compatible)
    assert target.compatible[-3:] == ("x86-64-v4", "x86-64-v3", "x86-64-v2")
    unknown = probe_x86(machine_of(tmp_path / "b", "SomeoneElse", 1, 1, V3))
    assert unknown.tvm["mcpu"] == "x86-64-v3"
    assert unknown.compatible == ("x86-64-v3", "x86-64-v2")
    assert unknown.hardware.peak_gflops is None


@pytest.mark.parametrize(
    ("flags", "cpu", "compatible"),
    [
        (ICELAKE, "icelake-server", ("icelake-server", "cascadelake", "x86-64-v4", "x86-64-v3", "x86-64-v2")),
        (V4 + " avx512_vnni", "cascadelake", ("cascadelake", "x86-64-v4", "x86-64-v3", "x86-64-v2")),
        (V3 + " avx_vnni gfni vaes", "alderlake", ("alderlake", "x86-64-v3", "x86-64-v2")),
        (V3 + " avx_vnni", "x86-64-v3", ("x86-64-v3", "x86-64-v2")),  # what LLVM may also use is hidden
    ],
)
def test_byte_products_of_a_cpu_that_is_not_known_by_name(
    tmp_path: Path, flags: str, cpu: str, compatible: tuple[str, ...]
) -> None:
    """Its level alone has none, and int8 would take twice as long."""
    target = probe_x86(machine_of(tmp_path, "AuthenticAMD", 26, 2, flags))
    assert (target.mcpu, target.compatible) == (cpu, compatible)
    assert target.dtypes["int8"] == ("vpmaddwd" if cpu == "x86-64-v3" else "vpdpbusd")


def test_a_cpu_newer_than_llvm_falls_back_to_its_level(tmp_path: Path) -> None:
    import dataclasses

    machine = dataclasses.replace(machine_of(tmp_path, "AuthenticAMD", 26, 2, ZEN5), cpu="znver99")
    target = probe_x86(machine)
    assert target.mcpu == "znver99"
    assert target.tvm_target().attrs["mcpu"] == "x86-64-v4"


def test_a_machine_says_why_it_cannot_run_a_target(tmp_path: Path) -> None:
    machine = machine_of(tmp_path, "GenuineIntel", 6, 63, V3)
    assert get_target("x86-64-v3").runs_on(machine) == ""
    assert get_target("x86-64-v4").runs_on(machine) == "this machine lacks avx512f, avx512vl"
    hidden = machine_of(tmp_path / "vm", "GenuineIntel", 6, 85, V4.replace(" avx512cd", ""))
    assert get_target("x86-64-v4").runs_on(hidden) == "this machine lacks avx512cd"


def test_x86_on_another_architecture(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("processor\t: 0\nFeatures\t: fp asimd\nCPU part\t: 0xd08\n")
    machine = detect_machine(tmp_path, "aarch64")
    assert machine.has("asimd") and machine.level == ""
    with pytest.raises(UserError, match="aarch64"):
        probe_x86(machine)


@pytest.mark.parametrize(
    ("enabled", "expected"),
    [("always [madvise] never\n", "madvise"), ("always madvise [never]\n", "never"), (None, ""), ("", "")],
)
def test_huge_pages(tmp_path: Path, enabled: str | None, expected: str) -> None:
    folder = tmp_path / "sys/kernel/mm/transparent_hugepage"
    if enabled is not None:
        folder.mkdir(parents=True)
        (folder / "enabled").write_text(enabled)
    assert machine_of(tmp_path, "AuthenticAMD", 26, 2, ZEN5).huge_pages == expected


def test_this_machine_is_described() -> None:
    machine = detect_machine()
    assert machine.cores >= 1 and machine.threads >= machine.cores
    assert machine.ram_gib > 0


CORTEX = "fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid"


@pytest.mark.parametrize(
    ("part", "flags", "cpu", "features"),
    [
        ("0xd03", CORTEX, "cortex-a53", ("neon",)),
        ("0xd08", CORTEX, "cortex-a72", ("neon",)),
        ("0xd0b", CORTEX + " fphp asimdhp asimddp lrcpc", "cortex-a76", ("neon", "fullfp16", "dotprod")),
        ("0xd0c", CORTEX + " fphp asimdhp asimddp lrcpc", "neoverse-n1", ("neon", "fullfp16", "dotprod")),
    ],
)
def test_arm_boards(tmp_path: Path, part: str, flags: str, cpu: str, features: tuple[str, ...]) -> None:
    block = "processor\t: {}\nBogoMIPS\t: 108.00\nFeatures\t: {}\nCPU implementer\t: 0x41\nCPU part\t: {}\n"
    (tmp_path / "proc/device-tree").mkdir(parents=True)
    (tmp_path / "proc/cpuinfo").write_text("\n".join(block.format(i, flags, part) for i in range(4)))
    (tmp_path / "proc/meminfo").write_text("MemTotal:        3884360 kB\n")
    (tmp_path / "proc/device-tree/model").write_text("A Board\0")
    target = probe_arm(detect_machine(tmp_path, "aarch64"))
    assert (target.mcpu, target.features, target.hardware.cores) == (cpu, features, 4)
    assert target.hardware.device == "A Board" and target.hardware.ram_gib == 3.7
    target.tvm_target()
    over_rpc = target.on_tracker("10.0.0.1:9190", "boards")
    assert over_rpc.unit == "ms" and over_rpc.run.where == "rpc"


@pytest.mark.parametrize(
    ("part", "flags", "cpu", "mattr"),
    [
        ("0x802", "asimd fphp asimdhp", "cortex-a75", ["-dotprod"]),
        ("0x802", "asimd fphp asimdhp asimddp", "cortex-a75", None),
        ("0x800", "asimd", "cortex-a73", None),
    ],
)
def test_a_phones_big_cores_are_described(
    part: str, flags: str, cpu: str, mattr: list[str] | None, tmp_path: Path
) -> None:
    """Qualcomm's cores by Arm's that they are made from; sdot only where the phone has it."""
    (tmp_path / "proc").mkdir()
    core = "processor\t: {}\nFeatures\t: {}\nCPU implementer\t: 0x51\nCPU part\t: {}\n\n"
    (tmp_path / "proc/cpuinfo").write_text(core.format(0, flags, "0x801") + core.format(4, flags, part))
    target = probe_arm(detect_machine(tmp_path, "aarch64"))
    assert target.mcpu == cpu and target.tvm.get("mattr") == mattr
    target.tvm_target()


def test_an_unknown_arm_core_is_said(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("processor\t: 0\nCPU implementer\t: 0x51\nCPU part\t: 0x7ff\n")
    with pytest.raises(UserError, match="CPU part"):
        probe_arm(detect_machine(tmp_path, "aarch64"))
    with pytest.raises(UserError, match="x86_64, not aarch64"):
        probe_arm(detect_machine(tmp_path, "x86_64"))
