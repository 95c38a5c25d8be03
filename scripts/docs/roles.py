"""An extension of griffe, which reads docstrings for the API pages: it converts their Sphinx roles.

The target of ``:class:``, ``:func:`` and others becomes a link if the site has a page of it, and code otherwise.
"""

from __future__ import annotations

import re
from typing import Any

from griffe import Alias, AliasResolutionError, Extension, Module, NameResolutionError, Object

ROLE = re.compile(r":(?:class|func|meth|mod|data|attr|exc):`(~?)([\w.]+)`")


class Roles(Extension):
    """Rewrites the docstrings of a package once all of it is loaded."""

    def on_package(self, *, pkg: Module, **_: Any) -> None:
        """Rewrite the docstrings of a package."""
        self._visit(pkg)

    def _visit(self, thing: Object) -> None:
        if thing.docstring is not None:
            thing.docstring.value = ROLE.sub(lambda match: linked(thing, *match.groups()), thing.docstring.value)
        for member in thing.members.values():
            if not isinstance(member, Alias):
                self._visit(member)


def linked(thing: Object, short: str, name: str) -> str:
    """Return the reference to a name in the docstring of ``thing``."""
    text = name.rpartition(".")[2] if short else name
    return f'<autoref optional identifier="{_path(thing, name)}"><code>{text}</code></autoref>'


def _path(thing: Object, name: str) -> str:
    if name.startswith("captioner."):
        return name
    first, dot, rest = name.partition(".")
    try:
        return thing.resolve(first) + dot + rest
    except (NameResolutionError, AliasResolutionError):
        return name
