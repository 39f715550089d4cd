"""Entry point. A verb's module is imported when the verb is chosen, so that --help is instant."""

from __future__ import annotations

import atexit
import difflib
import functools
import importlib
import json
import os
import re
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import click
from click.shell_completion import CompletionItem

from ofa_tvm import __version__
from ofa_tvm.cli.volume import volume_options
from ofa_tvm.errors import UserError, shown
from ofa_tvm.process import Ended, collect_seldom, ending_signals
from ofa_tvm.temporaries import remove_dead

INTERRUPTED = 130
BY_SIGNAL = 128  # plus its number, as shells count

# The verbs with their short help, in the order of a first day's work. Each has a module `ofa_tvm.cli.<verb>`
# with a click command named `command` (a test compares the texts).
VERBS = {
    "quickstart": "Train, tune, search and ship on handwritten digits, in a few minutes.",
    "doctor": "What this machine can do for each target, and what to install.",
    "info": "Say what a file or folder is, and what can be done with it.",
    "targets": "List, show and probe target descriptors.",
    "runtime": "Build the device runtimes that TVM's wheels lack.",
    "device": "Serve, list and emulate devices that run modules over RPC.",
    "train": "Train a supernet by progressive shrinking, or one subnet further.",
    "evaluate": "Accuracies of subnets, each with batch statistics of its own.",
    "export": "Write a subnet as ONNX, checked against PyTorch.",
    "quantize": "Quantise an ONNX model to int8, and say what it costs.",
    "tune": "Tune all kernels of a space, or of one ONNX model.",
    "compile": "Compile an ONNX model into a shared library.",
    "measure": "Time one compiled module on its target.",
    "collect": "Measure random subnets of a space into a latency table.",
    "predictor": "Fit, evaluate and use predictors.",
    "search": "Find, verify and ship the most accurate subnet within a latency budget.",
    "run": "Classify pictures with an artefact.",
    "bench": "Show an artefact's latency distribution and throughput.",
    "report": "Write a page with pictures of what a project learned and shipped.",
}


class VerbGroup(click.Group):
    """Knows its verbs by name and help, and imports one only to run it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        command = importlib.import_module(f"ofa_tvm.cli.{cmd_name}").command
        assert isinstance(command, click.Command)
        command.name = cmd_name  # click takes the function's, which is "command" in every verb
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in VERBS and not args[0].startswith("-"):
            close = difflib.get_close_matches(args[0], VERBS, n=1)
            hint = f"did you mean {close[0]}?" if close else f"verbs are {', '.join(VERBS)}"
            raise click.UsageError(f"there is no verb {shown(args[0])}; {hint}", ctx)
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Verbs by their names, which takes no import of any; and this command's own options."""
        verbs = [
            CompletionItem(name, help=text.replace(",", ";"))  # click's script for fish ends it at a comma
            for name, text in VERBS.items()
            if name.startswith(incomplete)
        ]
        return verbs + click.Command.shell_complete(self, ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))


@click.group(
    cls=VerbGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Each verb explains itself: ofa-tvm VERB --help. Exit codes: 0 done, 1 failed, 2 bad usage.",
)
@click.version_option(__version__, prog_name="ofa-tvm")
@volume_options
def cli(quiet: bool, verbose: bool) -> None:
    """From a Once-for-All supernet to compiled, measured modules on real hardware."""


def _traceback_file(error: BaseException) -> Path | None:
    """Save a traceback for a bug report; None if that fails as well."""
    from ofa_tvm.files import cache_dir, write_atomic

    path = cache_dir() / "crashes" / f"{datetime.now():%Y%m%d-%H%M%S}-{os.getpid()}.txt"
    text = f"ofa-tvm {__version__}: {' '.join(sys.argv[1:])}\n\n" + "".join(traceback.format_exception(error))
    try:
        write_atomic(path, text)
    except UserError:
        return None
    return path


_STOPPED = "stopped; run the same command to continue"


def _fail(message: str, arguments: Sequence[str]) -> None:
    # Words that nobody would read to the end are paths which are too long.
    message = re.sub(r"\S{300,}", lambda word: f"{word[0][:100]} ... {word[0][-50:]}", message)
    # A script that asked for JSON gets its one object in any case.
    if "--json" in arguments:
        sys.stdout.write(json.dumps({"error": message}) + "\n")
    sys.stderr.write(f"error: {message}\n")


def invoke(arguments: Sequence[str]) -> int:
    """Run a command line and return its exit code; what goes wrong is one plain line on standard error."""
    try:
        with warnings.catch_warnings(), ending_signals() as came:
            warnings.showwarning = functools.partial(_show_warning, set())
            code = _run(arguments, came)
    except Ended as error:  # between the last two lines
        return BY_SIGNAL + error.number
    return BY_SIGNAL + came[0] if came else code


def _show_warning(
    said: set[str],
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    *_: object,
    **__: object,
) -> None:
    """Our own warnings are for people, to whom the place in the code says nothing."""
    own = category.__module__.startswith("ofa_tvm.")
    text = f"note: {message}\n" if own else warnings.formatwarning(message, category, filename, lineno)
    if not (own and text in said):
        sys.stderr.write(text)
    said.add(text)


def _run(arguments: Sequence[str], came: Sequence[int]) -> int:
    try:
        with suppress(OSError):  # a full disk is of no concern to verbs that write nothing
            remove_dead(Path(tempfile.gettempdir()))
        result: Any = cli.main(args=list(arguments), prog_name="ofa-tvm", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except UserError as error:
        _fail(_STOPPED if came else str(error), arguments)
        return error.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        hint = f" (try: {context.command_path} --help)" if context is not None else ""
        _fail(error.format_message().rstrip(".") + hint, arguments)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        _fail(_STOPPED, arguments)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader (head, less) is gone; what is still buffered must not raise again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if came:  # what a library made of the signal
            _fail(_STOPPED, arguments)
            return INTERRUPTED
        if os.environ.get("OFA_TVM_TRACEBACK"):
            raise
        if isinstance(error, OSError) and error.strerror:  # the machine's trouble, not a bug
            place = "" if error.filename is None else f"{error.filename}: "
            _fail(f"{place}{error.strerror}", arguments)
            return 1
        saved = _traceback_file(error)
        where = f"the traceback is in {saved}" if saved else "set OFA_TVM_TRACEBACK=1 to see the traceback"
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        _fail(f"{type(error).__name__}: {reason} (a bug in ofa-tvm: {where})", arguments)
        return 1


def main() -> None:
    """Console script `ofa-tvm`."""
    collect_seldom()
    # PyTorch's OpenMP threads spin for milliseconds while they wait, which on a busy machine makes training
    # on two threads several times slower than on one. Microseconds cost nothing on an idle one. libgomp reads
    # this when torch is loaded.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "5000")
    _leave(invoke(sys.argv[1:]))


def _leave(code: int) -> NoReturn:
    """End the process, also where threads are left behind, as after a second signal.

    At its end the interpreter unwinds daemon threads when they ask for its lock; in the middle of TVM's C++
    that aborts the process.
    """
    if any(thread.daemon for thread in threading.enumerate()):
        atexit._run_exitfuncs()  # temporary folders, workers
        with suppress(OSError, ValueError):
            sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    main()
