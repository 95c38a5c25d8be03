"""Eight bits from the pixels on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="quantising needs onnx; pip install 'captioner[onnx]'")
onnxruntime = pytest.importorskip("onnxruntime", reason="quantising needs onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from captioner.onnx.quantise import centre, quantised_maps, quantised_products  # noqa: E402

SIDE = 8


def encoder(mean: list[float], path: Path) -> Path:
    """Write a graph: pixels, cast, less the mean, a convolution, ReLU6."""
    random = np.random.default_rng(0)
    constants = {
        "mean": np.array(mean, np.float32).reshape(-1, 1, 1) if len(mean) > 1 else np.array(mean[0], np.float32),
        "weight": random.normal(0, 0.01, (4, 3, 3, 3)).astype(np.float32),
        "bias": random.normal(1, 1, 4).astype(np.float32),
        "least": np.array(0, np.float32),
        "most": np.array(6, np.float32),
    }
    nodes = [
        helper.make_node("Transpose", ["pixels"], ["turned"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["turned"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["numbers", "mean"], ["centred"]),
        helper.make_node("Conv", ["centred", "weight", "bias"], ["map"], kernel_shape=[3, 3]),
        helper.make_node("Clip", ["map", "least", "most"], ["features"]),
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


def features(graph: Any, pixels: Any) -> Any:
    given = graph.SerializeToString() if isinstance(graph, onnx.ModelProto) else graph
    session = onnxruntime.InferenceSession(given, providers=["CPUExecutionProvider"])
    return session.run(None, {"pixels": pixels})[0]


def pixels(count: int) -> Any:
    return np.random.default_rng(1).integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)


def test_the_centre_moves_into_the_bias(tmp_path: Path) -> None:
    graph = onnx.load(encoder([127.5], tmp_path / "encoder.onnx"))
    expected = features(graph, pixels(2))
    assert centre(graph) == "centred"
    np.testing.assert_allclose(features(graph, pixels(2)), expected, atol=1e-4)
    assert expected.std() > 0.5


def test_a_mean_for_each_colour_stays(tmp_path: Path) -> None:
    graph = onnx.load(encoder([120.0, 110.0, 100.0], tmp_path / "encoder.onnx"))
    before = graph.SerializeToString()
    assert centre(graph) == "" and graph.SerializeToString() == before


@pytest.mark.parametrize("mean", [[127.5], [120.0, 110.0, 100.0]])
def test_the_first_convolution_reads_pixels_in_eight_bits(mean: list[float], tmp_path: Path) -> None:
    path = encoder(mean, tmp_path / "encoder.onnx")
    expected = features(str(path), pixels(4))
    quantised_maps(path, tmp_path / "eight.onnx", lambda: iter([{"pixels": pixels(4)}]))
    found = features(str(tmp_path / "eight.onnx"), pixels(4))
    np.testing.assert_allclose(found, expected, atol=0.1)  # four steps of the map, of 6 / 255
    operators = {node.op_type for node in onnx.load(tmp_path / "eight.onnx").graph.node}
    assert ("Cast" in operators) == ("Sub" in operators) == (len(mean) > 1)


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
