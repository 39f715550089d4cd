"""What --with-runtime ships and was damaged on its way to the device."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

from small_module import SmallModule
from test_bare import photos, runs, shipped

from ofa_tvm.devices.native import host_cxx


def _sealed(content: bytes) -> bytes:
    """A file with a checksum that is right."""
    marked = content + b"ofa-tvm\x01"
    return marked + hashlib.sha256(marked).digest()


def test_a_folder_that_is_not_whole_says_so(small: SmallModule, tmp_path: Path) -> None:
    """Nothing answers wrongly or dies without a word: neither a damaged module nor a library that was cut."""
    folder = shipped(tmp_path / "made", small.so, small.onnx, small.target).folder
    picture = photos(tmp_path)[0]
    whole = (folder / "model.so").read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    subprocess.run([*host_cxx(), "-shared", "-x", "c", "/dev/null", "-o", tmp_path / "other.so"], check=True)
    other = (tmp_path / "other.so").read_bytes()
    for content, says in (
        (_sealed(b"no library"), "cannot be used: the system's loader does not take"),
        (_sealed(other), "holds no network that ofa-tvm compiled"),
        (bytes(flipped), "is damaged: it differs from the checksum that it carries; copy it again"),
        (whole[:5000], "is cut short, or ofa-tvm did not compile it; copy it again"),
        (b"", "is cut short, or ofa-tvm did not compile it; copy it again"),
        (None, "cannot be read: No such file"),
    ):
        (folder / "model.so").unlink(missing_ok=True)
        if content is not None:
            (folder / "model.so").write_bytes(content)
        done = runs(folder, picture)
        assert done.returncode == 1 and not done.stdout
        assert done.stderr.startswith("error: the module ") and says in done.stderr
    (folder / "model.so").write_bytes(whole)
    for name in ("runtime/classify", "runtime/libtvm_ffi.so"):
        file = folder / name
        content = file.read_bytes()
        file.unlink()
        assert f"error: {name} is missing in {folder} or not whole" in runs(folder, picture).stderr
        file.write_bytes(content[: len(content) // 4])
        done = runs(folder, picture)
        assert done.returncode == 1 and f"error: {name} is missing in {folder} or not whole" in done.stderr
        file.write_bytes(content)
        file.chmod(0o755)
