#!/usr/bin/env bash
# Official Once-for-All weights, without training (docs/official-weights.md).
#
#   OFA_TVM_DATA    published predictor, tables and networks (acc_predictor.pth, luts/, ofa_specialized/)
#   WEIGHTS         ofa_mbv3_d234_e346_k357_w1.0; without it random weights of the same names and shapes
. "$(dirname "$0")/common.sh"

data=${OFA_TVM_DATA:-}
[ -d "$data/luts" ] || skip "published data is absent (OFA_TVM_DATA)"

weights=ofa_mbv3_d234_e346_k357_w1.0
if [ -n "${WEIGHTS:-}" ]; then
    cp "$WEIGHTS" $weights
else
    python3 - $weights <<'RANDOM'
import sys

import ofa_tvm
import torch

net = ofa_tvm.build_supernet(ofa_tvm.get_space("ofa_mbv3_w1.0"), 1000)
torch.save({"state_dict": net.state_dict()}, sys.argv[1])
RANDOM
fi
expect "space of the weights" ofa_mbv3_w1.0 "$(known $weights 'facts["space"]')"

cat > ofa-tvm.yaml <<PROJECT
space: ofa_mbv3_w1.0
checkpoint: $weights
resolutions: [128]
accuracy_predictor: $data/accuracy/acc_predictor.pth
PROJECT
expect "kind" project "$(known . kind)"

# The published search: nothing is measured.
ofa-tvm search --space ofa_mbv3_w1.2 --latency-table "$data/luts/note10" --latency 25ms \
    --accuracy-predictor "$data/accuracy/acc_predictor.pth" --no-verify --json > found.json
expect "within 25 ms" True "$(told found.json 'predicted_latency_ms <= 25 and predicted_accuracy > 0.8')"

# What ships needs images; the message says which key is missing.
exits 2 ofa-tvm search --target x86 --latency 6ms -o deploy/

# A subnet of these weights, compiled with the log that ships.
ofa-tvm export min -o min.onnx
expect "resolution of the project" "[1, 3, 128, 128]" "$(known min.onnx 'facts["inputs"][0]["shape"]')"
ofa-tvm compile min.onnx --target x86 -o min.so
expect "usable" True "$(known min.so usable)"

# A published specialised network.
network=$(find "$data/ofa_specialized" -maxdepth 1 -name 'note10_lat-11ms*' | head -n 1)
ofa-tvm export "$network" -o specialised.onnx
expect "its resolution" "[1, 3, 176, 176]" "$(known specialised.onnx 'facts["inputs"][0]["shape"]')"
