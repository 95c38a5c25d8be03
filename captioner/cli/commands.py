"""The options that every command has: ``--quiet``, ``--verbose`` and ``--import``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from captioner.cli import console
from captioner.cli.console import Verbosity
from captioner.registry import import_code

_PANEL = "Every command"


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
        typer.Option(
            "--quiet",
            "-q",
            callback=_setter(Verbosity.QUIET),
            expose_value=False,
            rich_help_panel=_PANEL,
            help="Print only results and errors, no notes and no progress.",
        ),
    ] = False,
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose",
            "-v",
            callback=_setter(Verbosity.VERBOSE),
            expose_value=False,
            rich_help_panel=_PANEL,
            help="Log every step with its time, and show tracebacks of errors in libraries.",
        ),
    ] = False,
    code: Annotated[
        list[str] | None,
        typer.Option(
            "--import",
            metavar="FILE.py",
            callback=_import,
            expose_value=False,
            is_eager=True,
            rich_help_panel=_PANEL,
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
