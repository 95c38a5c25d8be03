"""Names of interchangeable parts: encoders, decoders, objectives, loggers, readers of captions.

A family registers itself with a decorator, so adding one means adding a file: the command line, the configs and the
parametrised tests read the registry. The file can be outside this package: :func:`import_code` imports it. An installed
package names its families as entry points: ``captioner.decoders``, ``captioner.encoders``, ``captioner.loggers`` or
``captioner.readers``.
"""

from __future__ import annotations

import difflib
import hashlib
import logging
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from captioner.errors import CaptionerError, ConfigError, first_line

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

T = TypeVar("T")

log = logging.getLogger(__name__)

_imported: list[str] = []  # absolute paths of files, and names of modules


def suggestion(name: str, known: list[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for a similar name, else an empty string."""
    near = difflib.get_close_matches(name, known, n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def import_code(source: str, *, where: str = "--import") -> None:
    """Import a Python file, or an installed module by its dotted name, that registers parts.

    Args:
        source: ``mine.py``, a path with that ending; or ``package.module``.
        where: names the option or setting in errors.

    Raises:
        ConfigError: there is no such file or module, or it fails; its own exception is the cause.
    """
    path = Path(source)
    try:
        if path.suffix != ".py":
            import_module(source)
            _imported.append(source)
            return
        if not path.is_file():
            raise ConfigError(f"{where} {source}: there is no such file")
        name = f"{path.stem}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}"
        if name in sys.modules:
            return
        spec = spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        module = sys.modules[name] = module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
        _imported.append(str(path.resolve()))
    except CaptionerError:
        raise
    except (Exception, SystemExit) as error:  # a script may parse the command line, and exit
        raise ConfigError(f"{where} {source}: {type(error).__name__}: {first_line(error)}") from error


def imported_code() -> tuple[str, ...]:
    """Return the files and modules that this process imported, for :func:`import_code` in its workers."""
    return tuple(dict.fromkeys(_imported))


class Registry(Generic[T]):
    """A table from names to entries of one kind.

    Args:
        kind: names an entry in errors.
        group: group of entry points in which unknown names are looked up.
        closed: all entries are in this package.
    """

    def __init__(self, kind: str, *, group: str | None = None, closed: bool = False) -> None:
        self.kind, self.group, self.closed = kind, group, closed
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorate a class or function to register it as ``name``.

        A new definition of the same class or function replaces it, as when a cell of a notebook runs again.
        """

        def decorate(entry: T) -> T:
            definition = _definition(entry)
            if name in self._entries and (definition is None or definition != _definition(self._entries[name])):
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._entries[name] = entry
            return entry

        return decorate

    def __getitem__(self, name: str) -> T:
        if name not in self._entries and name in (points := self._entry_points()):
            try:
                points[name].load()  # registers it
            except Exception as error:
                raise ConfigError(f"{self.kind} {name!r}: {points[name].value}: {first_line(error)}") from error
            if name not in self._entries:
                raise ConfigError(
                    f"{self.kind} {name!r}: {points[name].value}: registers none of that name; correct the entry point "
                    "of its package"
                )
        try:
            return self._entries[name]
        except KeyError:
            hint = suggestion(name, list(self))
            outside = "" if self.closed else "; import one of your own first: captioner --import FILE.py"
            raise ConfigError(f"{self.kind} {name!r} does not exist.{hint} Known: {', '.join(self)}{outside}") from None

    def entries(self) -> list[T]:
        """Import the entries of installed packages, and return all in the order of their registration.

        Those of a package that fails are left out with a warning.
        """
        for name in self._entry_points():
            try:
                self[name]
            except ConfigError as error:
                log.warning("%s; it is left out", error)
        return list(self._entries.values())

    def __iter__(self) -> Iterator[str]:
        return iter(sorted({*self._entries, *self._entry_points()}))

    def __contains__(self, name: object) -> bool:
        return name in self._entries or name in self._entry_points()

    def _entry_points(self) -> dict[str, EntryPoint]:
        from importlib import metadata

        return {point.name: point for point in metadata.entry_points(group=self.group)} if self.group else {}


def _definition(entry: object) -> tuple[str, str] | None:
    """Return the module and the name of a class, or of the function that reads a caption format."""
    defined = getattr(entry, "read", entry)
    return (defined.__module__, defined.__qualname__) if hasattr(defined, "__qualname__") else None
