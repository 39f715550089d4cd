"""What names the columns, models, logs and budgets of a target's modules."""

from __future__ import annotations

from itertools import product

import pytest

from ofa_tvm.latency.dataset import Column
from ofa_tvm.targets import Variant, get_target


@pytest.mark.parametrize(
    ("variant", "name", "log", "column"),
    [
        (Variant("x86"), "x86", "x86", "x86_ms"),
        (Variant("x86", threads=2), "x86-2threads", "x86-2threads", "x86_ms"),
        (Variant("x86", dtype="float16"), "x86-float16", "x86", "x86_float16_ms"),
        (Variant("gpu", batch=64), "gpu-b64", "gpu", "gpu_b64_ms"),
        (Variant("a72", emulated=True), "a72-emulated", "a72-emulated", "a72_minstr"),
        (
            Variant("a72", 4, "float16", 8, emulated=True),
            "a72-emulated-4threads-float16-b8",
            "a72-emulated",
            "a72_float16_b8_minstr",
        ),
    ],
)
def test_names_on_disk_stay_what_they_are(variant: Variant, name: str, log: str, column: str) -> None:
    assert (variant.name, variant.log, variant.column) == (name, log, column)
    parsed = Column.parse(variant.column)
    assert (parsed.target, parsed.dtype, parsed.batch) == (variant.target, variant.dtype, variant.batch)
    assert parsed.unit == variant.unit and parsed.series == variant.series


def test_no_two_variants_share_a_name() -> None:
    choices = (("x86", "arm"), (1, 2), ("float32", "float16"), (1, 8), (False, True))
    variants = [Variant(*chosen) for chosen in product(*choices)]
    assert len({variant.name for variant in variants}) == len(variants)


@pytest.mark.usefixtures("all_cpus")
def test_a_targets_variant_follows_its_settings() -> None:
    target = get_target("x86-64-v2").with_threads(2).with_dtype("float16")
    assert Variant.of(target.with_batch(4)) == Variant("x86-64-v2", 2, "float16", 4)
    assert Variant.of(get_target("cortex-a72")) == Variant("cortex-a72", emulated=True)
    assert Variant.of(get_target("cortex-a72").on_tracker("10.0.0.1:9190", "pi")).unit == "ms"
