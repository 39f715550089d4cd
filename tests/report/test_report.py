"""The report of a real, tiny project: complete, self-contained, and right in a browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from browser import in_browser
from demo_project import DemoProject
from PIL import Image
from small_module import SmallModule

from ofa_tvm.accuracy.mlp import MLPAccuracyPredictor
from ofa_tvm.accuracy.predictor import AccuracyPredictor
from ofa_tvm.deploy import Manifest, write_artefact
from ofa_tvm.deploy.manifest import AccuracyEntry, CheckEntry, LatencyEntry, TargetEntry
from ofa_tvm.errors import UserError
from ofa_tvm.latency.learning_curve import ALONE, GUIDED, LearningCurve
from ofa_tvm.latency.regression import LatencyRegressor
from ofa_tvm.logs import Signature
from ofa_tvm.progress import SILENT
from ofa_tvm.report.collect import collect
from ofa_tvm.report.figures import kernel_shares, short_kernel, trade_off
from ofa_tvm.report.page import render, write_report
from ofa_tvm.report.sections import sections
from ofa_tvm.report.style import LIGHT, NARROW_IN, WIDE_IN, Style, drawing
from ofa_tvm.report.units import cost_scale, times
from ofa_tvm.spaces import get_space
from ofa_tvm.workflow.compared import Comparison
from ofa_tvm.workflow.project import Project, read_project

_SVG = re.compile(r"<svg.*?</svg>", re.DOTALL)


@pytest.fixture(scope="module")
def report(demo: DemoProject, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    content = collect(read_project(demo.folder / "ofa-tvm.yaml"))
    return write_report(content, tmp_path_factory.mktemp("report"))


@pytest.mark.slow
def test_it_tells_what_the_artefact_says(demo: DemoProject, report: list[Path]) -> None:
    page = report[0].read_text()
    shipped = demo.result.shipped
    assert f"{1e3 * shipped.measurement.cost:.3g}\u00a0µs on x86" in page
    assert f"{100 * shipped.accuracy:.2f}" in page
    content = collect(read_project(demo.folder / "ofa-tvm.yaml"))
    assert [s.name for s in sections(content)] == [
        "trade-off-x86", "candidates", "comparison", "answers", "classes", "run", "architecture", "kernels",
        "predictors", "training",
    ]  # fmt: skip
    (measured,) = content.targets
    assert len(measured.cost) == 6 and (np.diff(measured.front[:, 0]) > 0).all()
    (artefact,) = content.artefacts
    assert len(artefact.kernels) > 5 and artefact.candidates
    assert artefact.inside and "timed inside the network" in page
    assert all(time is not None and time > 0 for _, time, _ in artefact.kernels)
    assert sum(share for _, share in kernel_shares(artefact)) == pytest.approx(1.0)
    shown = next(c for c in artefact.candidates if c.arch == artefact.arch)
    assert f"{1e3 * shown.measured:.4g}" in page and "shipped" in page


@pytest.mark.slow
def test_the_artefact_is_compared_and_answers(demo: DemoProject, report: list[Path]) -> None:
    page, content = report[0].read_text(), collect(read_project(demo.folder / "ofa-tvm.yaml"))
    made = {s.name: s for s in sections(content)}
    assert not content.missing
    rows = {row.name: row for row in demo.result.rows}
    assert [row[0] for row in made["comparison"].rows] == ["largest", "smallest", "chosen"]
    assert "1 thread for every runtime" in made["comparison"].text
    for package in ("onnxruntime", "torch"):
        assert version(package) in made["comparison"].text
    chosen = rows["chosen"]
    assert chosen.onnxruntime is not None and chosen.pytorch is not None
    assert times(chosen.pytorch, chosen.measured, "PyTorch") in made["comparison"].title
    answers, counted = content.answers, content.confusion
    assert answers is not None and counted is not None and counted.images == answers.of == 300
    np.testing.assert_array_equal(answers.confusion.counts, counted.counts)
    assert counted.accuracy == pytest.approx(demo.result.shipped.accuracy)
    assert f"{counted.right} of 300 test images are answered right" in made["answers"].title
    first_right = [sample.right for sample in answers.samples].index(True)
    assert first_right == min(6, 300 - counted.right) and len(answers.samples) == 12
    assert sum(int(row[1]) for row in made["classes"].rows) == 300
    picture, answer = content.tried or ("", None)
    assert answer is not None and (demo.folder / picture).is_file()
    assert f"ofa-tvm run deploy/ {picture}" in page
    assert f"{picture}  {answer.label} {100 * answer.probability:.1f} %" in page


@pytest.mark.slow
def test_an_older_project_says_what_it_lacks(demo: DemoProject, tmp_path: Path) -> None:
    project = Path(shutil.copytree(demo.folder, tmp_path / "old"))
    (project / "comparison-x86.json").unlink()
    settings = project / "ofa-tvm.yaml"
    settings.write_text(settings.read_text().replace("data: digits\n", ""))
    content = collect(read_project(settings))
    assert content.answers is None and content.comparison is None and content.confusion is not None
    assert [part.what for part in content.missing] == [
        "comparison with ONNX Runtime and PyTorch", "sample predictions"
    ]  # fmt: skip
    made = {s.name: s for s in sections(content)}
    assert "ofa-tvm report --measure" in render(content, list(made.values()))
    # What predictors say of the ends of the space stands in.
    assert [row[3] for row in made["comparison"].rows] == ["prediction", "prediction", "measuring"]
    (project / "comparison-x86.json").write_text("{}")
    assert collect(read_project(settings)).missing[0].why == "comparison-x86.json is damaged"
    found = Comparison.read(demo.folder / "comparison-x86.json")
    others = tuple(row for row in found.rows if row.name != "chosen")
    replace(found, rows=others).write(project / "comparison-x86.json")
    assert "earlier artefact" in collect(read_project(settings)).missing[0].why


@pytest.mark.slow
def test_the_budget_is_written_where_there_are_no_dots(demo: DemoProject) -> None:
    content = collect(read_project(demo.folder / "ofa-tvm.yaml"))
    (measured,), (artefact,) = content.targets, content.artefacts
    for width in (WIDE_IN, NARROW_IN):
        for share in (0.0, 0.4, 1.2):
            budget = share * float(measured.cost.max()) + float(measured.cost.min())
            latency = replace(artefact.latency, budget=budget)
            moved = replace(artefact, manifest=replace(artefact.manifest, latency=latency))
            with drawing(LIGHT):
                figure = trade_off(measured, moved, Style(LIGHT, width))
                figure.canvas.draw()
            (ax,) = figure.axes
            label = next(text for text in ax.texts if text.get_text().startswith("budget"))
            box, legend = label.get_window_extent(), ax.get_legend()
            assert legend is not None
            assert not box.overlaps(ax.get_window_extent()) and not box.overlaps(legend.get_window_extent())
            assert box.x0 >= 0 and box.x1 <= figure.bbox.width


@pytest.mark.slow
def test_no_row_of_tiles_is_left_half_empty(demo: DemoProject) -> None:
    content = collect(read_project(demo.folder / "ofa-tvm.yaml"))
    seen = set()
    manifest = content.artefacts[0].manifest
    latency = manifest.latency
    for changes in (
        {},
        {"latency": replace(latency, predicted=None)},
        {"latency": replace(latency, budget=None, predicted=None)},
        {"check": replace(manifest.check, tuned_fraction=None)},
        {"latency": LatencyEntry(None, None, None, "ms"), "check": CheckEntry("float32")},
    ):
        changed = replace(content.artefacts[0], manifest=replace(manifest, **changes))
        for comparison in (content.comparison, None):
            page = render(replace(content, artefacts=(changed,), comparison=comparison), [])
            columns = re.search(r'class="tiles" style="--wide: (\d); --narrow: (\d)"', page)
            tiles = page.count("<div><dt>")
            assert columns is not None and tiles % int(columns[1]) == tiles % int(columns[2]) == 0
            seen.add(tiles)
    assert len(seen) > 2 and max(seen) == 8


@pytest.mark.slow
def test_errors_are_told_apart_where_enough_was_measured(demo: DemoProject) -> None:
    content = collect(read_project(demo.folder / "ofa-tvm.yaml"))
    (measured,) = content.targets
    assert set(measured.groups) == {"resolution", "blocks"}
    many = replace(
        measured,
        cost=np.tile(measured.cost, 4),
        loo=np.tile(measured.cost, 4) * 1.1,
        groups={name: np.tile(values, 4) for name, values in measured.groups.items()},
    )
    (section,) = (s for s in sections(replace(content, targets=[many])) if s.name == "errors-x86")
    assert "within 10.0 %" in section.title and {row[3] for row in section.rows} == {"+10.0"}
    assert sum(int(row[2]) for row in section.rows if row[0] == "blocks") == 24


@pytest.mark.slow
def test_the_learning_curve_is_shown_where_enough_was_measured(demo: DemoProject) -> None:
    content = collect(read_project(demo.folder / "ofa-tvm.yaml"))
    (measured,) = content.targets
    assert measured.learning is None, "six subnets were measured"
    curve = LearningCurve((5, 30), {GUIDED: (0.04, 0.01), ALONE: (0.2, 0.02)}, 10)
    made = sections(replace(content, targets=[replace(measured, learning=curve)]))
    (section,) = (s for s in made if s.name == "learning-x86")
    assert "5 measured subnets predict others on x86 within 4.0 %" in section.title
    assert "first guess" in section.text and section.rows == (("5", "4.00", "20.00"), ("30", "1.00", "2.00"))
    assert section.draw is not None
    with drawing(LIGHT):
        lines = section.draw(Style(LIGHT, WIDE_IN)).axes[0].lines
    assert [line.get_label() for line in lines] == [GUIDED, ALONE]
    np.testing.assert_allclose(lines[1].get_ydata(), [20, 2])


@pytest.mark.slow
def test_it_needs_no_network_and_its_pictures_are_well_formed(report: list[Path]) -> None:
    page = report[0].read_text()
    loaded = re.findall(r'(?:src|href)="([^"]*)"|url\(([^)]*)\)|@import', page)
    assert all(a.startswith(("#", "data:image/png")) or b.strip("'\"").startswith("#") for a, b in loaded)
    pictures = _SVG.findall(page)
    assert len(pictures) == 2 * (len(report) - 1)
    photographs = re.findall(r"<img [^>]*>", page)
    assert photographs and all(re.search(r'alt="A test picture of class \d', tag) for tag in photographs)
    identifiers = re.findall(r'\bid="([^"]+)"', page)
    assert len(identifiers) == len(set(identifiers))
    for svg in pictures:
        root = ET.fromstring(svg)
        assert root.get("viewBox") and root.get("width") is None
        references = re.findall(r'(?:xlink:href="|url\()#([^")]+)', svg)
        assert set(references) <= set(re.findall(r'\bid="([^"]+)"', svg))
        assert "var(--ink)" in svg or "var(--soft)" in svg
        assert not re.search(r"#0f0a0\d", svg), "a colour does not follow the theme"
    for path in report[1:]:
        with Image.open(path) as picture:
            assert picture.width > 1200 and len(picture.getcolors(1 << 24) or []) > 20


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 400])
def test_it_fits_the_window_of_a_browser(report: list[Path], tmp_path: Path, width: int) -> None:
    """The browser itself says how wide the page became, and which of the two drawings it shows."""
    # Headless windows have a least width, so the page is laid out in a frame of the width asked for.
    ask = (
        "<script>parent.postMessage(JSON.stringify({page: document.documentElement.scrollWidth, wide: "
        "getComputedStyle(document.querySelector('.wide')).display}), '*')</script></body>"
    )
    copy = tmp_path / "report.html"
    copy.write_text(report[0].read_text().replace("</body>", ask))
    frame = tmp_path / "frame.html"
    frame.write_text(
        "<title></title><script>addEventListener('message', e => { document.title = e.data })</script>"
        f'<iframe src="report.html" style="border: 0; width: {width}px; height: 900px"></iframe>'
    )
    shot = tmp_path / "shot.png"
    common = in_browser(tmp_path / "profile", "--hide-scrollbars", f"--window-size={width},900")
    command = [*common, "--virtual-time-budget=4000", "--dump-dom", frame.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    found = json.loads(re.search(r"<title>(.*?)</title>", dom, re.DOTALL)[1])  # type: ignore[index]
    assert found == {"page": width, "wide": "block" if width > 560 else "none"}
    papers = set()
    for scheme in (0, 1):  # dark, light
        theme = f"--blink-settings=preferredColorScheme={scheme}"
        command = [*common, theme, f"--screenshot={shot}", copy.as_uri()]
        subprocess.run(command, capture_output=True, timeout=120, check=True)
        with Image.open(shot) as picture:
            assert picture.width == width
            papers.add(picture.convert("RGB").getpixel((2, 2)))
    assert papers == {(0x14, 0x18, 0x1C), (0xFF, 0xFF, 0xFF)}


def test_an_artefact_alone_is_enough(small: SmallModule, tmp_path: Path) -> None:
    manifest = Manifest(TargetEntry.of(small.target), latency=LatencyEntry(2.0, 1.25, 1.5, "ms"))
    artefact = write_artefact(tmp_path / "deploy", small.so, small.onnx, manifest)
    slower = replace(manifest, latency=LatencyEntry(4.0, None, 3.0, "ms"))
    other = write_artefact(tmp_path / "other", small.so, small.onnx, slower)
    content = collect(Project(tmp_path / "nowhere"), [artefact.folder, other.folder])
    made = sections(content)
    assert [s.name for s in made] == ["run", "targets", "missing"]
    assert made[1].title.endswith("deploy is 2.0 times as fast as other")
    assert {row[0] for row in made[2].rows} == {
        "comparison with ONNX Runtime and PyTorch", "sample predictions and accuracy by class"
    }  # fmt: skip
    page = render(content, made)
    assert "1.5\u00a0ms on x86" in page and "keeps the budget of 2\u00a0ms" in page
    # What a manifest says is text, whatever it holds.
    odd = replace(manifest, accuracy=AccuracyEntry(None, 0.5, "<script>alert(1)</script>"))
    write_artefact(artefact.folder, small.so, small.onnx, odd)
    assert "<script>" not in render(collect(Project(tmp_path), [artefact.folder]), [])


def test_artefacts_of_several_targets_are_found_and_matched(small: SmallModule, tmp_path: Path) -> None:
    x86 = TargetEntry.of(small.target)
    threads, counted = replace(x86, threads=2), replace(x86, name="cortex-a72")
    for name, target, unit in (
        ("both/x86", x86, "ms"),
        ("both/cortex-a72", counted, "Minstr"),
        ("deploy", threads, "ms"),
    ):
        manifest = Manifest(target, latency=LatencyEntry(None, None, 1.5, unit))
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_artefact(tmp_path / name, small.so, small.onnx, manifest)
    content = collect(Project(tmp_path))
    assert {a.name: a.series for a in content.artefacts} == {
        "deploy": "x86-2threads",
        "both/cortex-a72": "cortex-a72-emulated",
        "both/x86": "x86",
    }
    assert content.artefacts[0].name == "deploy"
    (section,) = (s for s in sections(content) if s.name == "targets")
    assert "3 artefacts on 2 targets" in section.title
    assert [row[2] for row in section.rows] == ["1.5 ms", "1.5 Minstr", "1.5 ms"]


def test_what_a_killed_search_was_writing_is_no_artefact(small: SmallModule, tmp_path: Path) -> None:
    manifest = Manifest(TargetEntry.of(small.target))
    for name in ("deploy", ".deploy.4194303-0123abcd", "all/.x86.4194303-0123456789abcdef0123"):
        write_artefact(tmp_path / name, small.so, small.onnx, manifest)
    (artefact,) = collect(Project(tmp_path)).artefacts
    assert artefact.name == "deploy"


def test_damaged_files_are_left_out_and_said(small: SmallModule, tmp_path: Path) -> None:
    for name in ("good", "bad"):
        write_artefact(tmp_path / name, small.so, small.onnx, Manifest(TargetEntry.of(small.target)))
    (tmp_path / "bad/model.so").write_bytes(b"cut")
    (tmp_path / "latency-x86.model").write_bytes(b"cut")
    (tmp_path / "accuracy.model").write_bytes(b"cut")
    said: list[str] = []

    class Listener:
        def say(self, message: str) -> None:
            said.append(message)

    content = collect(Project(tmp_path), progress=Listener())  # type: ignore[arg-type]
    assert [a.name for a in content.artefacts] == ["good"] and not content.targets
    assert len(said) == 3 and all(line.startswith("left out: ") for line in said)
    with pytest.raises(UserError, match="damaged"):
        collect(Project(tmp_path), [tmp_path / "bad"])


def test_every_kind_of_accuracy_model_is_reported(tmp_path: Path) -> None:
    """The paper's network as well as the Gaussian process; what has no resolution in common is said."""
    space = get_space("ofa_digits")
    genes = space.sample_genes(np.random.default_rng(0), 24, (32, 40))
    macs = space.macs_batch(genes) / 1e8
    LatencyRegressor(space, target="x86", n_classes=10).fit(genes[:8], macs[:8]).save(
        tmp_path / "latency-x86.model"
    )
    said: list[str] = []

    class Listener:
        task = SILENT.task

        def say(self, message: str) -> None:
            said.append(message)

    for model, left_out in ((MLPAccuracyPredictor(space), 2), (AccuracyPredictor(space), 24)):
        model.fit(genes, 1 - np.exp(-20 * macs)).save(tmp_path / "accuracy.model")
        content = collect(Project(tmp_path, space="ofa_digits"), progress=Listener())
        (measured,) = content.targets
        assert content.accuracies is not None and len(content.accuracies.measured) == left_out
        assert measured.accuracy is not None and len(measured.front) > 1 and not said
        assert [s.name for s in sections(content)] == ["trade-off-x86", "predictors"]
    elsewhere = space.sample_genes(np.random.default_rng(1), 12, (48,))
    AccuracyPredictor(space).fit(elsewhere, space.macs_batch(elsewhere) / 1e8).save(
        tmp_path / "accuracy.model"
    )
    (measured,) = collect(Project(tmp_path, space="ofa_digits"), progress=Listener()).targets
    assert not len(measured.front) and "no common resolution" in said[0]


def test_short_names() -> None:
    kernel = Signature(("conv2d", "add", "clip"), ((1, 32, 32, 3), (3, 3, 3, 16), (16,), (1, 16, 16, 16)))
    assert short_kernel(kernel, 50) == "conv2d+ 1x32x32x3→1x16x16x16"
    assert short_kernel(kernel, 20) == "conv2d+ 1x32x32x3→1…"
    assert cost_scale(0.05, "ms") == (1e3, "µs") and cost_scale(20, "ms") == (1.0, "ms")
    assert cost_scale(0.05, "Minstr") == (1.0, "Minstr")
