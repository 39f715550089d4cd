#!/usr/bin/env bash
# In CI: exit codes, JSON on standard output and nothing else there, the same module twice, and a gate on what was
# measured (docs/reference/cli.md).
#
#   PROJECT    a trained project; without it the quickstart makes one (a few minutes)
. "$(dirname "$0")/common.sh"

project project
cd project
rm -rf deploy

exits 2 ofa-tvm search --target x86 --latency 60 -o deploy/
exits 1 ofa-tvm run deploy/ images/ 2> /dev/null

ofa-tvm search --target x86 --latency 50ms --candidates 1 --rounds 1 -o deploy/ --json > search.json 2> search.log
expect "shipped" deploy "$(told search.json artefact)"
ofa-tvm info deploy/ --json > info.json
expect "gate" True "$(told info.json 'facts["latency"]["measured"] < 50 and facts["accuracy"]["measured"] > 0')"

# The same network and the same log give the same module, bit for bit.
ofa-tvm compile deploy/model.onnx --target x86 -o again.so
cmp again.so deploy/model.so

printf damaged >> deploy/model.onnx
exits 1 ofa-tvm info deploy/ > damaged.txt
grep -q "^damaged: " damaged.txt
