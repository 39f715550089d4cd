"""The artefact: a folder with the compiled module, its ONNX and a manifest; loading, running, checking it."""

from __future__ import annotations

from ofa_tvm.deploy.artefact import Artefact, write_artefact
from ofa_tvm.deploy.bare import BareRuntime, bare_runtime
from ofa_tvm.deploy.check import Difference, check_against_onnxruntime
from ofa_tvm.deploy.classify import Classifier, Prediction
from ofa_tvm.deploy.loading import load
from ofa_tvm.deploy.manifest import Manifest
from ofa_tvm.runtime import Runner

__all__ = [
    "Artefact",
    "BareRuntime",
    "Classifier",
    "Difference",
    "Manifest",
    "Prediction",
    "Runner",
    "bare_runtime",
    "check_against_onnxruntime",
    "load",
    "write_artefact",
]
