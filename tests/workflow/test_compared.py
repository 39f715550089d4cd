"""The file of a comparison: read as it was written, refused where it is damaged."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ofa_tvm.errors import UserError
from ofa_tvm.spaces import get_space
from ofa_tvm.workflow.compared import Comparison, Row


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    space = get_space("ofa_digits")
    archs = space.decode(space.sample_genes(np.random.default_rng(0), 2))
    rows = (
        Row("largest", archs[0], "float32", 0.99, None, 0.2, 10**7, 0.3, None),
        Row("chosen", archs[1], "int8", None, 0.1, 0.1, 10**6),
    )
    found = Comparison(rows, "ms", 2, 8, "a machine", "2026-11-29T23:00:00+00:00", True, {"torch": "2"})
    file = tmp_path / "comparison-x86.json"
    found.write(file)
    assert Comparison.read(file) == found
    assert found.row_of(archs[1], "int8") is rows[1] and found.row_of(archs[1], "float32") is None
    content = json.loads(file.read_text())
    for key, value in (("threads", 0), ("unit", "miles"), ("subnets", [])):
        file.write_text(json.dumps({**content, key: value}))
        with pytest.raises(UserError, match=key):
            Comparison.read(file)
    content["subnets"][0]["arch"] = {"ks": "none"}
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match="comparison"):
        Comparison.read(file)
    with pytest.raises(UserError, match="cannot read"):
        Comparison.read(tmp_path / "none.json")
