#!/usr/bin/env bash
# Your own photos: from a folder of pictures to a module that tells them apart (docs/own-images.md).
#
#   PHOTOS=~/photos EPOCHS=30 bash own_photos.sh     a real run; without, drawn pictures and one epoch: a minute
. "$(dirname "$0")/common.sh"

photos=${PHOTOS:-"my photos"}
if [ ! -d "$photos" ]; then
    python3 - "$photos" <<'DRAW'
import sys
from pathlib import Path

import numpy as np
from PIL import Image

rng = np.random.default_rng(0)
for label in range(10):
    folder = Path(sys.argv[1]) / f"Größe {label}"
    folder.mkdir(parents=True)
    for number in range(8):
        pixels = rng.integers(0, 60, (40 + number, 48, 3), dtype=np.uint8)
        pixels[: 4 * (label + 1)] += 150
        Image.fromarray(pixels).save(folder / f"{number}.jpg")
DRAW
fi
expect "kind" "a folder of pictures" "$(known "$photos" summary)"

ofa-tvm train --data "$photos" --space ofa_digits --set "resolutions=[32]" --phases full \
    --set "phases.full.epochs=${EPOCHS:-1}" --set batch_size=16 -o project
expect "kind" project "$(known project kind)"

cd project
ofa-tvm evaluate -n "${SUBNETS:-4}" --calibration-images 32 --fit accuracy.model
ofa-tvm search --target x86 --latency 100ms --latency-samples "${SUBNETS:-2}" --rounds 1 --candidates 1 -o deploy/
cd ..

ofa-tvm run project/deploy "$photos"/*/*.jpg --json > answers.json
expect "pictures answered" "$(find "$photos" -name '*.jpg' | wc -l)" "$(told answers.json 'len(predictions)')"
expect "space" ofa_digits "$(known project/deploy 'facts["space"]')"
expect "within the budget" True "$(known project/deploy 'facts["latency"]["measured"] <= 100')"
