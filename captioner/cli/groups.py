"""Groups of options: a command takes a dataclass as one parameter, and typer its fields as single options."""

from __future__ import annotations

import functools
import gc
import inspect
import re
from collections.abc import Callable
from dataclasses import is_dataclass
from itertools import chain
from typing import Any


def expand(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command that takes the options of its groups as single parameters."""
    given = inspect.signature(command, eval_str=True).parameters.values()
    groups: dict[str, Any] = {each.name: each.annotation for each in given if is_dataclass(each.annotation)}
    options = {name: inspect.signature(group, eval_str=True).parameters for name, group in groups.items()}
    parameters = chain.from_iterable(options[each.name].values() if each.name in groups else [each] for each in given)

    @functools.wraps(command)
    def run(**values: Any) -> None:
        if not gc.isenabled():  # see captioner.__main__
            gc.freeze()
            gc.enable()
        for name, group in groups.items():
            values[name] = group(**{option: values.pop(option) for option in options[name]})
        command(**values)

    # typer keeps the line breaks of a docstring in the terminal, where they fall in the middle of a line.
    run.__doc__ = re.sub(r"(?<!\n)\n(?!\n)", " ", inspect.getdoc(command) or "")
    run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
    )
    return run
