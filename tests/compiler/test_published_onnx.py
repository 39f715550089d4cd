"""Networks that ship inside published packages; opt-in, since the models are not ours to keep.

pip install --no-deps --target models rapidocr-onnxruntime nudenet magika basic-pitch silero-vad
OFA_TVM_MODELS=models python -m pytest tests/compiler/test_published_onnx.py
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx_models import random_inputs, reference

import ofa_tvm

_OCR = "rapidocr_onnxruntime/models"
_MODELS = {
    "PP-OCR detection": (f"{_OCR}/ch_PP-OCRv4_det_infer.onnx", {"x": (1, 3, 96, 160)}),
    "PP-OCR direction": (f"{_OCR}/ch_ppocr_mobile_v2.0_cls_infer.onnx", {"x": (1, 3, 48, 192)}),
    "PP-OCR recognition": (f"{_OCR}/ch_PP-OCRv4_rec_infer.onnx", {"x": (1, 3, 48, 160)}),
    "NudeNet": ("nudenet/320n.onnx", {"images": (1, 3, 320, 320)}),
    "magika": ("magika/models/standard_v3_3/model.onnx", {"bytes": (1, 2048)}),
    "basic-pitch": (
        "basic_pitch/saved_models/icassp_2022/nmp.onnx",
        {"serving_default_input_2:0": (1, 43844, 1)},
    ),
    "silero-vad": (
        "silero_vad/data/silero_vad_op18_ifless.onnx",
        {"input": (1, 576), "state": (2, 1, 128)},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", _MODELS)
def test_computes_what_onnx_runtime_does(name: str, tmp_path: Path) -> None:
    file, shapes = _MODELS[name]
    folder = os.environ.get("OFA_TVM_MODELS")
    if not folder:
        pytest.skip("OFA_TVM_MODELS does not name the folder where published packages were installed")
    path = Path(folder) / file
    if not path.is_file():
        pytest.skip(f"there is no {path}")
    ofa_tvm.compile(path, ofa_tvm.get_target("x86"), tmp_path / "m.so", shape=shapes)
    model = onnx.load(path)
    arrays = random_inputs(model, shapes=shapes)
    arrays = [np.asarray(16000) if array.ndim == 0 else array for array in arrays]  # a sampling rate
    got = ofa_tvm.load(tmp_path / "m.so")(*arrays)
    expected = reference(model, arrays)
    for ours, theirs in zip(got if isinstance(got, tuple) else (got,), expected, strict=True):
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
        # Where nothing is to be seen, ONNX Runtime's logistic function gives 0 for what is up to 1e-7.
        atol = max(1e-4 * float(np.abs(theirs).max()), 1e-6)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=atol)
