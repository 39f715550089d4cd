"""The Dockerfile, read as Docker reads it; built where Docker runs and has its base image."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
INSTRUCTIONS = {"FROM", "WORKDIR", "COPY", "RUN", "ARG", "USER", "ENTRYPOINT", "CMD"}
IN_THE_IMAGE = {"pip", "apt-get", "useradd", "install", "rm"}  # python:3.11-slim is a Debian


@dataclass(frozen=True)
class Line:
    """An instruction and what follows it, continuations joined."""

    instruction: str
    rest: str

    @property
    def words(self) -> list[str]:
        return shlex.split(self.rest)


def _read() -> Iterator[Line]:
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip():
            instruction, _, rest = line.strip().partition(" ")
            yield Line(instruction, rest.strip())


LINES = [*_read()]


def _of(instruction: str) -> list[Line]:
    return [line for line in LINES if line.instruction == instruction]


def _copied() -> list[str]:
    """Paths of the checkout that get into the image."""
    return [
        path for line in _of("COPY") if not line.words[0].startswith("--from=") for path in line.words[:-1]
    ]


def test_its_instructions_and_their_order() -> None:
    assert {line.instruction for line in LINES} <= INSTRUCTIONS
    assert LINES[0].instruction == "FROM" and len(_of("FROM")) == 2
    assert _of("USER")[-1].rest not in ("root", "0") and LINES.index(_of("USER")[-1]) > LINES.index(
        _of("RUN")[-1]
    )
    stages = {line.words[2] for line in _of("FROM") if "AS" in line.words}
    used = {line.words[0].removeprefix("--from=") for line in _of("COPY") if line.rest.startswith("--from=")}
    assert used == stages


def test_its_python_is_the_one_that_is_tested() -> None:
    versions = {re.fullmatch(r"python:(3\.\d+)-slim", line.words[0])[1] for line in _of("FROM")}  # type: ignore[index]
    checked = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]["python_version"]
    assert versions == {checked} and PROJECT["requires-python"] == f">={checked}"


def test_its_commands_exist_and_torch_comes_before_the_wheel() -> None:
    commands = [part.split() for line in _of("RUN") for part in line.rest.split("&&")]
    assert {words[0] for words in commands} <= IN_THE_IMAGE
    installs = [words for words in commands if words[:2] == ["pip", "install"]]
    assert [words[-1] for words in installs] == ["torch", "/tmp/wheel/*.whl"]
    assert all("--no-cache-dir" in words and "-c" in words for words in installs)
    assert all("${TORCH_INDEX}" not in words or _of("ARG") for words in installs)
    assert [*json.loads(_of("ENTRYPOINT")[-1].rest)] == [*PROJECT["scripts"]]
    assert json.loads(_of("CMD")[-1].rest) == ["--help"]


def test_what_it_copies_is_there_and_makes_the_wheel(tmp_path: Path) -> None:
    ignored = (ROOT / ".dockerignore").read_text().split()
    for path in _copied():
        assert (ROOT / path).exists() and path not in ignored
        if (ROOT / path).is_dir():
            shutil.copytree(ROOT / path, tmp_path / path, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / path, tmp_path / path)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "-w", tmp_path / "wheel", tmp_path], check=True, capture_output=True)
    assert len([*(tmp_path / "wheel").glob("*.whl")]) == 1


@pytest.mark.slow
def test_it_builds() -> None:
    if shutil.which("docker") is None:
        pytest.skip("docker is not installed")
    for line in _of("FROM"):
        found = subprocess.run(["docker", "image", "inspect", line.words[0]], capture_output=True)
        if found.returncode:
            pytest.skip(f"docker is not running, or has no image {line.words[0]} (docker pull fetches it)")
    tag = "ofa-tvm-test"
    subprocess.run(["docker", "build", "--quiet", "-t", tag, ROOT], check=True)
    shown = subprocess.run(["docker", "run", "--rm", tag, "doctor"], capture_output=True, text=True)
    subprocess.run(["docker", "image", "rm", tag], capture_output=True)
    assert "x86" in shown.stdout, shown.stderr
