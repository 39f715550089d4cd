"""ofa-tvm run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from ofa_tvm.cli.console import Console, common_options
from ofa_tvm.cli.options import INPUT_PATH, complete_target
from ofa_tvm.deploy import Artefact, Classifier, Prediction, load
from ofa_tvm.errors import UserError, shorten
from ofa_tvm.files import require_file
from ofa_tvm.images import SUFFIXES, open_image
from ofa_tvm.process import use_runtime_only
from ofa_tvm.targets import Target, get_target


@click.command(short_help="Classify pictures with an artefact.")
@click.argument("deploy", type=INPUT_PATH)
@click.argument("images", nargs=-1, required=True, type=INPUT_PATH)
@click.option(
    "-k", "--top-k", type=click.IntRange(min=1), default=1, show_default=True, help="Classes to print."
)
@click.option(
    "-t",
    "--target",
    shell_complete=complete_target,
    help="Run on the device of this target (name or YAML file), not here.",
)
@common_options
def command(console: Console, deploy: Path, images: tuple[Path, ...], top_k: int, target: str | None) -> None:
    """Print the class and its probability of each picture in IMAGES.

    DEPLOY is an artefact folder or a compiled .so. IMAGES are picture files, folders of them, or .npy files:
    float32 network input (n, 3, height, width), or uint8 pixels (n, height, width, 3). AArch64 code runs in
    the emulator where this machine is of another family.
    """
    use_runtime_only()
    classifier = _classifier(deploy, get_target(target) if target else None)
    results: list[tuple[str, list[Prediction]]] = []
    for path in _files(images):
        for name, x in _inputs(path, classifier):
            results.append((name, classifier.classify_inputs(x, top_k)[0]))
    width = max(len(name) for name, _ in results)
    for name, best in results:
        console.print(
            f"{name:<{width}}  " + "  ".join(f"{p.label} {100 * p.probability:.1f} %" for p in best)
        )
    console.result(
        {
            "artefact": str(deploy),
            "predictions": [
                {
                    "image": name,
                    "top": [
                        {"label": p.label, "index": p.index, "probability": round(p.probability, 6)}
                        for p in best
                    ],
                }
                for name, best in results
            ],
        }
    )


def _classifier(deploy: Path, target: Target | None) -> Classifier:
    if deploy.is_dir() or deploy.suffix != ".so":
        return Artefact.open(deploy).on(target).classifier
    return Classifier.of(load(deploy, target), str(deploy))


def _files(images: Sequence[Path]) -> list[Path]:
    files: list[Path] = []
    for path in images:
        if not path.is_dir():
            files.append(path)
            continue
        inside = sorted(file for file in path.iterdir() if file.suffix.lower() in (*SUFFIXES, ".npy"))
        if not inside:
            raise UserError(f"the folder {path} holds no pictures ({', '.join(SUFFIXES)}) and no .npy files")
        files += inside
    return files


def _inputs(path: Path, classifier: Classifier) -> list[tuple[str, npt.NDArray[np.float32]]]:
    """Name and network input (1, 3, r, r) of each example in a file."""
    if path.suffix.lower() != ".npy":
        return [(str(path), classifier.preprocessing.apply(open_image(path)))]
    x = _read_npy(path)
    if x.dtype == np.uint8 and x.ndim in (3, 4) and x.shape[-1] == 3:
        from PIL import Image

        pixels = x if x.ndim == 4 else x[None]
        batch = classifier.preprocessing.apply([Image.fromarray(np.ascontiguousarray(p)) for p in pixels])
    elif x.dtype == np.float32 and x.ndim in (3, 4):
        batch = x if x.ndim == 4 else x[None]
    else:
        raise UserError(
            f"{path} holds {x.dtype} of shape {x.shape}; it must be float32 network input "
            "(n, 3, height, width) or uint8 pixels (n, height, width, 3)"
        )
    if len(batch) == 1:
        return [(str(path), batch)]
    return [(f"{path}[{index}]", batch[index : index + 1]) for index in range(len(batch))]


def _read_npy(path: Path) -> npt.NDArray[Any]:
    require_file(path)
    try:
        # Mapped, so that a header's word for its size is not taken.
        x = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise UserError(f"no such file: {path}") from None
    except Exception as error:  # numpy reads headers by Python's tokenizer, which has errors of its own
        reason = shorten(" ".join(str(error).split()), 120)
        raise UserError(f"{path} is not a .npy array of numbers: {reason}") from error
    if not isinstance(x, np.ndarray) or not x.size:
        raise UserError(f"{path} holds no examples")
    return x
