"""ofa-tvm quantize."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from ofa_tvm.cli.console import Console, common_options
from ofa_tvm.cli.networks import Images, chosen_project, data_options
from ofa_tvm.cli.options import INPUT_PATH, OUTPUT_PATH
from ofa_tvm.errors import UsageError, shown
from ofa_tvm.images import Preprocessing

if TYPE_CHECKING:
    from ofa_tvm.quantization import Method, Quantized, Weights

_SHOWN = 10
_METHODS = ("auto", "minmax", "percentile", "entropy")


class _Colour(click.ParamType):
    name = "R,G,B"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        try:
            red, green, blue = (float(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{shown(value)} is not three numbers; type for example 0.485,0.456,0.406", param, ctx)
        return red, green, blue


@click.command(short_help="Quantise an ONNX model to int8, and say what it costs.")
@click.argument("model", type=INPUT_PATH)
@data_options
@click.option("-o", "--output", type=OUTPUT_PATH, help="The file; by default MODEL.int8.onnx beside MODEL.")
@click.option(
    "--method",
    type=click.Choice(_METHODS),
    default="auto",
    show_default=True,
    help="How ranges of feature maps follow from their values; auto tries all on held-out images.",
)
@click.option(
    "--weights",
    type=click.Choice(("short", "full")),
    default="short",
    show_default=True,
    help="Short: two neighbours are 128 together at most, which CPUs without VNNI multiply faster. Full: the "
    "largest of each channel is 127.",
)
@click.option(
    "--accuracy-drop",
    type=click.FloatRange(0, 100),
    default=0.5,
    show_default=True,
    help="Percentage points that it may cost; the most sensitive layers stay in float to keep within them.",
)
@click.option("--per-layer", is_flag=True, help="Measure and print the effect of every layer.")
@click.option(
    "--calibration-images", type=click.IntRange(min=1), default=128, show_default=True,
    help="Images behind the ranges, at most.",
)  # fmt: skip
@click.option(
    "--held-out-images", type=click.IntRange(min=1), default=500, show_default=True,
    help="Other images, that the cost is measured on, at most.",
)  # fmt: skip
@click.option("--mean", type=_Colour(), help="Of pixels in 0..1; by default as MODEL's metadata say.")
@click.option("--std", type=_Colour(), help="Likewise.")
@click.option("--resolution", type=click.IntRange(min=1), help="Input side, where MODEL leaves it open.")
@common_options
def command(
    console: Console,
    model: Path,
    images: Images,
    output: Path | None,
    method: Method | Literal["auto"],
    weights: Weights,
    accuracy_drop: float,
    per_layer: bool,
    calibration_images: int,
    held_out_images: int,
    mean: tuple[float, float, float] | None,
    std: tuple[float, float, float] | None,
    resolution: int | None,
) -> None:
    """Write MODEL, a float32 ONNX file, with int8 weights and uint8 feature maps (QDQ).

    Pictures (--data, or the nearest ofa-tvm.yaml's) may also be a folder without classes; then the float32
    model's answers are what is right. They are decoded and scaled as MODEL's metadata say (`ofa-tvm export`
    writes them), else as the data set is.
    """
    target = output or model.with_suffix(".int8.onnx")
    from ofa_tvm.quantization import quantize

    examples, origin = _examples(
        console, model, images, (mean, std, resolution), (calibration_images, held_out_images)
    )
    console.say(
        f"{model}: {len(examples.calibration)} images of {origin} to calibrate on, "
        f"{len(examples.held_out)} held out, method {method}, {weights} weights, at most {accuracy_drop:g} "
        f"points, into {target}, seed {console.seed}"
    )
    result = quantize(
        model, examples, target,
        method=method, weights=weights, accuracy_drop=accuracy_drop, per_layer=per_layer, seed=console.seed,
        progress=console.progress,
    )  # fmt: skip
    for note in result.notes:
        console.say(f"note: {note}")
    _show(console, result, model, per_layer)
    console.result(_plain(result))


def _examples(
    console: Console,
    model: Path,
    images: Images,
    given: tuple[Any, Any, int | None],
    counts: tuple[int, int],
) -> Any:
    """The pictures as the network takes them, and what they are called."""
    from ofa_tvm.quantization import of_data, of_pictures
    from ofa_tvm.quantization.described import described

    network = described(model)
    side = network.resolution or given[2]
    if side is None:
        raise UsageError(f"{model} leaves its input's size open; give it with --resolution")
    if given[2] not in (None, side):
        raise UsageError(f"{model} takes images of {side} x {side}, not of {given[2]} x {given[2]}")
    wanted = {"calibration": counts[0], "held_out": counts[1], "seed": console.seed}
    flat = Path(images.source) if images.source is not None else None
    if flat is not None and flat.is_dir() and not any(path.is_dir() for path in flat.iterdir()):
        preprocessing = _as_typed(network.preprocessing or _imagenet(side), given).at(side)
        return of_pictures(flat, preprocessing, progress=console.progress, **wanted), flat
    data = images.load(chosen_project(None), console.progress)
    if data is None:
        raise UsageError("say which pictures to calibrate on: --data with a folder, a tar file or a .npz")
    preprocessing = _as_typed(network.preprocessing or data.preprocessing, given).at(side)
    return of_data(data, preprocessing, network.labels, progress=console.progress, **wanted), data.name


def _imagenet(side: int) -> Preprocessing:
    from ofa_tvm.training.photos import IMAGENET_MEAN, IMAGENET_STD

    return Preprocessing(IMAGENET_MEAN, IMAGENET_STD, side, crop=0.875)


def _as_typed(preprocessing: Preprocessing, given: tuple[Any, Any, Any]) -> Preprocessing:
    mean, std = given[0] or preprocessing.mean, given[1] or preprocessing.std
    return replace(preprocessing, mean=mean, std=std)


def _show(console: Console, result: Quantized, model: Path, per_layer: bool) -> None:
    if result.layers:
        most = len(result.layers) if per_layer else _SHOWN
        console.table(
            ["layer", "operator", "error of the outputs", "numbers"],
            [
                [e.name, e.operator, f"{e.error:.2%}", "float32" if e.in_float else "int8"]
                for e in result.layers[:most]
            ],
            title="each layer's integers alone, the largest effect first",
        )
    for name, tried in result.tried.items():
        share = "" if tried.share is None else f"{result.measure} {tried.share:.2%}, "
        console.print(f"{name}: {share}outputs off by {tried.error:.2%}")
    other = result.other_weights
    share = "" if other.share is None else f"{result.measure} {other.share:.2%}, "
    way = "full" if result.weights == "short" else "short"
    console.print(f"{result.method} with {way} weights: {share}outputs off by {other.error:.2%}")
    left = len(result.in_float)
    ints = f"{result.quantised_layers} of {result.quantised_layers + left} layers in int8"
    before, after = model.stat().st_size / 1e6, result.path.stat().st_size / 1e6
    console.print(f"{result.path}: {ints} by {result.method}, {before:.1f} MB before, {after:.1f} MB now")
    images = f"{result.held_out_images} held-out images"
    if result.points is None or result.float32.share is None or result.int8.share is None:
        console.print(f"outputs off by {result.int8.error:.2%} (root mean square) on {images}")
    elif result.measure == "accuracy":
        console.print(
            f"accuracy {result.int8.share:.2%} on {images}, {abs(result.points):.2f} points "
            f"{'more' if result.points < 0 else 'less'} than float32's {result.float32.share:.2%}"
        )
    else:
        console.print(f"{result.int8.share:.2%} of {images} get the float32 model's answer")


def _plain(result: Quantized) -> dict[str, Any]:
    """For JSON."""
    return {
        "path": str(result.path),
        "method": result.method,
        "measure": result.measure,
        "float32": result.float32.share,
        "int8": result.int8.share,
        "points_lost": result.points,
        "output_error": result.int8.error,
        "tried": {name: {"share": s.share, "output_error": s.error} for name, s in result.tried.items()},
        "weights": result.weights,
        "other_weights": {"share": result.other_weights.share, "output_error": result.other_weights.error},
        "int8_layers": result.quantised_layers,
        "float32_layers": list(result.in_float),
        "layers": [
            {"name": e.name, "operator": e.operator, "output_error": e.error, "float32": e.in_float}
            for e in result.layers
        ],
        "calibration_images": result.calibration_images,
        "held_out_images": result.held_out_images,
        "notes": list(result.notes),
    }
