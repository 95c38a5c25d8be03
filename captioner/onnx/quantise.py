"""Exported graphs in eight bits, by onnxruntime's quantisation (Jacob 2018, https://arxiv.org/abs/1712.05877).

The encoder's convolutions compute with 8-bit weights, one factor per channel, and with 8-bit maps, but for those of the
stem: their rounding makes half of the squared error of the features, and in float they add an eighth to the time. The
decoder's products compute with 8-bit weights and 8-bit inputs, and give 32-bit numbers. All ranges are those of some
images, and fixed: with ranges of the moment, a caption would depend on the other images of its batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from captioner.caption import Array
from captioner.data.images import ImageSource
from captioner.data.loader import ImageLoader
from captioner.data.transform import Transform
from captioner.onnx.beam import State, Step, beam
from captioner.onnx.engine import OnnxEngine, step_inputs
from captioner.onnx.folder import ENCODER, FEATURES, PIXELS, START, STEP

_MAPS = ["Conv", "Add", "Clip", "Reshape", "Transpose"]  # operators that compute with maps in eight bits
_PRODUCTS = ["MatMul", "Gemm", "Gather"]
_AVERAGED = 32  # images from which on the mean of their ranges is a range for others
_DECODED = 32  # images whose captions are searched, for the ranges of the decoder


def quantise(folder: Path, transform: Transform, images: Sequence[ImageSource]) -> None:
    """Replace the three graphs of a folder by ones in eight bits.

    Args:
        folder: the folder with the graphs.
        transform: from an image to the encoder's pixels.
        images: training images, for the ranges of the maps.

    Raises:
        ImageError: an image cannot be read.
    """
    from onnxruntime import quantization as q

    features, steps = _decoded(OnnxEngine.load(folder), transform, images[:_DECODED])
    for name in (ENCODER, START, STEP):
        path, prepared = folder / name, folder / f"prepared.{name}"
        q.shape_inference.quant_pre_process(path, prepared, skip_symbolic_shape=True)
        if name == ENCODER:
            quantised_maps(prepared, path, lambda: _inputs(transform, images), averaged=len(images) >= _AVERAGED)
        else:
            quantised_products(prepared, path, features if name == START else steps)
        prepared.unlink()


def quantised_maps(
    source: Path, path: Path, inputs: Callable[[], Iterator[dict[str, Any]]], *, averaged: bool = True
) -> None:
    """Write an encoder whose weights and maps have eight bits.

    Args:
        source: the encoder in ONNX, with its shapes inferred.
        path: where it is written.
        inputs: yields images for the ranges of the maps.
        averaged: a map's range is the mean of the images' ranges, since a few outliers would widen it for all others;
            else their union.
    """
    import onnx
    from onnxruntime import quantization as q

    graph = onnx.load(source)
    q.quantize_static(
        graph,
        path,
        _reader(inputs()),
        op_types_to_quantize=_MAPS,
        nodes_to_exclude=stem(graph),
        per_channel=True,
        activation_type=q.QuantType.QUInt8,
        weight_type=q.QuantType.QInt8,
        extra_options={"CalibMovingAverage": averaged},
    )
    _write_fused(onnx.load(path), path)


def quantised_products(source: Path, path: Path, inputs: Sequence[dict[str, Any]]) -> None:
    """Write a part of a decoder whose products with weights have eight bits, and give 32-bit numbers.

    Args:
        source: the part in ONNX, with its shapes inferred.
        path: where it is written.
        inputs: its inputs, for the ranges of those of the products.
    """
    import onnx
    from onnxruntime import quantization as q

    graph = onnx.load(source)
    weights = {each.name for each in graph.graph.initializer}
    between = [
        node.name for node in graph.graph.node if node.op_type in ("MatMul", "Gemm") and node.input[1] not in weights
    ]
    q.quantize_static(
        graph,
        path,
        _reader(iter(inputs)),
        op_types_to_quantize=_PRODUCTS,
        nodes_to_exclude=between,
        per_channel=True,
        activation_type=q.QuantType.QUInt8,
        weight_type=q.QuantType.QInt8,
        extra_options={"OpTypesToExcludeOutputQuantization": _PRODUCTS},
    )
    _write_fused(onnx.load(path), path)


def _write_fused(graph: Any, path: Path) -> None:
    """Write a graph in eight bits as onnxruntime fuses it: it loads faster. Layouts are left to the machine."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 3  # errors only
    onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _reader(inputs: Iterator[dict[str, Any]]) -> Any:
    """Return inputs as onnxruntime reads them."""
    from onnxruntime import quantization as q

    class Reader(q.CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> dict[str, Any] | None:
            return next(inputs, None)

    return Reader()


def _decoded(
    engine: OnnxEngine, transform: Transform, images: Sequence[ImageSource]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Search captions, and return the inputs of the start and of the steps.

    Raises:
        ImageError: an image cannot be read.
    """
    features: list[dict[str, Any]] = []
    steps: list[dict[str, Any]] = []

    class Recorder:
        def step(self, tokens: Array, state: State) -> Step:
            steps.append(step_inputs(tokens, state))
            return engine.step(tokens, state)

    for given in _inputs(transform, images):
        features.append({FEATURES: engine.encode(given[PIXELS].transpose(0, 3, 1, 2))})
        beam(Recorder(), engine.start(features[-1][FEATURES]), 1, engine.search.changed(prune=0))
    return features, steps


def _inputs(transform: Transform, images: Sequence[ImageSource]) -> Iterator[dict[str, Any]]:
    for batch in ImageLoader(images, transform, batch_size=1):
        for _, error in batch.errors:
            raise error
        yield {PIXELS: batch.array.transpose(0, 2, 3, 1)}


def stem(graph: Any) -> list[str]:
    """Return the names of the nodes that stay in float: the first convolution, and one of each channel after it.

    Args:
        graph: the encoder in ONNX.
    """
    first, *others = [node for node in graph.graph.node if node.op_type == "Conv"]
    depthwise = (part.i > 1 for node in others[:1] for part in node.attribute if part.name == "group")
    return [first.name, *(node.name for node, is_so in zip(others, depthwise, strict=False) if is_so)]
