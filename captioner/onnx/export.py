"""Export of a captioner to ONNX, with a comparison of its captions to the model's.

Tensor letters: B images, W hypotheses per image, N cells, D features, S side of the transformed image in pixels.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import random
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from captioner import files, store
from captioner.data.annotations import read_captions
from captioner.data.examples import example_images
from captioner.data.images import ImageSource
from captioner.decoders import Decoder, State, Transformer
from captioner.encoders.grid import GridEncoder
from captioner.errors import CaptionerError, FileError, first_line
from captioner.machine.interrupts import interruptible
from captioner.machine.packages import install
from captioner.memory import Memory
from captioner.model import CaptionModel
from captioner.model.checkpoint import load_model
from captioner.onnx.agreement import Agreement, compare
from captioner.onnx.engine import OnnxEngine
from captioner.onnx.folder import (
    ATTENTION,
    ENCODER,
    FEATURES,
    LOG_PROBABILITIES,
    NEXT,
    PIXELS,
    START,
    STATE,
    STEP,
    TOKENS,
    Graphs,
)
from captioner.onnx.quantise import quantise
from captioner.onnx.stem import WideStem

OPSET = 18
TOLERANCE = 1e-3  # of features relative to their norm, and of log-probabilities in nats
TOLERANCE_INT8 = 0.5  # of the features of graphs in eight bits
_MOST_BYTES = 2**31 - 2**20  # of a graph, which is one protobuf message


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
    graphs = _Graphs.of(model, source)
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
        agreement = graphs.write(temporary, store.ONNX, config, images, calibrate, progress)
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
    graphs = _Graphs.of(load_model(folder), str(folder))
    with store.replace(folder, store.CAPTIONER, config) as temporary:
        card = [store.CARD] if (folder / store.CARD).is_file() else []
        for file in (*store.parts_of(store.CAPTIONER, config, graphs=False), *card):
            shutil.copyfile(folder / file, temporary / file)
        return graphs.write(temporary, store.CAPTIONER, config, images, calibrate, progress)


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


class _Graphs:
    """The three graphs of a model, traced on two images of noise.

    Args:
        model: on the CPU, in float32.
        source: its name, for errors.
    """

    @classmethod
    def of(cls, model: CaptionModel, source: str) -> _Graphs:
        """Prepare the graphs of a model, which is left as it is; see :func:`export` for the errors."""
        require_exporter()
        if not isinstance(model.encoder, GridEncoder):
            raise CaptionerError(
                f"{source or 'this model'}: its encoder {model.config.encoder['name']!r} cannot be exported, only a "
                "grid; take a model on a grid, such as show_attend_tell, show_tell or transformer"
            )
        model = copy.deepcopy(model).cpu().float().eval()
        for name, part in (
            ("encoder", model.encoder),
            ("decoder", nn.ModuleList([model.refiner, model.decoder])),
        ):
            if sum(tensor.nbytes for tensor in part.state_dict().values()) > _MOST_BYTES:
                raise CaptionerError(
                    f"{source or 'this model'}: its {name} is larger than the 2 GB that a graph can hold"
                )
        return cls(model, source)

    def __init__(self, model: CaptionModel, source: str) -> None:
        self.model, self.transform, self.source = model, model.encoder.transform, source
        assert isinstance(model.encoder, GridEncoder) and model.encoder.grid is not None
        self._encoder, self.grid = model.encoder, model.encoder.grid
        random = torch.Generator().manual_seed(0)
        channels, *sides = self.transform.shape
        self.pixels = torch.randint(0, 256, (2, *sides, channels), generator=random, dtype=torch.uint8)
        with torch.no_grad():
            self.features = model.encoder(self.pixels.permute(0, 3, 1, 2)).vectors
            start = _Start(model, self.grid)
            state = start.state(self.features)
            # The caches of words grow from step to step, so those sizes are free.
            self.tokens = torch.full((2, 3), 4)
            before = model.decoder.step(self.tokens, state.pick(torch.zeros(2, 3, dtype=torch.long))).state
            step = model.decoder.step(self.tokens, before)
        self.state, self.attends = step.state, step.attention is not None
        self.hypotheses, self.images = list(step.state.hypotheses), list(step.state.images)
        self._start = start
        self._sizes = {
            name: {0: _FREE, 1: _FREE}
            | {
                axis: _FREE
                for axis, sizes in enumerate(zip(tensor.shape, before.hypotheses[name].shape, strict=True))
                if sizes[0] != sizes[1]
            }
            for name, tensor in step.state.hypotheses.items()
        }

    def write(
        self,
        folder: Path,
        kind: str,
        config: dict[str, Any],
        images: Sequence[ImageSource] | None,
        calibrate: Sequence[ImageSource] | None,
        progress: Callable[[int, int], None] | None,
    ) -> Agreement:
        """Write the graphs into a folder of some kind, and describe them in its config; see :func:`export`."""
        images = example_images() if images is None else images
        for done, write in enumerate((self.encoder, self.start, self.step)):
            if progress:
                progress(done, 4)
            write(folder)
        if progress:
            progress(3, 4)
        agreement = self._checked(folder, kind, config, images)
        worst = max(agreement.features, agreement.log_probabilities, agreement.attention or 0.0)
        _refuse(agreement, self.source, worst, TOLERANCE)
        if calibrate is not None:
            with interruptible(), _quiet():
                quantise(folder, self.transform, calibrate)
            agreement = self._checked(folder, kind, config, images, int8=True)
            _refuse(agreement, self.source, agreement.features, TOLERANCE_INT8)
        config["agreement"] = asdict(agreement)
        return agreement

    def _checked(
        self, folder: Path, kind: str, config: dict[str, Any], images: Sequence[ImageSource], *, int8: bool = False
    ) -> Agreement:
        """Describe the graphs that were written to a folder in its config, and compare them with the model."""
        described = Graphs(
            transform=self.transform,
            grid=self.grid,
            search=self.model.config.search,
            most_words=_most_words(self.model.decoder),
            attends=self.attends,
            hypotheses=self.hypotheses,
            images=self.images,
            int8=int8,
            opset=OPSET,
        )
        config["graphs"] = described.model_dump(mode="json")
        store.write_config(folder, kind, config)
        return compare(self.model, OnnxEngine.load(folder), images)

    def encoder(self, folder: Path) -> None:
        """Write the graph from pixels (B, S, S, 3) uint8 to features (B, N, D)."""
        _write(
            folder / ENCODER,
            _Encoder(self._encoder),
            (self.pixels,),
            sizes=({0: _FREE},),
            inputs=[PIXELS],
            outputs=[FEATURES],
        )

    def start(self, folder: Path) -> None:
        """Write the graph from features to the state of one hypothesis per image."""
        _write(
            folder / START,
            self._start,
            (self.features,),
            sizes=({0: _FREE},),
            inputs=[FEATURES],
            outputs=[STATE + name for name in (*self.hypotheses, *self.images)],
        )

    def step(self, folder: Path) -> None:
        """Write the graph from words (B, W) and a state to log-probabilities, attention and the next state."""
        tensors = (*self.state.hypotheses.values(), *self.state.images.values())
        sizes = (*self._sizes.values(), *({0: _FREE} for _ in self.images))
        _write(
            folder / STEP,
            _Step(self.model.decoder, self.hypotheses, self.images),
            (self.tokens, *tensors),
            sizes=({0: _FREE, 1: _FREE}, sizes),
            inputs=[TOKENS, *(STATE + name for name in (*self.hypotheses, *self.images))],
            outputs=[
                LOG_PROBABILITIES,
                *([ATTENTION] if self.attends else []),
                *(NEXT + name for name in self.hypotheses),
            ],
        )


_FREE = torch.export.Dim.DYNAMIC


def _most_words(decoder: nn.Module) -> int | None:
    """Return the limit of learned positions, which a graph, unlike the decoder, would pass without an error."""
    return len(decoder.positions) if isinstance(decoder, Transformer) and decoder.positions is not None else None


class _Encoder(nn.Module):
    """From pixels (B, S, S, 3) uint8, as they are in memory, to features (B, N, D)."""

    def __init__(self, encoder: GridEncoder) -> None:
        super().__init__()
        self.encoder, self.stem = encoder, WideStem.of(encoder)

    def forward(self, pixels: Tensor) -> Tensor:
        if self.stem is None:
            return self.encoder(pixels.permute(0, 3, 1, 2)).vectors
        half = pixels.shape[1] // 2
        return self.encoder.finish(Memory.of_grid(self.stem(pixels), (half, half)), self.encoder.stages - 1).vectors


class _Start(nn.Module):
    def __init__(self, model: CaptionModel, grid: tuple[int, int]) -> None:
        super().__init__()
        self.refiner, self.decoder, self.grid = model.refiner, model.decoder, grid

    def state(self, features: Tensor) -> State:
        return self.decoder.start(self.refiner(Memory.of_grid(features, self.grid)))

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        state = self.state(features)
        return (*state.hypotheses.values(), *state.images.values())


class _Step(nn.Module):
    def __init__(self, decoder: Decoder, hypotheses: Sequence[str], images: Sequence[str]) -> None:
        super().__init__()
        self.decoder, self.hypotheses, self.images = decoder, hypotheses, images

    def forward(self, tokens: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        split = len(self.hypotheses)
        state = State(
            dict(zip(self.hypotheses, tensors[:split], strict=True)),
            dict(zip(self.images, tensors[split:], strict=True)),
        )
        logits, attention, after = self.decoder.step(tokens, state)
        kept = () if attention is None else (attention,)
        return (torch.log_softmax(logits, dim=-1), *kept, *(after.hypotheses[name] for name in self.hypotheses))


def _write(
    path: Path,
    module: nn.Module,
    arguments: tuple[Tensor, ...],
    *,
    sizes: tuple[Any, ...],
    inputs: list[str],
    outputs: list[str],
) -> None:
    """Trace a module and write its graph, weights inside.

    Raises:
        CaptionerError: torch cannot export it, or the disk is full.
    """
    try:
        with interruptible(), files.writing(path), _quiet(), torch.no_grad():
            torch.onnx.export(
                module.eval(),
                arguments,
                path,
                input_names=inputs,
                output_names=outputs,
                opset_version=OPSET,
                dynamic_shapes=sizes,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except FileError:
        raise
    except Exception as error:  # torch's exporter has many kinds of errors
        raise CaptionerError(
            f"{path.name}: torch {torch.__version__} cannot export this part ({first_line(error)}); try another version"
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the output, logs and warnings of exporting and quantising."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
