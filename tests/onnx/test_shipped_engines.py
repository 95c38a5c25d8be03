"""The default model through its graphs and through torch: the same quality, the same errors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from captioner import Caption, Captioner, store
from captioner.data.annotations import read_captions
from captioner.errors import ImageError
from captioner.evaluation.evaluate import evaluate
from captioner.onnx.engine import OnnxEngine

pytestmark = pytest.mark.skipif(
    "graphs" not in store.read_config(store.locate()), reason="the default model ships without graphs"
)


@pytest.fixture(scope="module")
def engines() -> tuple[Captioner, Captioner]:
    onnx, torch = (Captioner.from_pretrained(device="cpu", engine=engine) for engine in ("auto", "torch"))
    assert isinstance(onnx.engine, OnnxEngine) and not isinstance(torch.engine, OnnxEngine)
    return onnx, torch


def test_examples_and_bad_files_are_the_same(engines: tuple[Captioner, Captioner], tmp_path: Path) -> None:
    examples = sorted((Path(__file__).parents[2] / "assets" / "examples").glob("*.jpg"))
    whole = examples[0].read_bytes()
    bad = {
        "empty.jpg": b"",
        "cut.jpg": whole[:2000],
        "text.jpg": b"a text",
        "head.jpg": whole[:10],
        "pdf.jpg": b"%PDF-1",
    }
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
    paths = [*examples, *(tmp_path / name for name in bad), tmp_path / "gone.jpg"]
    found, expected = (list(captioner.stream(paths)) for captioner in engines)
    same = 0
    for one, other in zip(found, expected, strict=True):
        assert type(one) is type(other)
        if isinstance(one, ImageError):
            assert str(one) == str(other)
        elif isinstance(one, Caption) and one.tokens == other.tokens:
            same += 1
            assert one.attention is not None and one.grid == other.grid and one.seen == other.seen
            np.testing.assert_allclose(one.attention, other.attention, atol=0.03)
    assert same >= len(examples) // 2


@pytest.mark.slow
def test_two_hundred_photos_have_the_same_quality(engines: tuple[Captioner, Captioner], shared_data: Path) -> None:
    data = read_captions(shared_data / "flickr8k").split("dev")
    part = replace(data, images=data.images[::5])
    onnx, torch = (evaluate(captioner, part, metrics=("CIDEr",)).scores["CIDEr"] for captioner in engines)
    assert abs(onnx - torch) <= 0.01
    if abs(onnx - torch) > 0.005:
        pytest.xfail("the engines should differ by half a point of CIDEr at most, and do by more")


def test_the_documentation_lists_the_inputs_and_outputs(repository: Path) -> None:
    from onnxruntime import InferenceSession

    page = (repository / "docs" / "howto" / "export.md").read_text(encoding="utf-8")
    listed: dict[tuple[str, str], dict[str, tuple[str, str]]] = {}
    graph = ""
    for line in page.partition("## The graphs")[2].partition("```")[0].splitlines():
        cells = [cell.strip().replace("`", "") for cell in line.split("|")[1:-1]]
        if line.endswith(".onnx`:"):
            graph = line.strip("`:")
        elif cells and cells[0] in ("input", "output"):
            for name in cells[1].split(", "):
                listed.setdefault((graph, cells[0]), {})[name] = (cells[2], cells[3])
    kinds = {"uint8": "tensor(uint8)", "int64": "tensor(int64)", "float32": "tensor(float)"}
    for file in store.GRAPHS:
        session = InferenceSession(store.locate() / file, providers=["CPUExecutionProvider"])
        for way, there in (("input", session.get_inputs()), ("output", session.get_outputs())):
            rows = listed[file, way]
            assert {each.name: each.type for each in there} == {name: kinds[kind] for name, (kind, _) in rows.items()}
            for each in there:
                shape = rows[each.name][1].strip("()").split(", ")
                sizes = [size if isinstance(size, int) else None for size in each.shape]
                assert sizes == [int(size) if size.isdecimal() else None for size in shape]
