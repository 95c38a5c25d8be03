"""The registry of names, and its suggestions for mistyped ones."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

import pytest

from captioner.errors import CaptionerError, ConfigError
from captioner.registry import Registry, import_code, suggestion


@pytest.fixture
def decoders() -> Registry[type]:
    registry: Registry[type] = Registry("decoder", closed=True)
    for name in ("show_tell", "transformer", "show_attend_tell"):
        registry.register(name)(type(name, (), {}))
    return registry


def test_a_registered_class_is_found_and_unchanged() -> None:
    registry: Registry[type] = Registry("encoder")

    @registry.register("grid")
    class Grid:
        pass

    assert registry["grid"] is Grid and Grid.__name__ == "Grid"
    assert "grid" in registry and "regions" not in registry and 3 not in registry


def test_names_come_in_alphabetical_order(decoders: Registry[type]) -> None:
    assert list(decoders) == ["show_attend_tell", "show_tell", "transformer"]


def test_a_name_is_given_once(decoders: Registry[type]) -> None:
    first = decoders["show_tell"]
    with pytest.raises(ValueError, match="decoder 'show_tell' is registered twice"):
        decoders.register("show_tell")(int)
    assert decoders["show_tell"] is first


def test_a_name_of_a_value_is_given_once() -> None:
    registry: Registry[str] = Registry("data set", closed=True)
    registry.register("small")("one")
    with pytest.raises(ValueError, match="data set 'small' is registered twice"):
        registry.register("small")("one")


def test_a_definition_is_replaced_by_a_newer_one_of_the_same_name(decoders: Registry[type]) -> None:
    def cell() -> type:
        @decoders.register("mine")
        class Mine:
            pass

        return Mine

    cell()
    again = cell()
    assert decoders["mine"] is again


def test_the_error_for_an_unknown_name_has_the_command_to_import_it() -> None:
    with pytest.raises(ConfigError, match=r"captioner --import FILE\.py$"):
        Registry[type]("objective")["mine"]


def test_registries_do_not_share_names(decoders: Registry[type]) -> None:
    Registry[type]("encoder").register("show_tell")(int)
    assert decoders["show_tell"] is not int


def test_the_error_for_an_unknown_name_lists_the_known_ones(decoders: Registry[type]) -> None:
    with pytest.raises(ConfigError) as caught:
        decoders["show_tel"]
    assert str(caught.value) == (
        "decoder 'show_tel' does not exist. Did you mean 'show_tell'? Known: show_attend_tell, show_tell, transformer"
    )
    assert isinstance(caught.value, CaptionerError)
    assert caught.value.__suppress_context__, "the KeyError within is no news to a user"


def test_no_suggestion_where_nothing_is_near(decoders: Registry[type]) -> None:
    with pytest.raises(ConfigError, match=r"^decoder 'qqq' does not exist\. Known: "):
        decoders["qqq"]
    assert suggestion("qqq", ["beam", "sample"]) == ""
    assert suggestion("baem", ["beam", "sample"]) == " Did you mean 'beam'?"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty module that an installed package announces as the part ``far`` of the group ``captioner.parts``."""
    monkeypatch.syspath_prepend(tmp_path)
    point = metadata.EntryPoint("far", "outside_parts", "captioner.parts")
    monkeypatch.setattr(metadata, "entry_points", lambda group: [point] if group == point.group else [])
    monkeypatch.delitem(sys.modules, "outside_parts", raising=False)
    return tmp_path / "outside_parts.py"


def test_a_part_of_an_installed_package_is_imported_when_needed(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry: Registry[int] = Registry("part", group="captioner.parts")
    monkeypatch.setattr("captioner.registry.PARTS", registry, raising=False)
    registry.register("near")(1)
    package.write_text("from captioner.registry import PARTS\nPARTS.register('far')(2)\n")
    assert list(registry) == ["far", "near"] and registry["near"] == 1 and "outside_parts" not in sys.modules
    assert registry.entries() == [1, 2] and registry["far"] == 2


def test_a_package_that_cannot_be_imported_is_named(package: Path) -> None:
    registry: Registry[int] = Registry("part", group="captioner.parts")
    package.write_text("raise RuntimeError('not today')")
    with pytest.raises(ConfigError, match=r"^part 'far': outside_parts: not today$"):
        registry["far"]


def test_a_package_that_fails_does_not_affect_the_others(package: Path, caplog: pytest.LogCaptureFixture) -> None:
    registry: Registry[int] = Registry("part", group="captioner.parts")
    registry.register("near")(1)
    package.write_text("")
    assert registry.entries() == [1]
    assert "part 'far': outside_parts: registers none of that name" in caplog.text and "left out" in caplog.text


def test_a_script_that_exits_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("raise SystemExit(2)")
    with pytest.raises(ConfigError, match=r"script\.py: SystemExit: 2$"):
        import_code(str(tmp_path / "script.py"))


def test_the_error_of_an_import_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^mine\.yaml: import .*none\.py: there is no such file$"):
        import_code(str(tmp_path / "none.py"), where="mine.yaml: import")
