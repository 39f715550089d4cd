"""What --with-runtime ships: the C++ program makes of pictures what Python does, here and on ARM."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest
from emulated import arm_target
from once import Once
from PIL import Image
from sklearn.datasets import load_sample_image
from small_module import LABELS, SmallModule, build_small_module

import ofa_tvm
from ofa_tvm.deploy import Artefact, Manifest, bare_runtime, write_artefact
from ofa_tvm.deploy.manifest import TargetEntry
from ofa_tvm.devices.native import host_cxx
from ofa_tvm.errors import UserError
from ofa_tvm.images import Preprocessing, open_image
from ofa_tvm.process import installed_command
from ofa_tvm.targets import Target

SOURCES = Path(ofa_tvm.__file__).parent / "native" / "runner"
MOST, MEAN = 4, 0.3  # by which pixels out of a JPEG may differ from libjpeg's, of 255
PROBABILITY = 0.01  # and so probabilities
EXACT = 2e-6  # probabilities of the same pixels by the same kernels, printed with six digits


@pytest.fixture(scope="module")
def pixels(once: Once) -> Path:
    """The code for pictures alone, built with sanitizers."""
    return once.make("pixels", _pixels)


def _pixels(folder: Path) -> Path:
    flags = [
        "-std=c++17",
        "-O1",
        "-ffp-contract=off",
        "-fsanitize=address,undefined",
        "-fno-sanitize-recover",
    ]
    parts = [SOURCES / f"{name}.cc" for name in ("picture", "orientation", "preprocess")]
    command = [*host_cxx(), *flags, f"-I{SOURCES}", Path(__file__).parent / "pixels.cc", *parts]
    command += ["-fno-sanitize-recover"]
    done = subprocess.run([*command, "-o", folder / "pixels"], capture_output=True, text=True, check=False)
    if "asan" in done.stderr:
        pytest.skip(f"the compiler has no sanitizers: {done.stderr}")
    assert done.returncode == 0 and "warning" not in done.stderr, done.stderr
    return folder / "pixels"


def seen(program: Path, how: Preprocessing, files: list[Path]) -> list[np.ndarray | str]:
    """The square's pixels of each file, or why there are none."""
    arguments = [str(how.resolution), how.interpolation, str(how.crop or 0), *map(str, files)]
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and not done.stderr, done.stderr
    lines = done.stdout.split("\n")
    side = how.resolution
    return [
        np.frombuffer(bytes.fromhex(text), np.uint8).reshape(side, side, 3).astype(int)
        if head != "no"
        else text
        for head, text in zip(lines[: 2 * len(files) : 2], lines[1::2], strict=False)
    ]


def with_orientation(number: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = number
    return exif


def pictures(folder: Path) -> list[Path]:
    """A photo in whatever a camera or a program makes of it."""
    folder.mkdir(exist_ok=True)
    files: list[Path] = []

    def save(name: str, picture: Image.Image, **options: object) -> None:
        picture.save(folder / name, **options)
        files.append(folder / name)

    photo = Image.fromarray(load_sample_image("china.jpg")).resize((321, 240))
    grey = photo.convert("L")
    rng = np.random.default_rng(0)
    clear = photo.copy()
    clear.putalpha(Image.fromarray(rng.integers(0, 256, photo.size[::-1], dtype=np.uint8)))
    few = photo.convert("P", palette=Image.Palette.ADAPTIVE)
    fine = np.asarray(grey).astype(np.uint16) * 251 + rng.integers(0, 99, grey.size[::-1], dtype=np.uint16)
    for sampling in range(3):
        save(f"sampling{sampling}.jpg", photo, subsampling=sampling, quality=85)
    save("progressive.jpg", photo, progressive=True)
    save("restarts.jpg", photo, restart_marker_blocks=3)
    save("grey.jpg", grey)
    save("cmyk.jpg", photo.convert("CMYK"))
    save("rgb.png", photo)
    save("grey.png", grey)
    save("one_bit.png", photo.convert("1"))
    save("palette.png", few)
    save("palette_and_transparency.png", few, transparency=3)
    save("grey_and_transparency.png", grey, transparency=100)
    save("rgb_and_transparency.png", photo, transparency=photo.getpixel((5, 5)))
    save("alpha.png", clear)
    save("grey_and_alpha.png", clear.convert("LA"))
    save("16_bits.png", Image.fromarray(fine))
    save("photo.ppm", photo)
    plain = (folder / "photo.ppm").read_bytes()
    (folder / "commented.ppm").write_bytes(plain.replace(b"P6\n", b"P6\n# by a program\n# that says so\n", 1))
    files.append(folder / "commented.ppm")
    small = photo.resize((90, 61))
    for number in range(1, 9):
        save(f"turned{number}.jpg", small, exif=with_orientation(number), quality=95)
        save(f"turned{number}.png", small, exif=with_orientation(number))
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    save("turned_by_xmp.jpg", small, xmp=xmp, quality=95)
    return files


@pytest.mark.parametrize(
    ("interpolation", "side", "crop"),
    [("bilinear", 224, 0.875), ("bicubic", 160, None), ("nearest", 40, 0.9)],
)
def test_pictures_are_those_of_python(
    pixels: Path, tmp_path: Path, interpolation: str, side: int, crop: float | None
) -> None:
    how = Preprocessing((0.5, 0.5, 0.5), (0.25, 0.25, 0.25), side, interpolation, crop)
    files = pictures(tmp_path / "pictures")
    for file, got in zip(files, seen(pixels, how, files), strict=True):
        assert not isinstance(got, str), (file, got)
        want = how.resize(open_image(file)).astype(int)
        off = np.abs(got - want)
        # Pillow 13 runs over columns first where that is less work, which rounds otherwise.
        most = MOST if file.suffix == ".jpg" else 1
        assert off.mean() <= MEAN and np.quantile(off, 0.999) <= most, (file.name, off.max(), off.mean())
        if file.suffix != ".jpg" and not file.name.startswith("turned"):
            assert not off.any(), file.name


def with_checksums(file: bytes) -> bytes:
    """A PNG whose chunks have the checksums of what is in them, so that what is wrong gets to the decoder."""
    made, at = bytearray(file[:8]), 8
    while at + 12 <= len(file):
        size = int.from_bytes(file[at : at + 4], "big")
        body = file[at + 4 : at + 8 + size]
        if len(body) < size + 4:
            break
        made += file[at : at + 4] + body + zlib.crc32(body).to_bytes(4, "big")
        at += 12 + size
    return bytes(made)


def test_damaged_pictures_are_answered_in_a_sentence(pixels: Path, tmp_path: Path) -> None:
    whole = []
    for file in pictures(tmp_path / "pictures"):
        if not file.name.startswith("turned") or file.name in ("turned6.jpg", "turned6.png"):
            picture = Image.open(file)
            options = {key: picture.info[key] for key in ("exif", "transparency") if key in picture.info}
            small = picture.resize((29, 23)) if picture.mode != "P" else picture.crop((99, 99, 128, 122))
            small.save(file, progressive="progressive" in file.name, **options)
            whole.append(file.read_bytes())
    rng = np.random.default_rng(7)
    broken: list[Path] = []
    for number in range(400):
        file = bytearray(whole[number % len(whole)])
        if number % 5 == 0:
            del file[int(rng.integers(0, len(file))) :]
        else:
            for at in rng.integers(0, min(len(file), 600) if number % 2 else len(file), 1 + number % 6):
                file[at] = rng.integers(0, 256)
        broken.append(tmp_path / f"{number}")
        png = number % 3 and file[:4] == b"\x89PNG"
        broken[-1].write_bytes(with_checksums(bytes(file)) if png else file)
    how = Preprocessing((0.5, 0.5, 0.5), (0.25, 0.25, 0.25), 16)
    answers = seen(pixels, how, broken)
    reasons = {answer for answer in answers if isinstance(answer, str)}
    assert len(answers) == 400 and len(reasons) > 5 and all(reasons)
    assert any("truncated" in reason for reason in reasons) and any(
        "checksum" in reason for reason in reasons
    )


def test_what_is_not_decoded_is_named(pixels: Path, tmp_path: Path) -> None:
    picture = Image.new("RGB", (8, 8))
    cases: dict[str, tuple[bytes, str]] = {"empty": (b"", "is empty")}
    for name, says in (
        ("GIF", "is no JPEG, PNG or binary PPM"),
        ("PNG", "is truncated"),
        ("JPEG", "is truncated"),
    ):
        picture.save(tmp_path / "picture", name)
        cut = (tmp_path / "picture").read_bytes()
        cases[name] = (cut if name == "GIF" else cut[:-8], says)
    picture.save(tmp_path / "picture", "PNG")
    large = bytearray((tmp_path / "picture").read_bytes())
    large[16:24] = (8000).to_bytes(4, "big") * 2
    cases["large"] = (bytes(large), "has more than 50 million pixels; scale it down first")
    cases["ppm"] = (b"P6 9 9 255\n" + bytes(9), "is truncated")
    for name, (content, _) in cases.items():
        (tmp_path / name).write_bytes(content)
    how = Preprocessing((0.5, 0.5, 0.5), (0.25, 0.25, 0.25), 16)
    answers = seen(pixels, how, [tmp_path / name for name in cases])
    for answer, (_, says) in zip(answers, cases.values(), strict=True):
        assert isinstance(answer, str) and answer.startswith(says)


def shipped(folder: Path, so: Path, onnx: Path, target: Target) -> Artefact:
    return write_artefact(folder, so, onnx, Manifest(TargetEntry.of(target)), runtime=bare_runtime(target))


def runs(folder: Path, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """The script, as a shell starts it in an empty environment."""
    command = ["sh", folder / "run.sh", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, env={"PATH": os.environ["PATH"], **environment}, check=False
    )


def photos(folder: Path) -> list[Path]:
    files = [folder / "china.jpg", folder / "flower.jpg", folder / "china.png"]
    for file in files:
        Image.fromarray(load_sample_image(f"{file.stem}.jpg")).save(file)
    return files


def agrees(answer: str, artefact: Artefact, files: list[Path], exact: float = EXACT) -> bool:
    """Whether the program's JSON says what the artefact says in Python; `exact` is for the same pixels."""
    predictions = json.loads(answer)["predictions"]
    for found, expected in zip(predictions, artefact.classify(files, top_k=len(LABELS)), strict=True):
        assert [one["label"] for one in found["top"]] == [one.label for one in expected]
        assert [one["index"] for one in found["top"]] == [one.index for one in expected]
        tolerance = PROBABILITY if found["image"].endswith(".jpg") else exact
        for one, other in zip(found["top"], expected, strict=True):
            assert one["probability"] == pytest.approx(other.probability, abs=tolerance)
    return [found["image"] for found in predictions] == list(map(str, files))


def test_the_folder_classifies_photos_without_python(small: SmallModule, tmp_path: Path) -> None:
    shipped(tmp_path / "made", small.so, small.onnx, small.target)
    folder = (tmp_path / "made").rename(tmp_path / "moved elsewhere")
    files = photos(tmp_path)
    artefact = Artefact.open(folder)
    done = runs(folder, "--json", *files)
    assert done.returncode == 0 and agrees(done.stdout, artefact, files), done.stderr
    assert {"run.sh", "runtime/classify", "runtime/libtvm_ffi.so"} < set(artefact.manifest.sha256)
    (best,) = artefact.classify([files[0]])[0]
    done = runs(folder, files[0], "-k", 2, "-n", 9)
    label, probability = done.stdout.splitlines()[0].split("\t")
    assert label == best.label and float(probability) == pytest.approx(best.probability, abs=PROBABILITY)
    assert len(done.stdout.splitlines()) == 2 and done.stderr.startswith("9 calls on 1 thread: median 0.")
    # One of the network's inputs as Python prepares it: then nothing differs but the order of sums.
    np.save(tmp_path / "input.npy", artefact.classifier.preprocessing.apply(open_image(files[0])))
    top = json.loads(runs(folder, "--json", tmp_path / "input.npy").stdout)["predictions"][0]["top"]
    assert top[0]["probability"] == pytest.approx(best.probability, abs=EXACT)
    np.save(tmp_path / "wrong.npy", np.zeros(3, np.float32))
    np.save(tmp_path / "double.npy", np.load(tmp_path / "input.npy").astype(np.float64))
    (tmp_path / "text.npy").write_text("not numbers")
    for name, says in (
        ("wrong", "does not hold one float32 input"),
        ("double", "does not hold one float32 input"),
        ("text", "is not a .npy file"),
    ):
        done = runs(folder, tmp_path / f"{name}.npy")
        assert done.returncode == 1 and done.stderr.startswith("error: ") and says in done.stderr
    cpu = min(os.sched_getaffinity(0))
    (tmp_path / "broken.jpg").write_bytes(files[0].read_bytes()[:5000])
    done = runs(folder, "--cpus", cpu, "--json", files[0], tmp_path / "broken.jpg", tmp_path / "none.png")
    said = json.loads(done.stdout)
    assert done.returncode == 1 and said["failed"] == 2 and len(said["predictions"]) == 1
    assert "broken.jpg is truncated" in done.stderr and "none.png cannot be read: No such file" in done.stderr
    for bad in (["-k", "0", files[0]], ["--cpus", "a", files[0]], ["--what", files[0]], []):
        done = runs(folder, *bad)
        assert done.returncode == 2 and done.stderr.startswith("error: ") and "usage:" in done.stderr
    assert "is a folder; name the files in it" in runs(folder, tmp_path).stderr
    again = write_artefact(folder, small.so, small.onnx, Manifest(TargetEntry.of(small.target)))
    assert not (again.folder / "run.sh").exists() and not (again.folder / "runtime").exists()


@pytest.mark.usefixtures("all_cpus")
def test_a_module_for_two_threads_and_three_pictures_runs_so(small: SmallModule, tmp_path: Path) -> None:
    import onnx

    model = onnx.load(str(small.onnx))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 3
    onnx.save(model, tmp_path / "three.onnx")
    target = small.target.with_threads(2)
    so = build_small_module(tmp_path / "three.onnx", tmp_path / "three.so", target)
    artefact = shipped(tmp_path / "deploy", so, tmp_path / "three.onnx", target)
    files = photos(tmp_path)
    done = runs(artefact.folder, "--json", *files)
    assert done.returncode == 0 and agrees(done.stdout, artefact, files), done.stderr
    assert json.loads(done.stdout)["threads"] == min(2, len(os.sched_getaffinity(0)))


@pytest.mark.slow
def test_a_folder_for_aarch64_needs_nothing_of_its_system(small: SmallModule, tmp_path: Path) -> None:
    target = arm_target("cortex-a76").with_dtype("float16")
    so = build_small_module(small.onnx, tmp_path / "arm.so", target)
    try:
        artefact = shipped(tmp_path / "deploy", so, small.onnx, target)
    except UserError as error:
        if "cannot be downloaded" not in str(error):
            raise
        pytest.skip(str(error))
    (emulator,) = installed_command((target.run.emulator,))[:1]
    # An old kernel, no C library beside the folder's own, and nothing that `adb push` might have dropped.
    for file in artefact.folder.rglob("*"):
        if file.is_file():
            file.chmod(0o644)
    old = f"{emulator} -L /nonexistent -r 4.9.0 -cpu cortex-a76"
    files = photos(tmp_path)
    done = runs(artefact.folder, "--json", *files, OFA_TVM_EMULATOR=old, TMPDIR="/nonexistent")
    here = write_artefact(tmp_path / "here", small.so, small.onnx, Manifest(TargetEntry.of(small.target)))
    # In half precision against the same network in single, and against its own module called from Python.
    assert done.returncode == 0 and agrees(done.stdout, here, files, exact=PROBABILITY), done.stderr
    assert agrees(done.stdout, artefact.on(target), files, exact=1e-5)
    done = runs(artefact.folder, files[0], OFA_TVM_EMULATOR=old.replace("a76", "a72"))
    assert done.returncode == 1 and "error: the module uses fullfp16, which the cores here" in done.stderr
    brought = {file.name for file in (artefact.folder / "runtime").iterdir()}
    assert {"ld-linux-aarch64.so.1", "libc.so.6", "libstdc++.so.6", "classify", "refused"} < brought
    assert sum(file.stat().st_size for file in artefact.folder.rglob("*")) < 20e6
    if not shutil.which("qemu-aarch64-static"):  # else the kernel may start programs for ARM by itself
        done = runs(artefact.folder, files[0])
        assert done.returncode != 0 and "and this folder's for aarch64" in done.stderr
