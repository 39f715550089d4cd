"""What this machine is: read from /proc/cpuinfo, /proc/meminfo and /sys (Linux)."""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass
from pathlib import Path

# The x86-64 psABI's micro-architecture levels, as the flags of /proc/cpuinfo.
_V2 = frozenset({"cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3"})
_V3 = _V2 | {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"}
_V4 = _V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
X86_LEVELS = {"x86-64-v4": _V4, "x86-64-v3": _V3, "x86-64-v2": _V2}

_ICELAKE = _V4 | {"avx512ifma", "avx512vbmi", "avx512_vbmi2", "avx512_vnni", "avx512_bitalg", "gfni", "vaes"}
_ZEN4 = _ICELAKE | {"avx512_bf16", "avx512_vpopcntdq"}
_SAPPHIRE = _ZEN4 | {"avx512_fp16", "avx_vnni", "amx_tile"}
_ALDER = _V3 | {"avx_vnni", "gfni", "vaes"}


@dataclass(frozen=True)
class _Core:
    """A micro-architecture: LLVM's name, flags that LLVM's code for it may use, and its FMA units.

    Widths and units: Agner Fog, "The microarchitecture of Intel, AMD and VIA CPUs"; AMD software
    optimization guides 55723 (Zen 2), 56665 (Zen 3), 57647 (Zen 4), 58455 (Zen 5).
    """

    name: str
    flags: frozenset[str]
    simd_bits: int
    fma_units: int


_CORES = {
    core.name: core
    for core in (
        _Core("haswell", _V3, 256, 2),
        _Core("broadwell", _V3 | {"adx"}, 256, 2),
        _Core("skylake", _V3 | {"adx"}, 256, 2),
        _Core("skylake-avx512", _V4 | {"adx"}, 512, 2),
        _Core("cascadelake", _V4 | {"avx512_vnni"}, 512, 2),
        _Core("cooperlake", _V4 | {"avx512_vnni", "avx512_bf16"}, 512, 2),
        _Core("icelake-client", _ICELAKE, 512, 1),
        _Core("icelake-server", _ICELAKE, 512, 2),
        _Core("tigerlake", _ICELAKE | {"avx512_vp2intersect"}, 512, 1),
        _Core("rocketlake", _ICELAKE, 512, 1),
        _Core("sapphirerapids", _SAPPHIRE, 512, 2),
        _Core("emeraldrapids", _SAPPHIRE, 512, 2),
        _Core("graniterapids", _SAPPHIRE, 512, 2),
        _Core("alderlake", _ALDER, 256, 2),
        _Core("raptorlake", _ALDER, 256, 2),
        _Core("meteorlake", _ALDER, 256, 2),
        _Core("znver1", _V3 | {"adx", "sha_ni"}, 128, 2),
        _Core("znver2", _V3 | {"adx", "sha_ni"}, 256, 2),
        _Core("znver3", _V3 | {"adx", "sha_ni", "vaes"}, 256, 2),
        _Core("znver4", _ZEN4, 256, 2),
        _Core("znver5", _ZEN4 | {"avx_vnni", "avx512_vp2intersect"}, 512, 2),
    )
}

# Intel family 6, by model number (Intel SDM volume 4, table 2-1).
_INTEL_MODELS = {
    **dict.fromkeys((60, 63, 69, 70), "haswell"),
    **dict.fromkeys((61, 71, 79, 86), "broadwell"),
    **dict.fromkeys((78, 94, 142, 158, 165, 166), "skylake"),
    **dict.fromkeys((106, 108), "icelake-server"),
    **dict.fromkeys((125, 126), "icelake-client"),
    **dict.fromkeys((140, 141), "tigerlake"),
    **dict.fromkeys((151, 154), "alderlake"),
    **dict.fromkeys((170, 172), "meteorlake"),
    **dict.fromkeys((173, 174), "graniterapids"),
    **dict.fromkeys((183, 186, 191), "raptorlake"),
    143: "sapphirerapids",
    167: "rocketlake",
    207: "emeraldrapids",
}


# Arm's part numbers (implementer 0x41), from the cores' Technical Reference Manuals, register MIDR_EL1.
_ARM_PARTS = {
    0xD03: "cortex-a53",
    0xD05: "cortex-a55",
    0xD07: "cortex-a57",
    0xD08: "cortex-a72",
    0xD09: "cortex-a73",
    0xD0A: "cortex-a75",
    0xD0B: "cortex-a76",
    0xD0C: "neoverse-n1",
    0xD0D: "cortex-a77",
    0xD40: "neoverse-v1",
    0xD41: "cortex-a78",
    0xD49: "neoverse-n2",
    0xD4F: "neoverse-v2",
}
# Cores of phones that others made: Qualcomm's from Arm's, Samsung's own (LLVM has no model of the M1).
# From pytorch/cpuinfo, src/arm/midr.h and src/arm/uarch.c.
_OTHER_PARTS = {
    (0x51, 0x800): "cortex-a73",
    (0x51, 0x801): "cortex-a53",
    (0x51, 0x802): "cortex-a75",
    (0x51, 0x803): "cortex-a55",
    (0x51, 0x804): "cortex-a76",
    (0x51, 0x805): "cortex-a55",
    (0x53, 0x001): "cortex-a72",
    (0x53, 0x002): "exynos-m3",
    (0x53, 0x003): "exynos-m4",
}
# NEON units of 128 bits that multiply and add: the cores' Software Optimization Guides.
_ARM_UNITS = {"cortex-a72": 1, "cortex-a76": 2, "neoverse-n1": 2, "neoverse-v1": 4}
_ARM_FLAGS = {"neon": "asimd", "fullfp16": "asimdhp", "dotprod": "asimddp"}  # LLVM's names and the kernel's


def detect_arm_cpu(implementer: int, part: int) -> str:
    """LLVM's name of a core of Arm's, Qualcomm's or Samsung's, "" if unknown."""
    return _ARM_PARTS.get(part, "") if implementer == 0x41 else _OTHER_PARTS.get((implementer, part), "")


def _squeeze(flag: str) -> str:
    # /proc/cpuinfo says avx512_vnni and sse4_2 where LLVM says avx512vnni and sse4.2.
    return flag.replace("_", "").replace(".", "").replace("-", "")


@dataclass(frozen=True)
class Machine:
    """This machine's processor and memory; 0 or "" where the system does not say.

    `level` is the x86-64 micro-architecture level, `cpu` LLVM's name if the model is known and every flag
    that LLVM would use for it is present (a hypervisor may hide some). `huge_pages` says whether programs get
    huge pages: "always", "madvise" (those that ask for them, as compiled networks do) or "never".
    """

    arch: str
    model: str
    flags: frozenset[str]
    level: str
    cpu: str
    cores: int
    threads: int
    clock_ghz: float
    simd_bits: int
    fma_units: int
    l1d_kib: int
    l2_kib: int
    l3_kib: int
    ram_gib: float
    huge_pages: str = ""

    def has(self, feature: str) -> bool:
        """Whether the CPU has an LLVM feature ("avx512vnni") or a flag of /proc/cpuinfo ("avx512_vnni")."""
        feature = _ARM_FLAGS.get(feature, feature) if self.arch == "aarch64" else feature
        return _squeeze(feature) in {_squeeze(flag) for flag in self.flags}

    @property
    def name(self) -> str:
        """For people and in logs: what a kernel's time on one thread depends on."""
        return f"{self.model} ({self.cpu or self.level or self.arch})"

    @property
    def peak_gflops(self) -> float:
        """fp32 peak of all cores, from clock, SIMD width and units; 0 if one of them is unknown."""
        return self.cores * self.clock_ghz * self.simd_bits / 32 * 2 * self.fma_units


def _blocks(cpuinfo: str) -> list[dict[str, str]]:
    blocks = []
    for text in re.split(r"\n\s*\n", cpuinfo.strip()):
        pairs = (line.partition(":") for line in text.splitlines() if ":" in line)
        blocks.append({key.strip(): value.strip() for key, _, value in pairs})
    return [block for block in blocks if "processor" in block]


def detect_x86_level(flags: frozenset[str]) -> str:
    """Highest x86-64 level whose flags are all present, "x86-64" if not even level 2."""
    return next((name for name, needed in X86_LEVELS.items() if needed <= flags), "x86-64")


def detect_x86_cpu(vendor: str, family: int, model: int, flags: frozenset[str]) -> str:
    """LLVM's name of an Intel or AMD processor, "" if unknown or if some of its flags are hidden."""
    name = ""
    if vendor == "GenuineIntel" and family == 6:
        name = _INTEL_MODELS.get(model, "")
        if model == 85:
            name = "skylake-avx512"
            if "avx512_vnni" in flags:
                name = "cooperlake" if "avx512_bf16" in flags else "cascadelake"
    elif vendor == "AuthenticAMD":
        if family == 0x17:
            name = "znver1" if model < 0x30 else "znver2"
        elif family == 0x19:
            name = "znver4" if 0x10 <= model <= 0x1F or model >= 0x60 else "znver3"
        elif family == 0x1A:
            name = "znver5"
    return name if name and _CORES[name].flags <= flags else ""


def needed_flags(cpu: str) -> frozenset[str]:
    """Flags of /proc/cpuinfo that LLVM's code for an x86 CPU or level may rely on; none if it is unknown."""
    if cpu in _CORES:
        return _CORES[cpu].flags
    return X86_LEVELS.get(cpu, frozenset())


def detect_caches(sys: Path) -> dict[str, int]:
    """Sizes in KiB of cpu0's data caches, keys "l1d", "l2", "l3"; 0 if /sys does not say."""
    sizes = {"l1d": 0, "l2": 0, "l3": 0}
    for index in sorted((sys / "devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = (_read(index / name) for name in ("level", "type", "size"))
        key = "l1d" if level == "1" else f"l{level}"
        if kind != "Instruction" and key in sizes and (match := re.fullmatch(r"(\d+)([KMG]?)", size)):
            sizes[key] = int(match[1]) * {"": 1, "K": 1, "M": 1024, "G": 1024 * 1024}[match[2]]
    return sizes


def detect_clock_ghz(cpuinfo: str, sys: Path) -> float:
    """Highest clock that the system states, in GHz; 0.0 if it states none."""
    if highest := _read(sys / "devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq"):
        return round(int(highest) / 1e6, 3)
    clocks = [float(block["cpu MHz"]) for block in _blocks(cpuinfo) if "cpu MHz" in block]
    return round(max(clocks, default=0.0) / 1e3, 3)


def detect_cores(cpuinfo: str) -> tuple[int, int]:
    """Physical cores and hardware threads."""
    blocks = _blocks(cpuinfo)
    places = {(block.get("physical id", ""), block.get("core id", block["processor"])) for block in blocks}
    return len(places), len(blocks)


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def detect_machine(root: Path = Path("/"), arch: str = platform.machine()) -> Machine:
    """Describe this machine, or the one whose `proc` and `sys` folders lie under `root`."""
    cpuinfo = _read(root / "proc/cpuinfo")
    first = next(iter(_blocks(cpuinfo)), {})
    flags = frozenset((first.get("flags") or first.get("Features") or "").split())
    level = cpu = ""
    if arch == "x86_64":
        level = detect_x86_level(flags)
        family, model = int(first.get("cpu family", 0)), int(first.get("model", 0))
        cpu = detect_x86_cpu(first.get("vendor_id", ""), family, model, flags)
    model_name = first.get("model name", "")
    simd_bits, fma_units = 0, 0
    if arch == "aarch64":
        last = (_blocks(cpuinfo) or [{}])[-1]  # of unlike cores the fast ones come last
        cpu = detect_arm_cpu(int(last.get("CPU implementer", "0"), 0), int(last.get("CPU part", "0"), 0))
        simd_bits, fma_units = 128 if "asimd" in flags else 0, _ARM_UNITS.get(cpu, 0)
        model_name = model_name or _read(root / "proc/device-tree/model").rstrip("\0")
    elif cpu:
        simd_bits, fma_units = _CORES[cpu].simd_bits, _CORES[cpu].fma_units
    cores, threads = detect_cores(cpuinfo)
    caches = detect_caches(root / "sys")
    total = re.search(r"MemTotal:\s+(\d+) kB", _read(root / "proc/meminfo"))
    pages = re.search(r"\[(\w+)\]", _read(root / "sys/kernel/mm/transparent_hugepage/enabled"))
    return Machine(
        arch=arch,
        model=model_name,
        flags=flags,
        level=level,
        cpu=cpu,
        cores=cores,
        threads=threads,
        clock_ghz=detect_clock_ghz(cpuinfo, root / "sys"),
        simd_bits=simd_bits,
        fma_units=fma_units,
        l1d_kib=caches["l1d"],
        l2_kib=caches["l2"],
        l3_kib=caches["l3"],
        ram_gib=round(int(total[1]) / 2**20, 1) if total else 0.0,
        huge_pages=pages[1] if pages else "",
    )
