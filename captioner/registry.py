"""Names of interchangeable parts: encoders, decoders, searches.

A family registers itself with a decorator; the command line, the configs and the parametrised tests read the registry,
so that adding a family means adding a file.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from captioner.errors import ConfigError

T = TypeVar("T")


def suggestion(name: str, known: list[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for a near miss, else an empty string."""
    near = difflib.get_close_matches(name, known, n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


class Registry(Generic[T]):
    """A table from names to entries of one kind."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorate a class or function to register it as ``name``."""

        def decorate(entry: T) -> T:
            if name in self._entries:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._entries[name] = entry
            return entry

        return decorate

    def __getitem__(self, name: str) -> T:
        try:
            return self._entries[name]
        except KeyError:
            hint = suggestion(name, list(self._entries))
            known = ", ".join(sorted(self._entries))
            raise ConfigError(f"{self.kind} {name!r} does not exist.{hint} Known: {known}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def __contains__(self, name: object) -> bool:
        return name in self._entries
