"""Exported graphs in eight bits, by onnxruntime's quantisation (Jacob 2018, https://arxiv.org/abs/1712.05877).

The encoder's convolutions compute with 8-bit weights, one factor per channel, and with 8-bit maps, whose ranges are
those of some images; the decoder's products compute with 8-bit weights and with inputs that are rounded as they come.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from captioner.data.images import ImageSource
from captioner.data.loader import ImageLoader
from captioner.data.transform import Transform
from captioner.onnx.folder import ENCODER, PIXELS, START, STEP


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

    class Images(q.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.inputs = _inputs(transform, images)

        def get_next(self) -> dict[str, Any] | None:
            return next(self.inputs, None)

    for name in (ENCODER, START, STEP):
        path, prepared = folder / name, folder / f"prepared.{name}"
        q.shape_inference.quant_pre_process(path, prepared, skip_symbolic_shape=True)
        if name == ENCODER:
            q.quantize_static(
                prepared,
                path,
                Images(),
                op_types_to_quantize=["Conv", "Add", "Clip"],
                per_channel=True,
                activation_type=q.QuantType.QUInt8,
                weight_type=q.QuantType.QInt8,
            )
        else:
            q.quantize_dynamic(
                prepared,
                path,
                op_types_to_quantize=["MatMul", "Gemm", "Gather"],
                per_channel=True,
                weight_type=q.QuantType.QInt8,
            )
        prepared.unlink()


def _inputs(transform: Transform, images: Sequence[ImageSource]) -> Iterator[dict[str, Any]]:
    for batch in ImageLoader(images, transform, batch_size=1):
        for _, error in batch.errors:
            raise error
        yield {PIXELS: batch.array}
