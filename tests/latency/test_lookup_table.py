from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ofa_tvm.errors import UsageError, UserError
from ofa_tvm.latency.dataset import read_table
from ofa_tvm.latency.lookup_table import LookupTable, table_keys
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


@pytest.mark.parametrize("name", ["ofa_mbv3_w1.0", "ofa_proxyless_w1.3", "ofa_digits"])
def test_sums_of_one_a_key_count_the_operators(name: str, rng: np.random.Generator) -> None:
    space = get_space(name)
    blocks = block_structure(space).blocks
    rich = space.final_width > 0
    keys = {k for b in blocks for c in b.contexts for k in table_keys(c, expand_as_channels=rich)}
    table = LookupTable(space, {r: dict.fromkeys(keys, 1.0) for r in space.resolutions})
    genes = space.sample_genes(rng, 50)
    # Stem, first block and either 4 operators behind the stages or, in ProxylessNAS tables, 2.
    np.testing.assert_array_equal(table(genes), space.active_blocks(genes).sum(axis=1) + (6 if rich else 4))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1, 2]", "expected a mapping"),
        ("{", "not a lookup table"),
        ("{}", "expected a mapping"),
        (json.dumps({"Conv-input:160x160x3-output:80x80x24": {"mean": -1}}), "no time above 0"),
        (json.dumps({"Conv-input:160x160x3-output:80x80x24": 3}), "no time above 0"),
        (json.dumps({"Logits": {"mean": 1}}), "resolution is unknown"),
    ],
)
def test_damaged_tables_are_explained(tmp_path: Path, content: str, message: str) -> None:
    for suffix in ("json", "yaml"):
        path = tmp_path / f"160_lookup_table.{suffix}"
        path.write_text(content)
        with pytest.raises(UserError, match=message):
            LookupTable.read(path, SPACE)


def test_an_empty_folder_is_explained(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no lookup tables"):
        LookupTable.read(tmp_path, SPACE)
    with pytest.raises(UserError, match="cannot read"):
        LookupTable.read(tmp_path / "absent.yaml", SPACE)
