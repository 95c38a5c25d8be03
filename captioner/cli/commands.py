"""The commands, each imported when it is called, and the options that all have: --quiet, --verbose and --import."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from captioner.cli import console, groups
from captioner.cli.console import Verbosity
from captioner.registry import import_code

#: modules of this package, in the order of the help: each has a function ``run`` with ``EXAMPLES``, or a group ``app``
NAMES = (
    "caption",
    "attend",
    "find",
    "serve",
    "bulk",
    "translate",
    "evaluate",
    "score",
    "ground",
    "benchmark",
    "train",
    "export",
    "push",
    "features",
    "recipes",
    "models",
    "doctor",
    "data",
)

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
            help="Print only results and errors, without notes and progress.",
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
            help="Import your own decoders, encoders, caption formats or loggers, from a file or an installed module.",
        ),
    ] = None,
) -> None:
    pass


@cache
def load(name: str) -> typer.Typer:
    """Import a command, and return it as a separate program, or its group."""
    module = import_module(f"captioner.cli.{name}")
    if hasattr(module, "app"):
        app: typer.Typer = module.app
    else:
        app = typer.Typer(add_completion=False, rich_markup_mode="rich")
        app.command(name, epilog=module.EXAMPLES)(groups.expand(module.run))
    return app


class Group(TyperGroup):
    """A group whose commands take these options before and after their name."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for command in (self, *self.commands.values()):
            _add_options(command)


class Program(TyperGroup):
    """The group of all commands, of which each is imported when it is called or described."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = _Commands()  # type: ignore[assignment]
        _add_options(self)

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.commands)


class _Commands(Mapping[str, Any]):
    def __getitem__(self, name: str) -> Any:
        if name not in NAMES:
            raise KeyError(name)
        command = get_command(load(name))
        _add_options(command)
        return command

    def __iter__(self) -> Iterator[str]:
        return iter(NAMES)

    def __len__(self) -> int:
        return len(NAMES)


def _add_options(command: Any) -> None:
    if not {"quiet", "verbose"} & {parameter.name for parameter in command.params}:
        app = typer.Typer(add_completion=False)
        app.command()(_options)
        command.params += get_command(app).params
        for part in (command, *command.params):
            _keep_brackets(part)
    get_params = command.get_params

    def changed_params(ctx: Any) -> list[Any]:
        found: list[Any] = get_params(ctx)
        for parameter in found:
            _name_value(parameter)
            _refuse_empty(parameter)
        return found

    command.get_params = changed_params


def _keep_brackets(part: Any) -> None:
    """Escape what rich would read as markup in the texts of a command or an option, such as ``captioner[bulk]``."""
    for name in ("help", "short_help", "epilog"):
        if text := getattr(part, name, None):
            setattr(part, name, re.sub(r"(\[[a-z#/@][^\[]*?\])", r"\\\1", text))


def _refuse_empty(parameter: Any) -> None:
    """Refuse an empty option or argument, which a shell makes of a variable that is not set: no path is this folder.

    Of several arguments, the command reports those that are empty.
    """
    if "consume_value" in vars(parameter) or (parameter.param_type_name == "argument" and parameter.nargs != 1):
        return
    consume = parameter.consume_value

    def consumed(ctx: Any, options: Mapping[str, Any]) -> Any:
        given = options.get(parameter.name)
        if given == "" or (isinstance(given, list | tuple) and "" in given):
            raise typer.BadParameter(
                "the value is empty; give one" + ", or leave the option out" * (not parameter.required)
            )
        return consume(ctx, options)

    parameter.consume_value = consumed


_VALUES = {
    "bool": "",
    "int": "NUMBER",
    "float": "NUMBER",
    "str": "TEXT",
    "path": "PATH",
    "file": "FILE",
    "dir": "FOLDER",
}


def _name_value(parameter: Any) -> None:
    """Name the value of an option in its help, where newer versions of typer write its Python type in ``<>``."""
    shown = getattr(parameter, "display_type_rich", None)
    if shown is None or "display_type_rich" in vars(parameter):
        return

    def name(ctx: Any) -> str:
        label = str(shown(ctx) or "")
        kind = re.sub(r"^<(?:list\[)?(.*?)\]?(?: range)?>$", r"\1", label)
        # An argument has a name already.
        return "" if parameter.param_type_name == "argument" and kind != label else _VALUES.get(kind.lower(), kind)

    parameter.display_type_rich = name
