"""Eight bits behind the stem."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="quantising needs onnx; pip install 'captioner[onnx]'")
onnxruntime = pytest.importorskip("onnxruntime", reason="quantising needs onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from captioner.data.transform import Transform  # noqa: E402
from captioner.onnx import quantise as quantising  # noqa: E402
from captioner.onnx.quantise import quantised_maps, quantised_products, stem  # noqa: E402

SIDE = 8


def encoder(path: Path, *, depthwise: bool) -> Path:
    """Write a graph: pixels, cast, a convolution, perhaps one of each channel, and two more, each with ReLU6."""
    random = np.random.default_rng(0)
    constants = {"least": np.array(0, np.float32), "most": np.array(6, np.float32)}
    nodes = [
        helper.make_node("Transpose", ["pixels"], ["turned"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["turned"], ["clip0"], to=TensorProto.FLOAT),
    ]
    for number in range(1, 5):
        group = 4 if number == 2 and depthwise else 1
        size, before = (3, 3) if number == 1 else (1, 4 // group)
        constants[f"weight{number}"] = random.normal(0, 0.01 if number == 1 else 0.5, (4, before, size, size)).astype(
            np.float32
        )
        constants[f"bias{number}"] = random.normal(1, 1, 4).astype(np.float32)
        nodes += [
            helper.make_node(
                "Conv",
                [f"clip{number - 1}", f"weight{number}", f"bias{number}"],
                [f"map{number}"],
                name=f"conv{number}",
                group=group,
            ),
            helper.make_node(
                "Clip", [f"map{number}", "least", "most"], [f"clip{number}" if number < 4 else "features"]
            ),
        ]
    graph = helper.make_graph(
        nodes,
        "encoder",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["b", SIDE, SIDE, 3])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["b", 4, SIDE - 2, SIDE - 2])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def features(path: Path, pixels: Any) -> Any:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {"pixels": pixels})[0]


def pixels(count: int) -> Any:
    return np.random.default_rng(1).integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)


@pytest.mark.parametrize(("depthwise", "kept"), [(False, ["conv1"]), (True, ["conv1", "conv2"])])
def test_all_convolutions_but_the_stems_have_eight_bits(depthwise: bool, kept: list[str], tmp_path: Path) -> None:
    path = encoder(tmp_path / "encoder.onnx", depthwise=depthwise)
    assert stem(onnx.load(path)) == kept
    expected = features(path, pixels(4))
    quantised_maps(path, tmp_path / "eight.onnx", lambda: iter([{"pixels": pixels(4)}]))
    np.testing.assert_allclose(features(tmp_path / "eight.onnx", pixels(4)), expected, atol=0.1)  # of up to 6
    assert expected.std() > 0.5
    operators = [node.op_type for node in onnx.load(tmp_path / "eight.onnx").graph.node]
    assert operators.count("QLinearConv") == 4 - len(kept)


@pytest.mark.parametrize(("images", "averaged"), [(31, False), (32, True)])
def test_few_images_give_the_union_of_their_ranges(
    images: int, averaged: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(quantising.OnnxEngine, "load", lambda folder: None)
    monkeypatch.setattr(quantising, "_decoded", lambda *arguments: ([], []))
    monkeypatch.setattr(quantising, "quantised_products", lambda *arguments: None)
    monkeypatch.setattr(quantising, "quantised_maps", lambda *arguments, averaged: asked.append(averaged))
    monkeypatch.setattr(
        "onnxruntime.quantization.shape_inference.quant_pre_process", lambda source, made, **options: made.touch()
    )
    quantising.quantise(tmp_path, Transform(size=8, mean=(0, 0, 0), std=(1, 1, 1)), [tmp_path / "image.png"] * images)
    assert asked == [averaged] and not list(tmp_path.iterdir())


def test_products_with_weights_have_eight_bits_and_do_not_depend_on_the_batch(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    weight = random.normal(0, 0.1, (16, 8)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "weight"], ["y"], name="weighted"),
        helper.make_node("Tanh", ["y"], ["bounded"]),
        helper.make_node("MatMul", ["bounded", "z"], ["out"], name="between"),
    ]
    shapes = {"x": ["b", 16], "z": [8, 8], "out": ["b", 8]}
    x, z, out = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items())
    graph = helper.make_graph(nodes, "step", [x, z], [out], [numpy_helper.from_array(weight, "weight")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, tmp_path / "step.onnx")
    rows = random.uniform(-1, 1, (6, 16)).astype(np.float32)
    rows[0] *= 0.01  # with the range of its batch it would be rounded to zero
    second = random.normal(0, 1, (8, 8)).astype(np.float32)
    quantised_products(tmp_path / "step.onnx", tmp_path / "eight.onnx", [{"x": rows, "z": second}])

    session = onnxruntime.InferenceSession(str(tmp_path / "eight.onnx"), providers=["CPUExecutionProvider"])
    together = session.run(None, {"x": rows, "z": second})[0]
    alone = [session.run(None, {"x": row[None], "z": second})[0][0] for row in rows]
    np.testing.assert_allclose(together, np.stack(alone), atol=1e-5)
    np.testing.assert_allclose(together, np.tanh(rows @ weight) @ second, atol=0.1)
    operators = [node.op_type for node in onnx.load(tmp_path / "eight.onnx").graph.node]
    assert operators.count("MatMulIntegerToFloat") == operators.count("MatMul") == 1
