"""The command line.

Commands parse and print; the library does the work. A command is imported when it is called, and imports the library
when it runs, which keeps --help and the start of a command fast.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from typing import Annotated, NoReturn

import typer

import captioner
from captioner.cli import commands, console
from captioner.cli.streams import guarded_streams
from captioner.errors import CaptionerError, first_line
from captioner.machine.backend import keep_freed_memory
from captioner.machine.interrupts import interruptible
from captioner.machine.packages import missing
from captioner.machine.processes import Processes

INTERRUPTED = 130
_START = {  # a tenth of the time of captioning one image
    "PYDANTIC_DISABLE_PLUGINS": "__all__",  # pydantic would look for them in all installed packages
    "OPENBLAS_THREAD_TIMEOUT": "4",  # idle threads of numpy would keep the cores busy for 2**26 cycles, not 2**4
}

app = typer.Typer(
    name="captioner",
    help="Describe images in a sentence. For the options of a command: captioner COMMAND --help",
    epilog="Example: captioner caption photo.jpg",
    cls=commands.Program,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(requested: bool) -> None:
    if requested:
        typer.echo(f"captioner {captioner.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0 on success, 1 after an error, 2 on wrong usage, 130 when interrupted.

    Results that could not be printed are an error, also if a pipe was closed; see
    :func:`captioner.cli.streams.guarded_streams`.
    """
    keep_freed_memory()
    for variable, value in _START.items():
        os.environ.setdefault(variable, value)
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it warns of caches that it cannot write
    with guarded_streams():
        try:
            with interruptible():
                app(arguments, prog_name="captioner")
        except SystemExit as exit:
            if exit.code == INTERRUPTED:  # typer has caught it
                console.error("interrupted")
            elif exit.code == 2:
                _print_hints(sys.argv[1:] if arguments is None else arguments)
            raise
        except KeyboardInterrupt:
            console.error("interrupted")
            sys.exit(INTERRUPTED)
        except Exception as error:
            _report(error)
        finally:
            console.done()
        sys.exit(1)
    raise AssertionError("the block above exits")


def _report(error: Exception) -> None:
    package = (error.name or "captioner").partition(".")[0] if isinstance(error, ModuleNotFoundError) else "captioner"
    if isinstance(error, CaptionerError):
        Processes.started().yield_to_first()
        console.error(error)
    elif package != "captioner":  # in an environment without torch, for example
        console.error(missing("this", package), error)
    elif isinstance(error, OSError):  # a full disk, a read-only folder
        named = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else error
        console.error(named if _has_working_folder() else "the working folder is gone; change to another", error)
    elif isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and re.search(r"allocate memory|out of memory", str(error), re.IGNORECASE)
    ):
        reason = first_line(error) or "it could not be allocated"
        advice = "a smaller model or batch, or fewer workers, need less"
        console.error(f"there is not enough memory for this: {reason}; {advice}", error)
    else:  # a bug of the program or of a library
        console.unexpected(error)


def _has_working_folder() -> bool:
    try:
        return bool(os.getcwd())
    except OSError:
        return False


_MOVED = {
    ("evaluate", "--captions"): "captioner score CAPTIONS DATA",
    ("evaluate", "--grounding"): "captioner ground MODEL DATA BOXES",
    ("evaluate", "--heads"): "captioner ground MODEL DATA BOXES --heads",
    ("evaluate", "--model"): "captioner evaluate MODEL DATA, with A+B for an ensemble",
    ("evaluate", "-m"): "captioner evaluate MODEL DATA, with A+B for an ensemble",
    ("export", "--format"): "captioner export MODEL, which always writes ONNX",
    ("features", "--size"): "captioner features --set size=N",
    ("features", "--fit"): "captioner features --set fit=crop",
}


def _print_hints(arguments: list[str]) -> None:
    """Print hints after wrong usage: the new form of options that moved, and files whose names start with a dash."""
    for (command, option), now in _MOVED.items():
        if command in arguments and any(each.partition("=")[0] == option for each in arguments):
            console.note(f"hint: {option} is now: {now}")
    # A shell may expand *.jpg to such a name.
    name = next((each for each in arguments if each[:1] == "-" and os.path.isfile(each)), None)
    if name is not None and "--" not in arguments:
        console.note(f"hint: {name} is also a file; write ./{name}, or -- before the names of files")
