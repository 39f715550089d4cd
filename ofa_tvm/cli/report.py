"""ofa-tvm report."""

from __future__ import annotations

from pathlib import Path

import click

from ofa_tvm.cli.console import Console, common_options
from ofa_tvm.cli.options import INPUT_PATH, OUTPUT_PATH
from ofa_tvm.errors import UsageError


@click.command(short_help="Write a page with pictures of what a project learned and shipped.")
@click.argument("deploy", nargs=-1, type=INPUT_PATH)
@click.option(
    "-o",
    "--output",
    type=OUTPUT_PATH,
    default=Path("report"),
    show_default=True,
    help="Folder.",
)
@click.option(
    "--measure",
    is_flag=True,
    help="Time the first artefact beside the largest and the smallest subnet, ONNX Runtime and PyTorch; the "
    "project keeps the result.",
)
@common_options
def command(console: Console, deploy: tuple[Path, ...], output: Path, measure: bool) -> None:
    """Write report.html, one file that needs no network, and its pictures as PNG.

    DEPLOY are artefact folders, the most important first; by default all that lie in the project's folder.
    The project is the nearest ofa-tvm.yaml's: its measured latencies, predictors and training curves are
    shown as well. The first artefact's module classifies the project's test images, for 20 s at most; times
    are measured anew with --measure only.
    """
    from ofa_tvm.workflow.project import find_project

    if output.exists() and not output.is_dir():
        raise UsageError(f"{output} is a file; name a folder with -o")
    project = find_project()
    named = ", ".join(map(str, deploy)) or "of the project"
    console.say(f"project {project.folder}, artefacts {named}, into {output}")
    from ofa_tvm.report.collect import collect
    from ofa_tvm.report.page import write_report
    from ofa_tvm.report.sections import sections

    if measure:
        from ofa_tvm.report.collect import first_artefact
        from ofa_tvm.workflow.compare_artefact import compare_artefact

        compare_artefact(
            project, first_artefact(project, deploy), seed=console.seed, progress=console.progress
        )
    content = collect(project, deploy, progress=console.progress)
    paths = write_report(content, output)
    titles = [section.title for section in sections(content)]
    console.print(f"{paths[0]}, and {len(paths) - 1} pictures beside it", *(f"  {title}" for title in titles))
    console.result(
        {"report": str(paths[0]), "pictures": [str(path) for path in paths[1:]], "findings": titles}
    )
