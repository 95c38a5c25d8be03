from __future__ import annotations

import sys
from pathlib import Path

import pytest

for package in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(package, reason=f"exporting needs {package}; pip install 'captioner[onnx]'")


@pytest.mark.slow
def test_an_exported_model_captions_as_before(
    run, model: Path, images: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    for module in ("encoders.encoder", "engines.model"):
        monkeypatch.setattr(f"captioner.{module}.fast_dtype", lambda device: torch.float32)
    good = [images / "red.jpg", images / "green.png", images / "blue.jpg"]
    result = run("export", model, "-o", tmp_path / "small", "--photos", good[0], "--photos", f"{images}/*.png")
    assert result.code == 0 and f"{tmp_path / 'small'}: 3 graphs, " in result.err.splitlines()[-1]
    *files, compared = result.lines
    assert [line.partition(":")[0] for line in files] == [
        str(tmp_path / "small" / f"{name}.onnx") for name in ("encoder", "start", "step")
    ]
    assert f"compared with {model} on 2 images: 2 captions are the same" in compared and "attention by" in compared
    expected = run("caption", *good, "--model", model, "--device", "cpu")
    assert run("caption", *good, "--model", tmp_path / "small") == expected and len(expected.lines) == 3
    broken = run("caption", images / "broken.jpg", good[0], "--model", tmp_path / "small", "--json", "--attention")
    assert broken.code == 1 and len(broken.lines) == 2
    scored = run("evaluate", tmp_path / "small", dataset, "--metrics", "BLEU", "--json")
    assert scored.code == 0 and '"BLEU-1"' in scored.out
    captioned = run("bulk", images, "-o", tmp_path / "captions", "--model", tmp_path / "small")
    assert captioned.code == 1 and "4 images captioned" in captioned.out
    drawn = run("attend", good[0], "--model", tmp_path / "small", "-o", tmp_path / "figure.png")
    assert drawn.code == 0 and (tmp_path / "figure.png").exists()
    for line, reason in (
        (f"attend {good[0]} --model {tmp_path}/small -o {tmp_path}/x.png --heads 1.1", "only the mean"),
        (f"benchmark {tmp_path}/small --data {dataset} -o {tmp_path}/benchmark", "is a captioner in ONNX and"),
        (f"export {tmp_path}/small -o {tmp_path}/again", "is a captioner in ONNX and not a captioner"),
    ):
        refused = run(line)
        assert refused.code == 1 and reason in refused.err


def test_errors_come_before_any_work(
    run, model: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = run("export", model, "-o", tmp_path / "small", "--photos", tmp_path / "none.jpg")
    assert missing.code == 1 and "none.jpg" in missing.err
    assert run("export", model, "-o", tmp_path / "small", "--format", "tflite").code == 2
    assert run("export", "show_atend_tell", "-o", tmp_path / "small").code == 1
    assert run("export", model, "-o", tmp_path / "small", "--int8").code == 2
    for line, reason in (
        (f"export {model}", "give one of them"),
        (f"export {model} -o {tmp_path}/small --web {tmp_path}/site", "give one of them"),
        (f"export {model} -o {tmp_path}/small --runtime {tmp_path}", "give --web too"),
        (f"export show_attend_tell --web {tmp_path}/site --photos {images}", "--calibrate: show_attend_tell"),
    ):
        wrong = run(line)
        assert wrong.code == 2 and reason in wrong.err
    lacking = run(f"export show_attend_tell --web {tmp_path}/site --runtime {tmp_path}/none.tgz")
    assert lacking.code == 1 and "none.tgz: there is no such file" in lacking.err
    occupied = run(f"export show_attend_tell --web {images}")
    assert occupied.code == 1 and "is not a page" in occupied.err
    monkeypatch.setitem(sys.modules, "onnx", None)
    bare = run("export", model, "-o", tmp_path / "small")
    assert bare.code == 1 and "pip install 'captioner[onnx]'" in bare.err
    assert not (tmp_path / "small").exists() and not (tmp_path / "site").exists()
