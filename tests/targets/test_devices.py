from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ofa_tvm.errors import UserError
from ofa_tvm.targets import get_target
from ofa_tvm.targets.devices import find_platform, list_devices, load_device
from ofa_tvm.targets.load import StandsFor, device_targets, target_names

# Every column of the public datasets, and what it stands for.
COLUMNS = {
    "rtx2080ti": ("RTX 2080 Ti", 1),
    "2080ti_1": ("RTX 2080 Ti", 1),
    "2080ti_64": ("RTX 2080 Ti", 64),
    "titan_rtx_32": ("Titan RTX", 32),
    "titan_xp_64": ("Titan Xp", 64),
    "titanxp_1": ("Titan Xp", 1),
    "titanx_64": ("Titan X (Pascal)", 64),
    "1080ti_32": ("GTX 1080 Ti", 32),
    "tesla_p40": ("Tesla P40", 1),
    "note10_lut_sum": ("Galaxy Note10", 1),
    "gold_6226": ("Xeon Gold 6226", 1),
    "gold_6240": ("Xeon Gold 6240", 1),
    "silver_4114": ("Xeon Silver 4114", 1),
    "silver_4210r": ("Xeon Silver 4210R", 1),
    "essential_ph_1": ("Essential Phone PH-1", 1),
    "pixel3": ("Pixel 3", 1),
    "raspi4": ("Raspberry Pi 4B", 1),
    "eyeriss": ("Eyeriss", 1),
    "fpga": ("ZC706", 1),
}


@pytest.mark.parametrize("series", COLUMNS)
def test_columns_of_the_public_datasets_find_their_device_and_batch(series: str) -> None:
    platform = find_platform(series)
    assert (platform.device.identity, platform.batch) == COLUMNS[series]


def test_the_batch_of_a_heading_counts() -> None:
    assert find_platform("rtx2080ti", 64).batch == 64
    assert find_platform("x86-64-v4").device.hardware.simd_bits == 512


def test_every_shipped_device_is_consistent() -> None:
    devices = list_devices()
    assert len({device.name for device in devices}) == len(devices)
    for device in devices:
        hardware = device.hardware
        if hardware.cores and hardware.fma_units:
            assert hardware.clock_ghz and hardware.simd_bits and hardware.peak_gflops
            lanes = hardware.simd_bits / 32
            peak = 2 * hardware.cores * hardware.clock_ghz * lanes * hardware.fma_units
            assert hardware.peak_gflops == pytest.approx(peak, rel=0.01), device.name
        if device.columns and device.kind == "cuda" and hardware.sms:
            assert hardware.peak_gflops and hardware.bandwidth_gb_s and hardware.l2_kib, device.name


def test_a_column_that_no_device_claims_is_explained() -> None:
    with pytest.raises(UserError, match=r"no descriptor claims the column 'toaster'.*columns: \[toaster\]"):
        find_platform("toaster")


def test_own_device_files(tmp_path: Path) -> None:
    (tmp_path / "devices").mkdir()
    file = tmp_path / "devices" / "toaster.yaml"
    file.write_text("name: toaster\nkind: arm\nsummary: s\nhardware: {cores: 1}\ncolumns: [toaster]\n")
    assert find_platform("toaster", devices=list_devices(tmp_path)).device.hardware.cores == 1
    (tmp_path / "other.yaml").write_text(file.read_text().replace("name: toaster", "name: other"))
    with pytest.raises(UserError, match="both toaster and other claim the column toaster"):
        list_devices(tmp_path)
    file.write_text(file.read_text().replace("cores: 1", "coars: 1"))
    with pytest.raises(UserError, match=r"toaster.yaml, line 4: hardware.coars: .*did you mean cores"):
        load_device(file)
    with pytest.raises(UserError, match="there is no folder"):
        list_devices(tmp_path / "none")


def test_a_devices_name_is_the_target_of_its_core() -> None:
    with pytest.warns(StandsFor, match=r"raspberry-pi-4 \(.*\) is a device; its target is cortex-a72"):
        board = get_target("raspberry-pi-4")
    core = get_target("cortex-a72")
    assert board.name == "cortex-a72" and replace(board, hardware=core.hardware) == core
    assert board.hardware.bandwidth_gb_s == 12.8 and board.hardware.l1d_kib == core.hardware.l1d_kib
    with pytest.warns(StandsFor):
        other = get_target("titan-rtx")  # of the same architecture as the T4 that cuda-sm75 describes
    assert other.hardware.device == "Titan RTX" and other.tvm == get_target("cuda-sm75").tvm


def test_the_targets_that_devices_name_exist_and_are_of_their_kind() -> None:
    kinds = {device.name: device.kind for device in list_devices()}
    named = device_targets()
    assert named.keys() >= {"raspberry-pi-3", "raspberry-pi-4", "raspberry-pi-5", "jetson-nano"}
    for name, target in named.items():
        assert get_target(target).kind == kinds[name], name
    assert not named.keys() & set(target_names())
