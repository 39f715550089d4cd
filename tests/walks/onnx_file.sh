#!/usr/bin/env bash
# An ONNX file of your own: compile, compare, tune, compile again (docs/own-onnx.md).
#
#   MODEL    the file, with fixed input sizes; without it a small network that PyTorch exports
. "$(dirname "$0")/common.sh"

if [ -n "${MODEL:-}" ]; then
    cp "$MODEL" model.onnx
else
    python3 - <<'EXPORT'
import torch
from torch import nn

torch.manual_seed(0)
net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
torch.onnx.export(net.eval(), torch.zeros(1, 3, 16, 16), "model.onnx", input_names=["input"], dynamo=False)
EXPORT
fi
expect "usable" True "$(known model.onnx usable)"

ofa-tvm compile model.onnx --target x86 -o model.so --verbose
ofa-tvm measure model.onnx --target x86 --onnxruntime
ofa-tvm tune model.onnx --target x86 --trials 2
ofa-tvm compile model.onnx --target x86 -o model.so --json > compiled.json
expect "share of the time that is tuned" 1.0 "$(told compiled.json tuned_fraction)"
ofa-tvm bench model.so --seconds 0.5
expect "compiled from" model.onnx "$(known model.so 'facts["compiled_from"]["name"]')"

python3 - <<'CALL'
import numpy as np
import ofa_tvm

run = ofa_tvm.load("model.so")
print(run(np.zeros(run.inputs[0].shape, np.float32)).shape)
CALL
