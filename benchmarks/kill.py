"""Verbs killed at random times and run again: `python benchmarks/kill.py`.

On the small digits space, `train`, `evaluate`, `tune`, `collect`, `search` and the quickstart are started as
a user would, killed (SIGKILL to the verb alone: its children have to notice by themselves) at a random
moment, and started again, five times in a row before they may finish. What they end with is compared with an
uninterrupted run where it is determined by the seed, and checked for wholeness where it is a measurement; the
folder has to hold the files of the uninterrupted run and no others, and no process, temporary file or folder
may be left. The quickstart is called from Python, as its command line has no small settings; the other verbs
by theirs.

Prints a table and saves it with machine, versions and date to benchmarks/results/kill.json.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch
from provenance import save

from ofa_tvm.deploy import Artefact
from ofa_tvm.logs.log import read_folder

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
KILLS_IN_A_ROW = 5
LIMIT_S = 900.0
CONFIG = """
phases:
- {name: full, epochs: 1, learning_rate: 5e-2}
- {name: all, open: {ks: 0, d: 0, e: 0}, epochs: 1, learning_rate: 1e-2, subnets: 2, sort_channels: true}
resolutions: [32]
calibration_images: 50
checkpoint_every_s: 0.2
threads: 1
"""
QUICKSTART = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(ROOT / "tests")!r})
from demo_project import tiny_settings
from ofa_tvm.targets import get_target
from ofa_tvm.workflow.quickstart import quickstart
quickstart(Path("demo"), get_target("x86"), settings=tiny_settings())
"""
TEMPORARY = re.compile(r"(\..+\.|ofa-tvm-.+-)\d+-[0-9a-f]{8,}.*")


@dataclass(frozen=True)
class Verb:
    """A command line, and what of its folder has to be the same however often it was interrupted."""

    name: str
    words: tuple[str, ...]
    outcome: Callable[[Path], Any]
    code: str = ""

    @property
    def command(self) -> list[str]:
        return [sys.executable, *(["-c", self.code] if self.code else ["-m", "ofa_tvm", *self.words])]


@dataclass
class Count:
    """What became of a verb's trials."""

    kills: int = 0
    trials: int = 0
    seconds: float = 0.0
    faults: list[str] = field(default_factory=list)


# ---- what has to be the same -----------------------------------------------------------------------------


def trained(folder: Path) -> Any:
    state = torch.load(folder / "training" / "supernet.pt", weights_only=True)["state_dict"]
    lines = [json.loads(line) for line in (folder / "training" / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line.pop("seconds", None)
    weights = {name: tensor.numpy().tobytes() for name, tensor in state.items()}
    return weights, lines, (folder / "ofa-tvm.yaml").read_text()


def evaluated(folder: Path) -> Any:
    lines = [json.loads(line) for line in (folder / "accuracy.jsonl").read_text().splitlines()]
    return lines, (folder / "accuracy.model").stat().st_size > 0


def tuned(folder: Path) -> Any:
    """Distinct schedules that were tried of each kernel, as many as asked for; every line whole."""
    (file,) = folder.glob("tuning_logs/*/tuning.jsonl")
    problems = read_folder(file.parent).problems
    lines = [json.loads(line) for line in file.read_text().splitlines()[1:] if not problems]
    tried = {(line["kernel"], json.dumps(line["trace"])) for line in lines}
    return sorted(Counter(kernel for kernel, _ in tried).items()), problems


def collected(folder: Path) -> Any:
    with (folder / "latency.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    meta = [json.loads(line) for line in (folder / "latency.meta.jsonl").read_text().splitlines()]
    measured = all(0 < float(row["x86_ms"]) < 100 for row in rows)
    return [row["arch"] for row in rows], measured, len({json.dumps(line.get("arch")) for line in meta})


def shipped(folder: Path) -> Any:
    artefact = Artefact.open(folder / "deploy")
    latency, check = artefact.manifest.latency, artefact.manifest.check
    return latency.measured <= latency.budget, check.max_rel_difference < 1e-4


def demonstrated(folder: Path) -> Any:
    demo = folder / "demo"
    lines = (demo / "accuracy.jsonl").read_text().splitlines()
    return trained(demo), shipped(demo), len(lines) - len(set(lines)), (demo / "quickstart.json").is_file()


def files(folder: Path) -> list[str]:
    names = (str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    return sorted({re.sub(r"state-[\d-]+\.pt", "state", name) for name in names})


# ---- running ---------------------------------------------------------------------------------------------


class Campaign:
    def __init__(self, work: Path, seed: int) -> None:
        self.work, self.rng = work, random.Random(seed)
        self.scratch, self.cache = work / "tmp", work / "cache"
        self.scratch.mkdir()

    def start(self, verb: Verb, folder: Path, mark: str) -> subprocess.Popen[bytes]:
        environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "TMPDIR": str(self.scratch),
            "OFA_TVM_CACHE": str(self.cache),
            "OMP_NUM_THREADS": "1",
            "OFA_TVM_KILL": mark,
        }
        with (self.work / "output.txt").open("wb") as output:
            return subprocess.Popen(verb.command, cwd=folder, env=environment, stdout=output, stderr=output)

    def finish(self, verb: Verb, folder: Path) -> str:
        """Run a verb to its end; returns what went wrong."""
        code = self.start(verb, folder, "whole").wait(LIMIT_S)
        said = (self.work / "output.txt").read_text(errors="replace").strip().splitlines()
        return "" if code == 0 else f"exit code {code}: {said[-1] if said else ''}"

    def kill(self, verb: Verb, folder: Path, longest_s: float) -> tuple[bool, str]:
        """Start a verb and kill it after a random time; whether it still ran, and what went wrong."""
        mark = secrets.token_hex(8)
        process = self.start(verb, folder, mark)
        try:
            code = process.wait(self.rng.uniform(0.5, longest_s))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            until = time.monotonic() + 10
            while (left := marked(mark)) and time.monotonic() < until:
                time.sleep(0.1)
            return True, f"processes outlive it: {left}" if left else ""
        return False, "" if code == 0 else f"exit code {code} after an earlier kill"

    def left_over(self, folder: Path) -> list[str]:
        places = [*folder.rglob("*"), *self.scratch.iterdir(), *self.cache.rglob("*")]
        return [str(path.relative_to(self.work)) for path in places if TEMPORARY.fullmatch(path.name)]

    def run(self, verb: Verb, start: Path, kills: int, until: float) -> tuple[Count, Path]:
        """Uninterrupted once, then killed so many times; returns the uninterrupted run's folder, too."""
        reference = self.work / f"{verb.name}-whole"
        shutil.copytree(start, reference)
        began = time.monotonic()
        if problem := self.finish(verb, reference):
            raise SystemExit(f"{verb.name} fails without being killed: {problem}")
        whole_s = time.monotonic() - began
        wanted, names, count = verb.outcome(reference), files(reference), Count(seconds=whole_s)
        while count.kills < kills and time.monotonic() < until:
            count.trials += 1
            folder = self.work / f"{verb.name}-{count.trials}"
            shutil.copytree(start, folder)
            faults = []
            for _ in range(min(KILLS_IN_A_ROW, kills - count.kills)):
                was_running, problem = self.kill(verb, folder, whole_s)
                count.kills += was_running
                faults += [problem] if problem else []
            faults += [problem] if (problem := self.finish(verb, folder)) else []
            if left := self.left_over(folder):
                faults.append(f"left over: {', '.join(left)}")
            if not problem:
                if verb.outcome(folder) != wanted:
                    faults.append("another result than without a kill")
                if files(folder) != names:
                    faults.append(f"other files: {sorted(set(files(folder)) ^ set(names))}")
            count.faults += [f"trial {count.trials}: {fault}" for fault in faults]
            print(f"{verb.name}: {count.kills} kills, {count.faults}", file=sys.stderr, flush=True)
            if not faults:
                shutil.rmtree(folder)
        return count, reference


def marked(mark: str) -> list[str]:
    """Living processes that a verb started, itself included."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get("OFA_TVM_KILL") == mark:
                found.append(" ".join(process.cmdline())[:80])
        except psutil.Error:
            continue
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=100, help="kills in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=240.0, help="no trial begins after this time")
    parser.add_argument("--json", type=Path, default=RESULTS / "kill.json")
    options = parser.parse_args()
    until = time.monotonic() + 60 * options.minutes
    work = Path(tempfile.mkdtemp(prefix="kill-"))
    campaign = Campaign(work, options.seed)
    start = work / "start"
    start.mkdir()
    (start / "quick.yaml").write_text(CONFIG)
    export = Verb("export", ("export", "min", "--space", "ofa_digits", "-o", "min.onnx"), files)
    if problem := campaign.finish(export, start):
        raise SystemExit(f"export fails: {problem}")
    train = ("train", "--data", "digits", "--space", "ofa_digits")
    search = ("search", "--latency", "1ms", "--candidates", "2", "--rounds", "1", "--latency-samples", "6")
    verbs = {
        verb.name: verb
        for verb in (
            Verb("train", (*train, "--config", "quick.yaml"), trained),
            Verb("evaluate", ("evaluate", "-n", "6", "--fit", "accuracy.model"), evaluated),
            Verb("tune", ("tune", "min.onnx", "--trials", "1"), tuned),
            Verb("collect", ("collect", "-n", "4"), collected),
            Verb("search", (*search, "--accuracy-predictor", "accuracy.model", "-o", "deploy"), shipped),
            Verb("quickstart", (), demonstrated, QUICKSTART),
        )
    }  # fmt: skip
    counts: dict[str, Count] = {}
    left, folder = options.n, start
    for index, (name, verb) in enumerate(verbs.items()):
        if time.monotonic() > until:
            break
        share = left // (len(verbs) - index) if name != "quickstart" else left
        time_share = time.monotonic() + (until - time.monotonic()) / (len(verbs) - index)
        empty = work / "empty"
        empty.mkdir(exist_ok=True)
        counts[name], whole = campaign.run(verb, empty if verb.code else folder, share, time_share)
        left -= counts[name].kills
        folder = whole
        results = {name: vars(count) for name, count in counts.items()}
        save(options.json, {"kills": sum(count.kills for count in counts.values()), "verbs": results})
    print("| verb | uninterrupted | kills | runs to the end | faults |")
    print("|---|---|---|---|---|")
    for name, count in counts.items():
        print(f"| {name} | {count.seconds:.0f} s | {count.kills} | {count.trials} | {len(count.faults)} |")
        for fault in count.faults:
            print(f"    {fault}")
    if any(count.faults for count in counts.values()):
        raise SystemExit(f"the folders of trials with faults are in {work}")
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
