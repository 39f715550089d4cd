"""What ofa-tvm makes no use of as it is, or only as images: pictures, arrays, archives, everything else."""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from ofa_tvm.errors import UserError, counted
from ofa_tvm.images import SUFFIXES, open_image
from ofa_tvm.workflow.info.description import (
    Description,
    Fact,
    Step,
    command,
    listed,
    near,
    quoted,
    refusal,
    size_fact,
)

_MOST_MEMBERS = 100_000
# What a file begins with that others read, and what it is called.
_KNOWN = {
    b"SQLite format 3\0": (
        "is an SQLite database",
        "ofa-tvm keeps tuning logs as text (tuning.jsonl, packed tuning.jsonl.xz) and reads no database",
    ),
    b"%PDF": ("is a PDF document", ""),
    b"\x28\xb5\x2f\xfd": ("is packed by zstd", "unpack it first"),
    b"BZh": ("is packed by bzip2", "unpack it first"),
    b"7z\xbc\xaf\x27\x1c": ("is a 7z archive", "unpack it first, then ask about what is in it"),
    b"Rar!": ("is a RAR archive", "unpack it first, then ask about what is in it"),
    b"\x89HDF": ("is an HDF5 file", "weights have to be PyTorch's, networks ONNX"),
    b"TFL3": ("is a TensorFlow Lite model", "convert it to ONNX first"),
}


def known_kind(head: bytes) -> tuple[str, str] | None:
    """What a file seems to be by its first bytes, and what to do instead; None where they say nothing."""
    if head[4:8] == b"TFL3":
        return _KNOWN[b"TFL3"]
    return next((said for magic, said in _KNOWN.items() if head.startswith(magic)), None)


def is_picture(file: Path) -> bool:
    """Whether a file is called as pictures are."""
    return file.suffix.lower() in SUFFIXES


def describe_picture(file: Path) -> Description:
    """One picture.

    Raises
    ------
    UserError
        If it cannot be decoded.
    """
    image = open_image(file)
    return Description(
        path=file,
        kind="picture",
        summary="a picture",
        facts=(
            Fact("pixels", f"{image.width} x {image.height}, {image.mode}", [image.width, image.height]),
            size_fact(file),
        ),
        steps=(Step("classify it", command("run", near(file) or "DEPLOY", file)),),
    )


def describe_array(file: Path) -> Description:
    """A `.npy` file.

    Raises
    ------
    UserError
        If it is no array of numbers.
    """
    import numpy as np

    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # numpy has many for what is none of its files
        raise UserError(
            f"{file} is not a .npy array of numbers: {' '.join(str(error).split())[:120]}"
        ) from error
    shape = "x".join(map(str, array.shape)) or "scalar"
    return Description(
        path=file,
        kind="array",
        summary="an array of numbers",
        facts=(
            Fact("array", f"{array.dtype} {shape}", {"dtype": str(array.dtype), "shape": list(array.shape)}),
            size_fact(file),
        ),
        steps=(
            Step(
                "let a module compute on it, if it is its input", command("run", near(file) or "DEPLOY", file)
            ),
        ),
    )


def describe_zip(file: Path) -> Description:
    """A zip file that is neither a checkpoint nor a predictor.

    Raises
    ------
    UserError
        If it is no data set either; says what it is.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()[:_MOST_MEMBERS]
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(f"{file} is a zip file that is damaged ({error}); copy it anew") from error
    if file.suffix == ".npz":
        arrays = [name.removesuffix(".npy") for name in names]
        return Description(
            path=file,
            kind="arrays",
            summary="an archive of NumPy arrays",
            facts=(Fact("arrays", listed(arrays), arrays), size_fact(file)),
            notes=("`--data` takes such files where they hold CIFAR-10",),
            steps=(Step("train on it", command("train", "--data", file, "-o PROJECT")),),
        )
    raise refusal(
        file,
        f"is a zip archive of {counted(len(names), 'file')} ({listed(names, 3)})",
        f"unpack it first (unzip {quoted(file)}), then ask about what is in it",
    )


def describe_tar(file: Path) -> Description:
    """A tar file of pictures.

    Raises
    ------
    UserError
        If it holds none, or is packed.
    """
    try:
        with tarfile.open(file, "r:") as archive:
            members = [
                member.name
                for member, _ in zip(archive, range(_MOST_MEMBERS), strict=False)
                if member.isfile()
            ]
    except (tarfile.TarError, OSError) as error:
        raise UserError(f"{file} is a tar file that is damaged ({error}); copy it anew") from error
    pictures = [PurePosixPath(name) for name in members if name.lower().endswith(SUFFIXES)]
    if not pictures:
        raise refusal(
            file,
            f"is a tar archive of {counted(len(members), 'file')} without pictures ({listed(members, 3)})",
            f"unpack it first (tar xf {quoted(file)}), then ask about what is in it",
        )
    classes = sorted({path.parent.name for path in pictures})
    facts = (*picture_facts(len(pictures), classes), size_fact(file))
    return data_set(file, "a tar file of pictures", facts)


def picture_facts(total: int, classes: Sequence[str], *, at_least: bool = False) -> list[Fact]:
    """How many pictures there are, and in which folders."""
    facts = [Fact("pictures", f"{total:,}" + " at least" * at_least, total)]
    if classes:
        facts.append(Fact("folders", f"{len(classes):,}: {listed(classes)}", list(classes)))
    return facts


def data_set(path: Path, summary: str, facts: Sequence[Fact]) -> Description:
    """Pictures whose folders are classes."""
    return Description(
        path=path,
        kind="pictures",
        summary=summary,
        facts=tuple(facts),
        notes=("folders are classes where pictures lie in [split/]class/picture",),
        steps=(Step("train on them", command("train", "--data", path, "-o PROJECT")),),
    )
