"""The three graphs of a captioner, traced by torch.

Tensor letters: B images, W hypotheses per image, N cells, D features, S side of the transformed image in pixels.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from captioner import files
from captioner.decoders import Decoder, State, Transformer
from captioner.encoders.grid import GridEncoder
from captioner.errors import CaptionerError, FileError, first_line
from captioner.machine.interrupts import interruptible
from captioner.memory import Memory
from captioner.model import CaptionModel
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
from captioner.onnx.stem import WideStem

OPSET = 18
_MAX_BYTES = 2**31 - 2**20  # of a graph, which is one protobuf message
_FREE = torch.export.Dim.DYNAMIC


class TracedModel:
    """A model prepared for export; two images of noise serve to trace its graphs.

    Args:
        model: on the CPU, in float32.
        source: its name, for errors.
    """

    @classmethod
    def of(cls, model: CaptionModel, source: str) -> TracedModel:
        """Prepare the graphs of a model, which is left as it is.

        Raises:
            CaptionerError: the model's encoder is not a grid, or a graph would be larger than ONNX's 2 GB.
        """
        if type(model.encoder) is not GridEncoder:  # a subclass may make its memory in another way
            raise CaptionerError(
                f"{source or 'this model'}: its encoder {model.config.encoder['name']!r} cannot be exported, only a "
                "grid; take a model on a grid, such as show_attend_tell, show_tell or transformer"
            )
        model = copy.deepcopy(model).cpu().float().eval()
        for name, part in (
            ("encoder", model.encoder),
            ("decoder", nn.ModuleList([model.refiner, model.decoder])),
        ):
            if sum(tensor.nbytes for tensor in part.state_dict().values()) > _MAX_BYTES:
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
        self.attends = step.attention is not None
        self.hypotheses, self.images = list(state.hypotheses), list(state.images)  # in the order of _Start
        self.state = State({name: step.state.hypotheses[name] for name in self.hypotheses}, state.images)
        self._start = start
        self._sizes = {
            name: {0: _FREE, 1: _FREE}
            | {
                axis: _FREE
                for axis, sizes in enumerate(zip(tensor.shape, before.hypotheses[name].shape, strict=True))
                if sizes[0] != sizes[1]
            }
            for name, tensor in self.state.hypotheses.items()
        }

    def described(self, *, int8: bool) -> Graphs:
        """Return the description of the graphs, in float32 or in eight bits."""
        return Graphs(
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
        with interruptible(), files.writing(path), quiet(), torch.no_grad():
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
def quiet() -> Iterator[None]:
    """Silence the output, logs and warnings of exporting and quantising."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
