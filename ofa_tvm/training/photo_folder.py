"""ImageFolder trees and tar files of them: which pictures there are, which are sound, how they are split."""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
import tarfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
import numpy.typing as npt
import PIL

from ofa_tvm import __version__
from ofa_tvm.errors import UsageError, UserError
from ofa_tvm.files import cache_dir, write_atomic
from ofa_tvm.images import SUFFIXES, Preprocessing
from ofa_tvm.jsonfile import parse_json
from ofa_tvm.progress import SILENT, Progress
from ofa_tvm.training.data import SPLITS, Split, hold_out
from ofa_tvm.training.photos import IMAGENET_MEAN, IMAGENET_STD, Photo, PhotoAugmentation, PhotoData, encoded
from ofa_tvm.trees import files_below, is_hidden

_SPLIT_FOLDERS = {"train", "training", "val", "valid", "validation", "test", "testing"}
_CAMERAS = (".heic", ".heif", ".avif", ".jxl", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf")
_LINKS = 8  # in a chain, at most


def image_folder(
    source: str | Path,
    *,
    bad: Literal["refuse", "skip"] = "refuse",
    check: bool = True,
    resolution: int = 224,
    seed: int = 0,
    workers: int | None = None,
    augmentation: PhotoAugmentation | None = None,
    progress: Progress = SILENT,
) -> PhotoData:
    """An ImageFolder tree (`[split/]class/picture`) in a folder or an uncompressed tar file.

    Without split folders, 10 % of each class are held out for validation and 10 % for the test. With `train`
    and `val` (or `test`) the published second one is the test, and 10 % of `train` (10,000 at most) is held
    out for validation, as in the paper; with all three they are taken as they are.

    Parameters
    ----------
    bad
        What to do about files that are no images, or truncated: "refuse" names the first few in an error,
        "skip" leaves them out and lists them in `skipped`.
    check
        Decode every file once now; the answers are kept in the cache folder until a file changes. Without
        it, only names are looked at and a damaged picture stops the training that meets it.

    Raises
    ------
    UserError
        If there are no images, or bad files and `bad` is "refuse".
    """
    if bad not in ("refuse", "skip"):
        raise UsageError(f"bad images can be refused or skipped, not {bad!r}")
    source = Path(source)
    _check_text(str(source), "the path")
    if source.is_dir():
        photos, folders = _folder_files(source)
    elif source.is_file():
        photos, folders = _tar_members(source)
    else:
        raise UserError(f"no such data folder or tar file: {source}")
    photos = [photo for photo in photos if not is_hidden(photo.name)]
    photos.sort(key=lambda photo: PurePosixPath(photo.name).parts)
    folders = [name for name in folders if not is_hidden(name)]
    folders += [str(PurePosixPath(photo.name).parent) for photo in photos]
    photos, problems, converted = _sound(photos, check, workers, progress)
    if problems and bad == "refuse":
        raise UserError(
            f"{source} holds {len(problems)} file{'s' if len(problems) > 1 else ''} that cannot be used: "
            f"{'; '.join(problems[:5])}{' ...' if len(problems) > 5 else ''} (remove them, or "
            "skip bad images: --bad-images skip)"
        )
    labels, by_split, empty = _split_tree(source, photos, folders, seed)
    if empty and bad == "refuse":
        raise UserError(
            f"{source} has folders of classes without a picture: {', '.join(empty[:5])}"
            f"{' ...' if len(empty) > 5 else ''} (add some, remove them, or use --bad-images skip)"
        )
    problems += [f"the folder {name} holds no picture, and is no class" for name in empty]
    return PhotoData(
        source.stem,
        labels,
        Preprocessing(IMAGENET_MEAN, IMAGENET_STD, resolution, crop=0.875),
        by_split,
        augmentation,
        workers,
        problems,
        converted,
    )


def _folder_files(source: Path) -> tuple[list[Photo], list[str]]:
    """All files under a folder, those behind links to folders and broken links too; and all folders."""
    files, folders = files_below(source)
    photos = []
    for path in files:
        status = _status(path)
        size = 0 if status is None else status.st_size
        photos.append(Photo(str(path.relative_to(source)), str(path), 0, size))
    return photos, [str(folder.relative_to(source)) for folder in folders]


def _tar_members(path: Path) -> tuple[list[Photo], list[str]]:
    """All files in a tar file, of which links stand for what they point to; and all folders."""
    try:
        with tarfile.open(path, "r:") as archive:
            try:
                everything = {_tar_name(m.name): m for m in archive}  # of two of a name the later counts
            except tarfile.ReadError as error:
                raise UserError(f"{path} is a damaged tar file ({error}); copy it anew") from error
    except tarfile.ReadError as error:
        raise UserError(f"{path} is not an uncompressed tar file; unpack it and name the folder") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    members = {name: member for name, member in everything.items() if not member.isdir()}
    photos = []
    for name, member in members.items():
        target: tarfile.TarInfo | None = member
        for _ in range(_LINKS):
            if target is None or target.isreg():
                break
            folder = "" if target.islnk() else posixpath.dirname(target.name)  # where a link's target starts
            target = members.get(_tar_name(posixpath.normpath(posixpath.join(folder, target.linkname))))
        if member.isreg() or member.islnk() or member.issym():
            whole = target is not None and target.isreg()
            # A link to nothing is an empty file, which is reported as such.
            offset, size = (target.offset_data, target.size) if target is not None and whole else (0, 0)
            photos.append(Photo(name, str(path), offset, size))
    return photos, [name for name in everything if name not in members]


def _tar_name(name: str) -> str:
    """Relative, without "./" or "../" before it."""
    return str(PurePosixPath(*(part for part in PurePosixPath(name).parts if part not in ("/", ".."))))


def _status(path: Path) -> os.stat_result | None:
    """None for a broken link."""
    try:
        return path.stat()
    except OSError:
        return None


def _check_text(name: str, what: str) -> None:
    """Refuse names that are no text, before hours of training end in a file that cannot hold them."""
    try:
        name.encode()
    except UnicodeEncodeError:
        shown = name.encode("ascii", "backslashreplace").decode()
        raise UserError(f"{what} {shown} is not UTF-8; rename it") from None


def _sound(
    photos: Sequence[Photo], check: bool, workers: int | None, progress: Progress
) -> tuple[list[Photo], list[str], list[str]]:
    """Those that are images, a sentence on each of the others, and the names of those that are not RGB.

    What decoding them all says is kept, and holds as long as the files stay the same.
    """
    kept = cache_dir() / "images" / f"{_fingerprint(photos)}.json" if check else None
    remarks = None if kept is None else _read_remarks(kept)
    if remarks is None:
        remarks = _examined(photos, check, workers, progress)
        if kept is not None:
            with suppress(UserError):  # a cache that cannot be written costs time, no more
                write_atomic(kept, json.dumps(remarks))
    sound = [photo for photo in photos if not remarks.get(photo.name, ("", ""))[0]]
    problems = [problem for problem, _ in remarks.values() if problem]
    converted = [f"{name} ({kind})" for name, (_, kind) in remarks.items() if kind]
    return sound, problems, converted


def _examined(
    photos: Sequence[Photo], check: bool, workers: int | None, progress: Progress
) -> dict[str, tuple[str, str]]:
    """Name -> what is wrong with it, and what it is if not RGB; only of those of which there is such a thing
    to say."""

    def examined(photo: Photo) -> tuple[str, str]:
        if not photo.name.lower().endswith(SUFFIXES):
            return f"{photo.name} {_why_not(photo.name)}", ""
        if check:
            try:
                return "", photo.check()
            except UserError as error:
                return str(error), ""
        return "", ""

    remarks = {}
    with (
        ThreadPoolExecutor(max(1, workers or len(os.sched_getaffinity(0)))) as pool,
        progress.task("check images", total=len(photos)) as bar,
    ):
        for photo, remark in zip(photos, pool.map(examined, photos), strict=True):
            if any(remark):
                remarks[photo.name] = remark
            bar.advance(1)
    return remarks


def _why_not(name: str) -> str:
    """What is said of a file that is no picture by its name."""
    if name.lower().endswith(_CAMERAS):
        return "is of a kind that cannot be read; save it as JPEG or PNG"
    return "is not an image by its name"


def _fingerprint(photos: Sequence[Photo]) -> str:
    """The same as long as no file is added, removed or changed."""
    digest = hashlib.sha256(f"{__version__} {PIL.__version__}".encode())
    for photo in photos:
        digest.update(encoded(f"{photo.name} {photo.offset} {photo.size}\n"))
    for path in map(Path, sorted({photo.path for photo in photos})):
        status = _status(path)
        # Unlike the time of the last write, this one also moves with permissions and cannot be set back.
        changed = None if status is None else status.st_ctime_ns
        digest.update(encoded(f"{path.resolve()} {changed}\n"))
    return digest.hexdigest()


def _read_remarks(path: Path) -> dict[str, tuple[str, str]] | None:
    try:
        content = parse_json(path.read_bytes())
        return {str(name): (str(problem), str(kind)) for name, (problem, kind) in content.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return None


def _split_tree(
    source: Path, photos: Sequence[Photo], folders: Sequence[str], seed: int
) -> tuple[list[str], dict[Split, tuple[Sequence[Photo], npt.NDArray[np.int64]]], list[str]]:
    """Labels, the splits, and folders in a class's place that hold no picture of any split."""
    parts = [PurePosixPath(photo.name).parts for photo in photos]
    inside = [PurePosixPath(name).parts for name in folders]
    known = {"train", "val", "test"}
    # One folder around everything, as tar has it, is none of the tree's.
    while len({p[0] for p in parts}) == 1 and parts[0][0] not in known and all(len(p) > 2 for p in parts):
        parts, inside = [p[1:] for p in parts], [f[1:] for f in inside if f[:1] == parts[0][:1]]
    misplaced = [p for p in parts if len(p) < 3 or p[0] not in known]
    splits = sorted({p[0] for p in parts if len(p) > 2 and p[0].lower() in _SPLIT_FOLDERS})
    if splits and misplaced:
        raise UserError(
            f"{source} has split folders ({', '.join(splits)}), among which {'/'.join(misplaced[0])} has no "
            "place: they are train, val and test, each with a folder a class"
        )
    has_splits = bool(splits)
    depth = 1 if has_splits else 0
    if not parts or any(len(p) < depth + 2 for p in parts):
        raise UserError(
            f"{source} is no tree of class/picture or train/class/picture files"
            + (": pictures lie in it without a folder for their class" if parts else ": it holds no images")
        )
    labels = sorted({p[depth] for p in parts})
    places = [f[: depth + 1] for f in inside if len(f) > depth and (not has_splits or f[0] in known)]
    empty = sorted({"/".join(f) for f in places if f[depth] not in labels})
    for label in labels:
        _check_text(label, f"in {source} the class name")
    if len(labels) < 2:
        raise UserError(f"{source} holds one class only ({labels[0]}); a classifier needs two or more")
    targets = np.array([labels.index(p[depth]) for p in parts], dtype=np.int64)
    where = np.array([p[0] if has_splits else "train" for p in parts])
    rows: dict[Split, npt.NDArray[np.int64]] = {s: np.flatnonzero(where == s) for s in SPLITS}
    if not len(rows["train"]):
        raise UserError(f"{source} has no train folder")
    if absent := [labels[i] for i in sorted(set(targets) - set(targets[rows["train"]]))]:
        raise UserError(f"{source} has no training images of {', '.join(absent[:5])}; add some, or remove it")
    if has_splits and not len(rows["test"]):
        rows["test"], rows["val"] = rows["val"], rows["test"]
    if not len(rows["test"]):
        rows["train"], rows["test"] = hold_out(rows["train"], targets, 0.1, seed, source.name, labels)
    if not len(rows["val"]):
        share = min(0.1, 10_000 / len(rows["train"]))
        rows["train"], rows["val"] = hold_out(rows["train"], targets, share, seed, source.name, labels)
    by_split: dict[Split, tuple[Sequence[Photo], npt.NDArray[np.int64]]]
    by_split = {split: ([photos[i] for i in rows[split]], targets[rows[split]]) for split in SPLITS}
    return labels, by_split, empty
