from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ofa_tvm.errors import UsageError, UserError
from ofa_tvm.latency.dataset import read_table
from ofa_tvm.latency.lookup_table import LookupTable, key_style, table_entries, table_keys, write_tables
from ofa_tvm.spaces import get_space
from ofa_tvm.spaces.blocks import block_structure

SPACE = get_space("ofa_mbv3_w1.2")


def test_the_published_tables_give_the_published_sums(shared_data: Path) -> None:
    table = LookupTable.read(shared_data / "luts" / "note10", SPACE)
    assert table.resolutions == (160, 176, 192, 208, 224)
    data = read_table(shared_data / "latency" / "ofa_mbv3_paper_val.csv.gz", SPACE)
    np.testing.assert_allclose(table.predict(data.archs), data.column("note10_lut_sum")[1], rtol=1e-12)


def test_json_tables_and_missing_resolutions(shared_data: Path) -> None:
    table = LookupTable.read(shared_data / "luts" / "jetson_cpu", SPACE)
    assert table.resolutions == (160, 192, 224)
    genes = SPACE.encode([SPACE.min_arch(176), SPACE.min_arch(192)])
    assert np.isinf(table(genes)).tolist() == [True, False]
    with pytest.raises(UsageError, match="resolution 176"):
        table.predict(genes)


def test_tables_of_another_space_are_refused(shared_data: Path) -> None:
    with pytest.raises(UserError, match="no entry"):
        LookupTable.read(shared_data / "luts" / "note10", get_space("ofa_mbv3_w1.0"))


# Operators besides the elastic blocks: MobileNetV3 has a stem, a first block and four behind the stages;
# ProxylessNAS two behind; ResNet-50 two or three convolutions and a pooling before, a classifier behind.
OTHERS = {"ofa_mbv3_w1.0": 6, "ofa_digits": 6, "ofa_proxyless_w1.3": 4, "ofa_resnet50": 4}


@pytest.mark.parametrize("name", OTHERS)
def test_sums_of_one_a_key_count_the_operators(name: str, rng: np.random.Generator) -> None:
    space = get_space(name)
    blocks = block_structure(space).blocks
    keys = {k for b in blocks for c in b.contexts for k in table_keys(c, key_style(space))}
    table = LookupTable(space, {r: dict.fromkeys(keys, 1.0) for r in space.resolutions})
    genes = space.sample_genes(rng, 50)
    expected = space.active_blocks(genes).sum(axis=1) + OTHERS[name]
    if name == "ofa_resnet50":
        expected = expected + genes[:, 0]  # the stem's own block
    np.testing.assert_array_equal(table(genes), expected)


def test_keys_of_the_published_formats() -> None:
    def keys(name: str) -> list[str]:
        space = get_space(name)
        found = {}
        for block in block_structure(space).blocks:
            for context in block.contexts:
                if context and context[0].h_in in (224, 112, 56, 7):
                    found |= dict.fromkeys(table_keys(context, key_style(space)))
        return list(found)

    proxyless = keys("ofa_proxyless_w1.3")
    assert "Conv-input:224x224x3-output:112x112x40" in proxyless
    assert "expanded_conv-input:112x112x40-output:112x112x24-expand:1-kernel:3-stride:1-idskip:0" in proxyless
    assert "expanded_conv-input:112x112x24-output:56x56x32-expand:6-kernel:7-stride:2-idskip:0" in proxyless
    assert "Conv_1-input:7x7x416-output:7x7x1664" in proxyless
    assert "Logits-input:7x7x1664-output:1000" in proxyless
    resnet = keys("ofa_resnet50")
    assert "bottleneck-input:56x56x256-output:56x56x256-mid:88-kernel:3-stride:1-downsample:0" in resnet, (
        resnet[:5]
    )


@pytest.mark.parametrize("suffix", ["yaml", "json"])
@pytest.mark.parametrize("name", ["ofa_mbv3_w1.0", "ofa_proxyless_w1.3", "ofa_resnet50"])
def test_written_tables_add_up_to_what_they_were_made_from(
    name: str, suffix: str, tmp_path: Path, rng: np.random.Generator
) -> None:
    space = get_space(name)
    times = block_structure(space).tables(lambda layers: sum(la.macs**0.7 for la in layers) / 1e4, 0.25)
    files = write_tables(table_entries(space, times, (160, 192)), tmp_path, suffix)
    assert [file.name for file in files] == [f"{r}_lookup_table.{suffix}" for r in (160, 192)]
    table = LookupTable.read(tmp_path, space)
    assert table.resolutions == (160, 192)
    genes = space.sample_genes(rng, 100, [160, 192])
    np.testing.assert_allclose(table(genes), times(genes), rtol=1e-9)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1, 2]", "expected a mapping"),
        ("{", "not a lookup table"),
        ("{}", "expected a mapping"),
        (json.dumps({"Conv-input:160x160x3-output:80x80x24": {"mean": -1}}), "no time above 0"),
        (json.dumps({"Conv-input:160x160x3-output:80x80x24": 3}), "no time above 0"),
        (json.dumps({"Conv-input:160x160x3-output:80x80x24": {"mean": 0}}), "no time above 0"),
        (json.dumps({"Conv-input:160x160x3-output:80x80x24": {"mean": True}}), "no time above 0"),
        ('{"a": {"mean": 1}, "a": {"mean": 2}}', "the key 'a' is there twice"),
        ('{"a": {"mean": 1' + "0" * 400 + "}}", "too large"),
        ('{"a": ' + "[" * 9000, "not a lookup table"),
        (json.dumps({"Logits": {"mean": 1}}), "resolution is unknown"),
    ],
)
def test_damaged_tables_are_explained(tmp_path: Path, content: str, message: str) -> None:
    for suffix in ("json", "yaml"):
        path = tmp_path / f"160_lookup_table.{suffix}"
        path.write_text(content)
        with pytest.raises(UserError, match=message) as caught:
            LookupTable.read(path, SPACE)
        assert len(str(caught.value).replace(str(tmp_path), "")) < 300


def test_infinite_times_are_explained(tmp_path: Path) -> None:
    for name, mean in (("a.yaml", ".inf"), ("a.yaml", ".nan"), ("a.json", "1e999"), ("a.json", "NaN")):
        (tmp_path / name).write_text(f'{{"Conv-input:160x160x3-output:80x80x24": {{"mean": {mean}}}}}')
        with pytest.raises(UserError, match=r"no time above 0|not a lookup table"):
            LookupTable.read(tmp_path / name, SPACE)


def test_a_table_with_a_byte_order_mark_is_read(tmp_path: Path, shared_data: Path) -> None:
    text = (shared_data / "luts" / "jetson_cpu" / "160_lookup_table.json").read_text()
    (tmp_path / "160_lookup_table.json").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert LookupTable.read(tmp_path, SPACE).resolutions == (160,)


def test_an_empty_folder_is_explained(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no lookup tables"):
        LookupTable.read(tmp_path, SPACE)
    with pytest.raises(UserError, match="cannot read"):
        LookupTable.read(tmp_path / "absent.yaml", SPACE)
