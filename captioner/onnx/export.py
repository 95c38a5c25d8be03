"""Export of a captioner to ONNX, with a comparison of its captions to the model's."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from captioner import store
from captioner.data.annotations import read_captions
from captioner.data.examples import example_images
from captioner.data.images import ImageSource
from captioner.errors import CaptionerError, first_line
from captioner.machine.interrupts import interruptible
from captioner.machine.packages import install
from captioner.model import CaptionModel
from captioner.model.checkpoint import load_model
from captioner.onnx.agreement import Agreement, compare
from captioner.onnx.engine import OnnxEngine
from captioner.onnx.quantise import quantise
from captioner.onnx.trace import TracedModel, quiet

TOLERANCE = 1e-3  # of features relative to their norm, and of log-probabilities in nats
TOLERANCE_INT8 = 0.5  # of the features of graphs in eight bits


def require_exporter() -> None:
    """Refuse to export without the packages that this takes.

    Raises:
        CaptionerError: one of them is not installed.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        try:
            import_module(package)
        except ImportError as error:
            raise CaptionerError(
                f"an export needs {package}, which cannot be imported ({first_line(error)}); run: {install(package)}"
            ) from None


def training_images(data: str | Path, most: int = 200) -> list[Path]:
    """Return images to calibrate on: some of a data set's training split, the same each time.

    Raises:
        AnnotationError: the data cannot be read, or has no training split.
    """
    images = [image.path for image in read_captions(data).split("train").images]
    return random.Random(0).sample(images, min(most, len(images)))


def export(
    model: CaptionModel,
    folder: str | Path,
    *,
    source: str = "",
    about: Mapping[str, Any] | None = None,
    images: Sequence[ImageSource] | None = None,
    calibrate: Sequence[ImageSource] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Agreement:
    """Write a captioner's graphs to a folder that ``Captioner.from_pretrained`` reads, completely or not at all.

    The graphs are compared with the model before the folder appears. In eight bits they only approximate the model:
    :class:`Agreement` counts the captions that changed, and ``captioner evaluate`` measures the loss in the scores.

    Args:
        model: one whose encoder is a grid; it is left as it is.
        folder: its path; an exported captioner that is there is replaced.
        source: the model's name, for the card.
        about: the model's training, from ``about`` in its config.
        images: images to compare on; by default :func:`example_images`.
        calibrate: some hundred training images, for an export in eight bits; see
            :mod:`captioner.onnx.quantise`. ``None`` exports float32.
        progress: called with (done, total).

    Raises:
        CaptionerError: the model's encoder is not a grid, a package is missing, a graph would be larger than ONNX's
            2 GB, or the graphs differ from the model by more than :data:`TOLERANCE`, in eight bits by more than
            :data:`TOLERANCE_INT8`.
        CheckpointError: ``folder`` exists and is not an exported captioner.
        ImageError: an image cannot be read.
    """
    require_exporter()
    traced = TracedModel.of(model, source)
    config: dict[str, Any] = {
        "model": model.config.model_dump(mode="json"),
        "source": source,
        "torch": torch.__version__,
        "about": dict(about or {}),
    }
    with store.replace(folder, store.ONNX, config) as temporary:
        model.vocabulary.save(temporary / store.VOCABULARY)
        if model.consensus is not None:
            model.consensus.save(temporary / store.CONSENSUS)
        agreement = _write(traced, temporary, store.ONNX, config, images, calibrate, progress)
        store.write_card(temporary, store.ONNX, config, folder)
    return agreement


def add_graphs(
    folder: Path,
    *,
    calibrate: Sequence[ImageSource] | None,
    images: Sequence[ImageSource] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Agreement:
    """Write the graphs of a captioner into its own folder; ``Captioner.from_pretrained`` then runs them on a CPU.

    Args:
        folder: of the captioner; graphs that are there are replaced.
        calibrate: for graphs in eight bits, some hundred training images; see :func:`export`.
        images: images to compare on; by default :func:`example_images`.
        progress: called with (done, total).

    Raises:
        CaptionerError, ImageError: see :func:`export`; the folder is left as it was.
    """
    config = store.read_whole(folder)
    require_exporter()
    traced = TracedModel.of(load_model(folder), str(folder))
    with store.replace(folder, store.CAPTIONER, config) as temporary:
        card = [store.CARD] if (folder / store.CARD).is_file() else []
        for file in (*store.parts_of(store.CAPTIONER, config, graphs=False), *card):
            shutil.copyfile(folder / file, temporary / file)
        return _write(traced, temporary, store.CAPTIONER, config, images, calibrate, progress)


def _refuse(agreement: Agreement, source: str, worst: float, tolerance: float) -> None:
    """Refuse an export that is not its model.

    Raises:
        CaptionerError: it differs by more than the tolerance.
    """
    if not worst <= tolerance:  # NaN is refused too
        raise CaptionerError(
            f"{source or 'this model'}: its export differs from it on {agreement.photos} images: features by "
            f"{agreement.features:.1e} of their norm, log-probabilities by {agreement.log_probabilities:.1e}, of which "
            f"{tolerance:g} is allowed. Nothing was written; try another version of torch, onnxscript or onnxruntime"
        )


def _write(
    model: TracedModel,
    folder: Path,
    kind: str,
    config: dict[str, Any],
    images: Sequence[ImageSource] | None,
    calibrate: Sequence[ImageSource] | None,
    progress: Callable[[int, int], None] | None,
) -> Agreement:
    """Write a model's graphs into a folder of some kind, and describe them in its config; see :func:`export`."""
    images = example_images() if images is None else images
    for done, write in enumerate((model.encoder, model.start, model.step)):
        if progress:
            progress(done, 4)
        write(folder)
    if progress:
        progress(3, 4)

    def compared(*, int8: bool) -> Agreement:
        config["graphs"] = model.described(int8=int8).model_dump(mode="json")
        store.write_config(folder, kind, config)
        return compare(model.model, OnnxEngine.load(folder), images)

    agreement = compared(int8=False)
    worst = max(agreement.features, agreement.log_probabilities, agreement.attention or 0.0)
    _refuse(agreement, model.source, worst, TOLERANCE)
    if calibrate is not None:
        with interruptible(), quiet():
            quantise(folder, model.transform, calibrate)
        agreement = compared(int8=True)
        _refuse(agreement, model.source, agreement.features, TOLERANCE_INT8)
    config["agreement"] = asdict(agreement)
    return agreement
