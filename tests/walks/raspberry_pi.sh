#!/usr/bin/env bash
# A Raspberry Pi 4 without one at hand: cross-compiled, run and counted in an emulator (docs/targets-arm.md). With a
# board, OFA_TVM_TRACKER names its tracker.
. "$(dirname "$0")/common.sh"

ofa-tvm doctor raspberry-pi-4
command -v qemu-aarch64 aarch64-linux-gnu-g++ > emulator.txt ||
    skip "no emulated device: apt-get install qemu-user g++-aarch64-linux-gnu"
ofa-tvm device emulate --target raspberry-pi-4

project project
cd project
ofa-tvm export median -o median.onnx
ofa-tvm compile median.onnx --target raspberry-pi-4 -o median.so
expect "usable" True "$(known median.so usable)"
expect "target" cortex-a72 "$(known median.so 'facts["target"]["name"]')"
ofa-tvm measure median.so --json > counted.json
expect "counts, no times" "True None" "$(told counted.json 'f"{instructions > 0} {median_ms}"')"

# A budget in milliseconds is refused: nothing of an emulator is a time.
exits 2 ofa-tvm search --target raspberry-pi-4 --latency 25ms -o deploy-pi/

ofa-tvm tune median.onnx --target raspberry-pi-4 --dry-run --json > plan.json
expect "something to tune" True "$(told plan.json 'trials_left > 0')"
ofa-tvm run median.so images/

ofa-tvm device bundle --target raspberry-pi-4 -o ofa-tvm-device
test -s ofa-tvm-device/README.txt
