"""How to run what was shipped, and what the page lacks."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from ofa_tvm.report.content import Content, Deployed, Missing
from ofa_tvm.report.section import Section


def how_to_run(content: Content, shipped: Deployed) -> Section:
    """The commands, and the lines of Python."""
    folder = shlex.quote(shipped.name)
    picture, answer = content.tried or ("image.png", None)
    takes_pictures = shipped.manifest.preprocessing is not None
    code = []
    if takes_pictures:
        code.append(("In a terminal", f"ofa-tvm run {folder}/ {shlex.quote(picture)}"))
        if answer is not None:
            code.append(("which prints", f"{picture}  {answer.label} {100 * answer.probability:.1f} %"))
        lines = f"print(Artefact.open({shipped.name!r}).classify([{picture!r}])[0])"
        code.append(("From Python", f"from ofa_tvm import Artefact\n{lines}"))
    inputs = ", ".join("x".join(map(str, each.shape)) for each in shipped.manifest.inputs)
    lines = f"import ofa_tvm\ny = ofa_tvm.load({f'{shipped.name}/model.so'!r})(x)"
    code.append(("On arrays" + (f", float32 {inputs}" if inputs else ""), lines))
    code.append(("To time it here", f"ofa-tvm bench {folder}/"))
    where = "in the project's folder" if shipped.inside_project else "beside the artefact's folder"
    return Section(
        "run",
        "To run it, in a terminal or from Python",
        f"Typed {where}; neither PyTorch nor the compiler is needed. The folder can be copied "
        f"to other machines that the target {shipped.target} describes.",
        None,
        code=tuple(code),
    )


def what_is_missing(missing: Sequence[Missing]) -> Section:
    """Parts that the page could have, and how to get them."""
    names = ", ".join(part.what for part in missing)
    return Section(
        "missing",
        f"Not on this page: {names}",
        "What the project and its artefacts do not hold.",
        None,
        ("part", "why", "how to get it"),
        tuple((part.what, part.why, part.how) for part in missing),
        open=True,
    )
