"""Speed of the augmentation of photographs: `python benchmarks/augmentation.py imagenette128.tar`.

Images a second in one thread, decoded beforehand: a random resized crop, a flip and colour, each image with
a seed of its own as exact resume needs it; and what is left of pixel noise scaled down by eight (a filter
that averages leaves little, one that aliases much). Libraries that are installed are timed beside ours.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from provenance import save

from ofa_tvm.training.photo_folder import image_folder
from ofa_tvm.training.photos import PhotoAugmentation

Augment = Callable[[Image.Image, int], np.ndarray]
AREA, ASPECT, BRIGHTNESS, SATURATION = (0.08, 1.0), 4 / 3, 32 / 255, 0.5


def ours(side: int, area: tuple[float, float] = AREA, aspect: float = ASPECT) -> Augment:
    augmentation = PhotoAugmentation(area, aspect, 0.5, BRIGHTNESS, SATURATION)
    return lambda image, seed: np.asarray(augmentation.apply(image, side, np.random.default_rng(seed)))


def albumentations(side: int, area: tuple[float, float] = AREA, aspect: float = ASPECT) -> Augment:
    import albumentations as A
    import cv2

    cv2.setNumThreads(1)
    chain = A.Compose(
        [
            A.RandomResizedCrop((side, side), scale=area, ratio=(1 / aspect, aspect)),
            A.HorizontalFlip(p=0.5),
            A.ColorJitter(
                (1 - BRIGHTNESS, 1 + BRIGHTNESS), (1, 1), (1 - SATURATION, 1 + SATURATION), (0, 0), p=1
            ),
        ],
        seed=0,
    )

    def augment(image: Image.Image, seed: int) -> np.ndarray:
        chain.set_random_seed(seed)
        result: np.ndarray = chain(image=np.asarray(image))["image"]
        return result

    return augment


def kornia(side: int, area: tuple[float, float] = AREA, aspect: float = ASPECT) -> Augment:
    import kornia.augmentation as K

    chain = torch.nn.Sequential(
        K.RandomResizedCrop((side, side), scale=area, ratio=(1 / aspect, aspect), cropping_mode="slice"),
        K.RandomHorizontalFlip(),
        K.ColorJitter(brightness=BRIGHTNESS, saturation=SATURATION),
    )

    def augment(image: Image.Image, seed: int) -> np.ndarray:
        torch.manual_seed(seed)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
        result: np.ndarray = (255 * chain(pixels)[0]).round().byte().permute(1, 2, 0).numpy()
        return result

    return augment


def images_per_second(
    augments: dict[str, Augment], images: Sequence[Image.Image], repeats: int
) -> dict[str, float]:
    """Median rate of each, in turns, after one unmeasured round."""
    seconds: dict[str, list[float]] = {name: [] for name in augments}
    for round_ in range(repeats + 1):
        for name, augment in augments.items():
            start = time.perf_counter()
            for seed, image in enumerate(images):
                augment(image, seed)
            if round_:
                seconds[name].append(time.perf_counter() - start)
    return {name: len(images) / statistics.median(times) for name, times in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path, help="folder or tar file of class/picture")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--resolution", type=int, default=112)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = image_folder(options.photos, check=False, workers=0)
    picked = np.linspace(0, data.size("train") - 1, options.images).astype(int)
    start = time.perf_counter()
    images = [data.image("train", int(i)) for i in picked]
    decoded = len(images) / (time.perf_counter() - start)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype=np.uint8))
    makers: dict[str, Any] = {"ours": ours, "albumentations": albumentations, "kornia": kornia}
    makers = {n: make for n, make in makers.items() if n == "ours" or importlib.util.find_spec(n)}
    rates = images_per_second(
        {name: make(options.resolution) for name, make in makers.items()}, images, options.repeats
    )
    rows = []
    print(f"{len(images)} images to {options.resolution} pixels, one thread; decoding alone {decoded:.0f}/s")
    for name, make in makers.items():
        left = float(np.std(make(64, (1.0, 1.0), 1.0)(noise, 0)))
        rows.append({"library": name, "images_per_s": rates[name], "noise_left_of_74": left})
        print(f"{name:16} {rates[name]:6.0f} images/s   noise left after 512 -> 64: {left:5.1f} of 74")
    if options.json:
        save(options.json, {"images": len(images), "resolution": options.resolution,
                            "decoded_per_s": decoded, "rows": rows})  # fmt: skip


if __name__ == "__main__":
    main()
