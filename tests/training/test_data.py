"""Data sets: sound splits, and pixels that a deployed module would see too."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ofa_tvm.errors import UsageError, UserError
from ofa_tvm.images import open_image
from ofa_tvm.training import digits, load_data
from ofa_tvm.training.augment import Augmentation
from ofa_tvm.training.cifar import cifar10
from ofa_tvm.training.data import SPLITS
from ofa_tvm.training.photo_folder import image_folder
from ofa_tvm.training.photos import Photo


def test_digits_splits_are_disjoint_and_stratified() -> None:
    data = digits(seed=3)
    assert [data.size(s) for s in SPLITS] == [1197, 300, 300]
    assert data.labels == tuple("0123456789")
    scans = {s: {data.image(s, i).tobytes() for i in range(data.size(s))} for s in SPLITS}
    # 1,797 scans are all different, so that shared bytes would be a leak.
    assert sum(map(len, scans.values())) == 1797 == len(set.union(*scans.values()))
    for split in SPLITS:
        counts = np.bincount(data.targets(split), minlength=10)
        assert counts.max() - counts.min() <= 0.03 * data.size(split)
    assert digits(seed=3).fingerprint == data.fingerprint != digits(seed=4).fingerprint


@pytest.mark.parametrize("resolution", [32, 40, 48])
def test_evaluation_pixels_equal_those_of_a_deployed_module(tmp_path: Path, resolution: int) -> None:
    data = digits()
    indices = [0, 7, 299]
    batch = data.batch("test", indices, resolution)
    assert batch.shape == (3, 3, resolution, resolution) and batch.dtype == torch.float32
    for row, index in enumerate(indices):
        path = tmp_path / f"{index}.png"
        data.image("test", index).save(path)
        deployed = data.preprocessing.at(resolution).apply(open_image(path))
        assert np.array_equal(deployed[0], batch[row].numpy())


def test_normalised_training_pixels_have_mean_0_and_deviation_1() -> None:
    data = digits()
    batch = data.batch("train", range(data.size("train")), 48)
    assert abs(float(batch.mean())) < 0.05 and 0.8 < float(batch.std()) < 1.1


def test_training_batches_depend_on_their_seed_alone() -> None:
    data = digits()
    first = data.training_batch([1, 2, 3], 32, seed=5)
    torch.rand(3)  # whatever happens in between
    assert torch.equal(first, data.training_batch([1, 2, 3], 32, seed=5))
    assert not torch.equal(first, data.training_batch([1, 2, 3], 32, seed=6))


def test_augmentation_without_limits_changes_nothing() -> None:
    pixels = torch.rand(4, 3, 16, 16)
    assert torch.equal(Augmentation().apply(pixels, torch.Generator()), pixels)
    mirrored = Augmentation(flip=1.0).apply(pixels, torch.Generator())
    torch.testing.assert_close(mirrored, pixels.flip(3), atol=1e-5, rtol=1e-4)


def test_augmentation_shifts_by_a_share_of_the_side() -> None:
    pixels = torch.zeros(200, 1, 20, 20)
    pixels[:, :, 10, 10] = 1
    moved = Augmentation(shift=0.1).apply(pixels, torch.Generator().manual_seed(0))
    rows = (moved.sum(dim=3).squeeze(1) * torch.arange(20)).sum(dim=1) / moved.sum(dim=(1, 2, 3))
    offsets = rows - 10
    assert offsets.abs().max() <= 2.01 and offsets.abs().max() > 1.6 and abs(float(offsets.mean())) < 0.3


# ---- photographs ----------------------------------------------------------------------------------------


def _picture(rng: np.random.Generator, size: tuple[int, int] = (40, 30)) -> Image.Image:
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


@pytest.fixture
def tree(tmp_path: Path, rng: np.random.Generator) -> Path:
    for split, count in (("train", 12), ("val", 3)):
        for label in ("cat", "dog"):
            folder = tmp_path / "photos" / split / label
            folder.mkdir(parents=True)
            for i in range(count):
                _picture(rng).save(folder / f"{i:02d}.png")
    _picture(rng).convert("L").save(tmp_path / "photos" / "train" / "cat" / "grey.jpg")
    _picture(rng).convert("CMYK").save(tmp_path / "photos" / "train" / "dog" / "cmyk.jpg")
    (tmp_path / "photos" / "train" / ".DS_Store").write_text("ignored")
    return tmp_path / "photos"


def test_folder_and_its_tar_are_the_same_data(tree: Path, tmp_path: Path) -> None:
    folder = image_folder(tree, workers=0)
    assert folder.labels == ("cat", "dog")
    assert [folder.size(s) for s in SPLITS] == [23, 3, 6]  # the published "val" is the test
    assert sorted(np.bincount(folder.targets("val"))) == [1, 2]
    packed = tmp_path / "photos.tar"
    with tarfile.open(packed, "w") as archive:
        archive.add(tree, arcname=".")
    tar = image_folder(packed, workers=0)
    assert tar.fingerprint == folder.fingerprint
    for split in SPLITS:
        assert np.array_equal(tar.targets(split), folder.targets(split))
        every = range(folder.size(split))
        assert torch.equal(tar.batch(split, every, 16), folder.batch(split, every, 16))


def test_worker_processes_give_the_same_batches(tree: Path) -> None:
    plan = [(np.array([3, 1, 4]), 16, 7), (np.array([0, 20]), 24, 8)]
    alone = list(image_folder(tree, workers=0).training_batches(plan))
    shared = list(image_folder(tree, workers=2).training_batches(plan))
    assert [b.shape for b in alone] == [(3, 3, 16, 16), (2, 3, 24, 24)]
    assert all(torch.equal(a, b) for a, b in zip(alone, shared, strict=True))


def test_bad_files_are_named_and_refused_or_skipped(tree: Path, rng: np.random.Generator) -> None:
    encoded = io.BytesIO()
    _picture(rng, (200, 200)).save(encoded, "JPEG")
    (tree / "train" / "dog" / "cut.jpg").write_bytes(encoded.getvalue()[:4000])
    (tree / "train" / "dog" / "notes.jpg").write_text("no picture")
    (tree / "val" / "cat" / "README.md").write_text("nor this")
    with pytest.raises(UserError, match=r"holds 3 files.*cut\.jpg.*notes\.jpg.*README\.md"):
        image_folder(tree, workers=0)
    data = image_folder(tree, bad="skip", workers=0)
    assert sum(data.size(s) for s in SPLITS) == 32
    assert len(data.skipped) == 3 and any("cut.jpg" in text for text in data.skipped)
    assert data.converted == ("train/cat/grey.jpg (grey)", "train/dog/cmyk.jpg (CMYK)")


def test_what_systems_put_into_folders_is_ignored(tree: Path) -> None:
    plain = image_folder(tree, workers=0)
    for name in ("Thumbs.db", "desktop.ini", "Desktop.ini", "._00.png", "ehthumbs.db"):
        (tree / "train" / "cat" / name).write_text("nothing to see")
    for folder in (
        tree / "train" / "cat" / "@eaDir",
        tree / "__MACOSX",
        tree / "train" / ".ipynb_checkpoints",
    ):
        folder.mkdir()
        (folder / "00.png").write_text("nothing to see")
    assert image_folder(tree, workers=0).fingerprint == plain.fingerprint


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("splits", [True, False])
def test_a_class_without_pictures_is_named(tree: Path, tmp_path: Path, packed: bool, splits: bool) -> None:
    (tree / "train" / "bird").mkdir()
    (tree / "train" / "fish").mkdir()
    (tree / "train" / "fish" / "one.jpg").write_text("no picture")
    (tree / "val" / "cat" / "more").mkdir()  # within a class
    source = tree if splits else tree / "train"
    if packed:
        with tarfile.open(tmp_path / "p.tar", "w") as archive:
            archive.add(source, arcname="photos")
        source = tmp_path / "p.tar"
    with pytest.raises(UserError, match=r"one\.jpg"):
        image_folder(source, workers=0)
    data = image_folder(source, bad="skip", workers=0)
    assert data.labels == ("cat", "dog")
    left_out = " ".join(data.skipped)
    assert "bird holds no picture" in left_out and "fish holds no picture" in left_out
    assert len(data.skipped) == 3
    (tree / "train" / "fish" / "one.jpg").unlink()
    (tree / "train" / "fish").rmdir()
    if not packed:
        with pytest.raises(UserError, match=r"without a picture: (train/)?bird \(add some, remove"):
            image_folder(source, workers=0)


def test_pictures_are_checked_once_until_one_changes(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = image_folder(tree, bad="skip", workers=0)
    opened: list[str] = []
    monkeypatch.setattr(Photo, "check", lambda photo: opened.append(photo.name) or "")
    again = image_folder(tree, bad="skip", workers=0)
    assert not opened and again.converted == first.converted and again.skipped == first.skipped
    new = next(tree.rglob("*.png")).with_name("new.png")
    Image.new("L", (40, 40)).save(new)
    image_folder(tree, bad="skip", workers=0)
    assert str(new.relative_to(tree)) in opened


def test_load_data_knows_each_kind(tree: Path) -> None:
    assert load_data("digits").fingerprint == digits().fingerprint
    assert load_data(tree, workers=0).fingerprint == image_folder(tree, workers=0).fingerprint


def test_a_tree_without_splits_is_split(tree: Path) -> None:
    data = image_folder(tree / "train", workers=0)
    assert [data.size(s) for s in SPLITS] == [21, 2, 3]


def _packed(tree: Path, tar: Path, prefix: str) -> Path:
    with tarfile.open(tar, "w") as archive:
        for path in sorted(tree.rglob("*.*")):
            member = archive.gettarinfo(path)
            member.name = prefix + str(path.relative_to(tree))
            with path.open("rb") as handle:
                archive.addfile(member, handle)
    return tar


@pytest.mark.parametrize("prefix", ["photos/", "./a b/photos/", "/", "../photos/"])
def test_a_folder_around_the_tree_is_none_of_it(tree: Path, tmp_path: Path, prefix: str) -> None:
    found = image_folder(_packed(tree, tmp_path / "p.tar", prefix), workers=0)
    plain = image_folder(tree, workers=0)
    assert found.labels == ("cat", "dog")
    assert [found.size(s) for s in SPLITS] == [23, 3, 6]
    assert torch.equal(found.batch("val", range(3), 16), plain.batch("val", range(3), 16))


def test_folder_and_tar_hold_out_the_same_pictures(tree: Path, tmp_path: Path) -> None:
    (tree / "train" / "dog").rename(tree / "train" / "cat-like")  # "-" sorts before "/"
    folder = image_folder(tree / "train", workers=0)
    tar = image_folder(_packed(tree / "train", tmp_path / "p.tar", ""), workers=0)
    for split in SPLITS:
        every = range(folder.size(split))
        assert torch.equal(tar.batch(split, every, 16), folder.batch(split, every, 16))


def test_links_lead_to_pictures(tree: Path, tmp_path: Path) -> None:
    (tree / "train" / "dog").rename(tmp_path / "elsewhere")
    (tree / "train" / "dog").symlink_to(tmp_path / "elsewhere")
    (tree / "train" / "cat" / "up").symlink_to(tree)  # followed, it would never end
    assert [image_folder(tree, workers=0).size(s) for s in SPLITS] == [23, 3, 6]

    (tree / "train" / "cat" / "gone.png").symlink_to(tmp_path / "absent.png")
    with pytest.raises(UserError, match=r"1 file .*gone\.png"):
        image_folder(tree, workers=0)
    assert len(image_folder(tree, bad="skip", workers=0).skipped) == 1


def test_links_in_a_tar_lead_to_pictures(tree: Path, tmp_path: Path) -> None:
    (tree / "train" / "cat" / "hard.png").hardlink_to(tree / "train" / "dog" / "00.png")
    (tree / "train" / "cat" / "soft.png").symlink_to("../dog/00.png")
    with tarfile.open(tmp_path / "p.tar", "w") as archive:
        archive.add(tree, arcname="photos")
        archive.add(tree / "val", arcname="photos/val")  # of two members of a name the later counts
    data = image_folder(tmp_path / "p.tar", workers=0)
    assert sum(data.size(s) for s in SPLITS) == 34 and not data.skipped
    (tree / "train" / "cat" / "gone.png").symlink_to("absent.png")
    with tarfile.open(tmp_path / "p.tar", "w") as archive:
        archive.add(tree, arcname="photos")
    with pytest.raises(UserError, match=r"1 file .*gone\.png"):
        image_folder(tmp_path / "p.tar", workers=0)


def test_a_damaged_tar_is_called_so(tree: Path, tmp_path: Path) -> None:
    tar = _packed(tree, tmp_path / "p.tar", "")
    tar.write_bytes(tar.read_bytes()[: tar.stat().st_size // 2])
    with pytest.raises(UserError, match=r"p\.tar is a damaged tar file \(unexpected end"):
        image_folder(tar, workers=0)


def test_split_folders_of_other_names_are_no_classes(tree: Path) -> None:
    (tree / "val").rename(tree / "valid")
    with pytest.raises(UserError, match=r"split folders \(train, valid\).*valid/cat/00\.png has no place"):
        image_folder(tree, workers=0)
    (tree / "valid").rename(tree / "val")
    (tree / "train" / "cat" / "00.png").rename(tree / "train" / "stray.png")
    with pytest.raises(UserError, match=r"train/stray\.png has no place"):
        image_folder(tree, workers=0)


def test_classes_with_too_few_pictures_are_named(tree: Path) -> None:
    (tree / "train" / "eel").mkdir()
    (tree / "val" / "cat" / "02.png").rename(tree / "train" / "eel" / "0.png")
    with pytest.raises(UserError, match="too few images of eel"):
        image_folder(tree, workers=0)
    (tree / "train" / "eel").rename(tree / "val" / "eel")
    with pytest.raises(UserError, match="no training images of eel"):
        image_folder(tree, workers=0)


def test_names_that_are_not_utf8(tree: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    (tree / "train" / "cat" / "00.png").rename(tree / "train" / "cat" / f"{name}.png")
    assert image_folder(tree, workers=0).size("train") == 23
    (tree / "train" / "dog").rename(tree / "train" / name)
    with pytest.raises(UserError, match=r"class name caf\\udce9 is not UTF-8"):
        image_folder(tree, workers=0)


def test_what_was_unreadable_is_tried_again_when_its_permissions_change(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tree / "train" / "cat" / "00.png"
    with monkeypatch.context() as patched:  # root may read everything
        read = Photo.read

        def denied(photo: Photo) -> bytes:
            if photo.path == str(path):
                raise UserError(f"cannot read {path}: Permission denied")
            return read(photo)

        patched.setattr(Photo, "read", denied)
        with pytest.raises(UserError, match="Permission denied"):
            image_folder(tree, workers=0)
    path.chmod(0o600)
    assert image_folder(tree, workers=0).size("train") == 23


def test_a_cache_that_cannot_be_written_is_done_without(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFA_TVM_CACHE", "/proc/none")
    assert image_folder(tree, workers=0).size("train") == 23


@pytest.mark.parametrize("workers", [0, 2])
def test_a_picture_that_breaks_during_training_is_named_in_one_line(tree: Path, workers: int) -> None:
    data = image_folder(tree, check=False, workers=workers)
    broken = data._splits["train"][0][0]
    Path(broken.path).write_bytes(b"")
    plan = [(np.arange(data.size("train")), 16, 0)]
    with pytest.raises(UserError, match=rf"^{broken.name} is not an image[^\n]*$"):
        list(data.training_batches(plan))


def test_large_resized_pictures_are_not_all_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    kept, data = digits(), digits()
    monkeypatch.setattr("ofa_tvm.training.data._KEPT_BYTES", 2 * 300 * 32 * 32 * 3)
    for resolution in (32, 48):
        assert torch.equal(
            data.batch("val", [5, 0], resolution),
            torch.from_numpy(kept.preprocessing.normalise(kept.resized("val", resolution)[[5, 0]])),
        )
        data.training_batch([1, 2], resolution, 0)
    assert set(data._resized) == {("val", 32)}


def test_data_errors(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty.*holds no images"):
        image_folder(tmp_path / "empty")
    with pytest.raises(UserError, match="no such data"):
        load_data(tmp_path / "absent")
    (tmp_path / "x.tar").write_text("not a tar")
    with pytest.raises(UserError, match=r"x\.tar is not an uncompressed tar"):
        image_folder(tmp_path / "x.tar")
    with pytest.raises(UserError, match="one class only"):
        (tmp_path / "one" / "cat").mkdir(parents=True)
        (tmp_path / "one" / "cat" / "a.png").write_bytes((tree / "val" / "cat" / "00.png").read_bytes())
        image_folder(tmp_path / "one", workers=0)
    with pytest.raises(UsageError, match="images 0 to 299"):
        digits().image("test", 300)
    with pytest.raises(UsageError, match="unknown split"):
        digits().batch("testing", [0], 32)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="no such data file"):
        cifar10(tmp_path / "cifar.npz")
    np.savez(tmp_path / "cifar.npz", classes=["a"])
    with pytest.raises(UserError, match="jpeg_train"):
        cifar10(tmp_path / "cifar.npz")


def test_imagenette_tar(shared_data: Path) -> None:
    data = image_folder(shared_data / "images" / "imagenette128.tar", check=False, workers=0)
    assert [data.size(s) for s in SPLITS] == [9469 - 947, 947, 3925]
    assert data.batch("test", [0, 2000], 96).shape == (2, 3, 96, 96)


@pytest.mark.slow
def test_cifar10_npz(shared_data: Path) -> None:
    data = cifar10(shared_data / "images" / "cifar10_jpegbytes.npz")
    assert [data.size(s) for s in SPLITS] == [45_000, 5_000, 10_000]
    assert np.all(np.bincount(data.targets("val")) == 500)
    assert data.labels[0] == "airplane" and data.image("test", 0).size == (32, 32)
