#!/usr/bin/env bash
# A latency table of your own machine, and a search by it (docs/latency.md).
#
#   PROJECT    a trained project; without it the quickstart makes one (a few minutes)
#   ROWS       subnets to measure
#   MINUTES    to tune for, beyond what the project's log holds
. "$(dirname "$0")/common.sh"

project project
cd project

ofa-tvm tune --target x86 --dry-run --json > plan.json
if [ -n "${MINUTES:-}" ]; then # the quickstart has tuned for a while already
    ofa-tvm tune --target x86 --minutes "$MINUTES"
fi
log=$(find tuning_logs -mindepth 1 -maxdepth 1 -type d | head -n 1)
expect "kernels of the space" "$(told plan.json kernels)" "$(known "$log" 'facts["covers"]["kernels"]')"

ofa-tvm collect --target x86 -n "${ROWS:-2}" -o lat.csv
expect "rows" "${ROWS:-2}" "$(known lat.csv 'facts["rows"]')"

ofa-tvm predictor fit --data latency-x86.csv -o p.model
ofa-tvm predictor eval --model p.model --data lat.csv
expect "samples" "$(known latency-x86.csv 'facts["rows"]')" "$(known p.model 'facts["samples"]')"

# Tables as the official code reads them, and a search that measures nothing.
ofa-tvm predictor table --target x86 --resolutions 32 -o tables/
expect "format" "lookup table" "$(known tables kind)"
middle=$(known tables '"%.6f" % facts["subnets_take"][1]')
ofa-tvm search --resolutions 32 --latency-table tables/ --latency "${middle}ms" --no-verify --json > found.json
expect "within the budget" True "$(told found.json "predicted_latency_ms <= $middle")"
