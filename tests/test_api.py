"""The public interface: what ``captioner.__all__`` names is documented, typed, and changes only on purpose.

``tests/api.txt`` has its signatures. After an intended change, update CHANGELOG.md and run:

    python -m tests.test_api
"""

from __future__ import annotations

import dataclasses
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

import captioner

LIST = Path(__file__).with_name("api.txt")
CLASSES = [name for name in captioner.__all__ if inspect.isclass(getattr(captioner, name))]


def own(kind: type) -> dict[str, Any]:
    """Return the public members that a class has from this package, inherited ones included."""
    members: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        if base.__module__.startswith("captioner"):
            members |= {name: value for name, value in vars(base).items() if not name.startswith(("_", "model_config"))}
    return members


def functions(kind: type) -> Iterator[tuple[str, Any]]:
    """Yield what can be called: the constructor, ``__call__``, methods and properties."""
    if "__init__" in vars(kind) and not issubclass(kind, BaseModel):
        yield "__init__", kind.__init__  # type: ignore[misc]
    if any("__call__" in vars(base) for base in kind.__mro__):
        yield "__call__", kind.__call__
    for name, value in own(kind).items():
        function = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        if inspect.isfunction(function):
            yield name, function


class Plain(str):
    """An annotation that is shown without quotes."""

    __repr__ = str.__str__


def plain(signature: inspect.Signature) -> inspect.Signature:
    """Return a signature that shows its annotations as they are written."""
    parameters = [
        parameter.replace(annotation=Plain(parameter.annotation))
        if isinstance(parameter.annotation, str)
        else parameter
        for parameter in signature.parameters.values()
    ]
    return signature.replace(parameters=parameters, return_annotation=Plain(signature.return_annotation))


def described(kind: type) -> Iterator[str]:
    """Yield a line for each member of a class."""
    yield f"class {kind.__name__}({', '.join(base.__name__ for base in kind.__bases__ if base is not object)})"
    if issubclass(kind, BaseModel):
        for name, field in kind.model_fields.items():
            yield f"  {name}: {inspect.formatannotation(field.annotation)} = {field.default!r}"
    elif not dataclasses.is_dataclass(kind):
        for base in kind.__mro__:
            if base.__module__.startswith("captioner"):
                yield from (f"  {name}: {text}" for name, text in inspect.get_annotations(base).items())
    members = own(kind)
    for name, function in functions(kind):
        sort = {property: "property ", classmethod: "classmethod ", staticmethod: "staticmethod "}
        prefix = sort.get(type(members.get(name)), "")
        yield f"  {prefix}{name}{plain(inspect.signature(function))}"


def listing() -> str:
    """Return the whole public interface, a line for each name."""
    lines = []
    for name in captioner.__all__:
        value = getattr(captioner, name)
        if inspect.isfunction(value):
            lines.append(f"{name}{plain(inspect.signature(value))}")
        elif name not in CLASSES:
            lines.append(f"{name}: {type(value).__name__}")
    for name in CLASSES:
        lines += ["", *described(getattr(captioner, name))]
    return "\n".join(lines) + "\n"


def test_the_interface_changes_only_on_purpose() -> None:
    assert listing() == LIST.read_text(encoding="utf-8"), "if that is meant: python -m tests.test_api"


def test_names_are_sorted_and_each_is_itself() -> None:
    assert list(captioner.__all__) == sorted(set(captioner.__all__))
    assert all(getattr(captioner, name).__name__ == name for name in captioner.__all__ if name != "__version__")


@pytest.mark.parametrize("name", CLASSES)
def test_every_public_thing_is_documented_and_typed(name: str) -> None:
    kind = getattr(captioner, name)
    assert inspect.getdoc(kind) and kind.__doc__ != getattr(kind.__base__, "__doc__", None)
    if issubclass(kind, BaseModel):
        assert all(field.description for field in kind.model_fields.values())
    for member, function in functions(kind):
        assert member == "__init__" or function.__doc__, f"{name}.{member} has no docstring"
        parameters = list(inspect.signature(function).parameters.values())
        if member != "__init__" or parameters:
            parameters = [parameter for parameter in parameters if parameter.name not in ("self", "cls")]
        untyped = [parameter.name for parameter in parameters if parameter.annotation is inspect.Parameter.empty]
        assert not untyped, f"{name}.{member}: {untyped} have no types"
        assert inspect.signature(function).return_annotation is not inspect.Signature.empty, f"{name}.{member}"


PROGRAM = """
from pathlib import Path

from captioner import Caption, Captioner, CaptionerError, CheckpointError, ImageError, SearchConfig, Translator

def main(images: list[Path]) -> dict[str, str]:
    try:
        captioner = Captioner.from_pretrained("user/model@v1", device="cpu", width=1)
    except CheckpointError as error:
        raise SystemExit(str(error)) from error
    one: Caption = captioner("photo.jpg")
    many: list[Caption] = captioner(["a.jpg", b"bytes"])
    search: SearchConfig = captioner.search
    width: int = search.width
    found = {}
    for caption in captioner.stream(images, batch_size=width):
        if isinstance(caption, ImageError):
            print(caption.source, caption.reason)
        else:
            found[caption.source or ""] = caption.text
    german = Translator.for_language("de")("Two dogs run.")
    reveal_type(german.text)
    reveal_type(captioner.push_to_hub("user/model"))
    reveal_type(many[0].log_probability + one.log_probability)
    return found

def wrong(captioner: Captioner) -> None:
    captioner.push_to_hub(3)
    captioner("photo.jpg").txt
"""


@pytest.mark.slow
def test_a_type_checker_sees_the_types(tmp_path: Path, repository: Path) -> None:
    """A user's program: what is right passes mypy's strictest rules, and what is wrong is found."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--no-error-summary"]
    command += ["--config-file=", f"--cache-dir={tmp_path / 'cache'}", str(program)]
    environment = os.environ | {"MYPYPATH": str(repository)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    revealed = re.findall(r'Revealed type is "(?:builtins\.)?(.+)"', done.stdout)
    assert revealed == ["str", "str", "float"], done.stdout + done.stderr
    errors = re.findall(r"program.py:\d+: error: .*\[(.+)\]", done.stdout)
    assert errors == ["arg-type", "attr-defined"], done.stdout + done.stderr


if __name__ == "__main__":
    LIST.write_text(listing(), encoding="utf-8")
