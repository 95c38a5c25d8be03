"""The options that every command has: ``--quiet``, ``--verbose`` and ``--import``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from captioner.cli import console
from captioner.cli.console import Verbosity
from captioner.registry import import_code

_option = partial(typer.Option, expose_value=False, rich_help_panel="Every command")


def _setter(verbosity: Verbosity) -> Callable[[bool], None]:
    def callback(given: bool) -> None:
        if given and console.verbosity() not in (Verbosity.NORMAL, verbosity):
            raise typer.BadParameter("give one of them, not both", param_hint="--quiet, --verbose")
        if given:
            console.set_verbosity(verbosity)

    return callback


def _import(sources: list[str] | None) -> None:
    for source in sources or ():
        import_code(source)


def _options(
    quiet: Annotated[
        bool,
        _option(
            "--quiet",
            "-q",
            callback=_setter(Verbosity.QUIET),
            help="Print only results and errors, no notes and no progress.",
        ),
    ] = False,
    verbose: Annotated[
        bool,
        _option(
            "--verbose",
            "-v",
            callback=_setter(Verbosity.VERBOSE),
            help="Log every step with its time, and show tracebacks of errors in libraries.",
        ),
    ] = False,
    code: Annotated[
        list[str] | None,
        _option(
            "--import",
            metavar="FILE.py",
            callback=_import,
            is_eager=True,
            help="First import own decoders, encoders or readers of data, from a file or an installed module.",
        ),
    ] = None,
) -> None:
    pass


class Commands(TyperGroup):
    """A group whose commands take these options before and after their name."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        app = typer.Typer(add_completion=False)
        app.command()(_options)
        options = get_command(app).params
        for command in (self, *self.commands.values()):
            if not {"quiet", "verbose"} & {parameter.name for parameter in command.params}:
                command.params += options
