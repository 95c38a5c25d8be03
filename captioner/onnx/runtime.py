"""Exported captioners on onnxruntime, without torch.

Letters in shapes: B images, W hypotheses per image, N places, D features, S side of the transformed picture in pixels.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from captioner import folders
from captioner.assets import ONNX
from captioner.base import Captioner, caption_of, placed
from captioner.caption import MEAN, Array, Caption
from captioner.data.loader import ImageBatch
from captioner.errors import CaptionerError, CheckpointError, ConfigError, ImageError, first_line
from captioner.onnx import folder as exported
from captioner.onnx.beam import State, Step, beam
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
)
from captioner.text.vocabulary import Vocabulary

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

_AT_ONCE = 8  # pictures that are encoded together
INSTALL = "pip install 'captioner[onnx]'"


class OnnxCaptioner(Captioner):
    """Captions pictures with an exported model.

    Args:
        folder: the exported folder.
        device: ``cpu`` or ``auto``.
        search: settings that differ from the model's own, for example ``width=1``.

    Raises:
        CheckpointError: the folder is damaged, or onnxruntime is not installed or too old for its graphs.
        ConfigError: the device is another, or a setting makes no sense.
    """

    def __init__(self, folder: str | Path, *, device: str = "auto", **search: Any) -> None:
        if device not in ("auto", "cpu"):
            raise ConfigError(
                f"device {device!r}: an exported captioner runs on the CPU; give cpu or auto, or the model that it was "
                "exported from"
            )
        self.folder = Path(folder)
        self.graphs = exported.read(self.folder)
        self.search = self.graphs.search.changed(**search)
        most = self.graphs.most_words
        if most is not None and self.search.max_words > most:
            raise ConfigError(
                f"search: max_words: {self.search.max_words} is more than this model has positions for; "
                f"give {most} or fewer"
            )
        self.about = folders.about(self.folder)
        self.vocabulary = Vocabulary.load(self.folder / folders.VOCABULARY)
        self.transform, self.attends = self.graphs.transform, self.graphs.attends
        state = [STATE + name for name in (*self.graphs.hypotheses, *self.graphs.images)]
        attention = [ATTENTION] if self.attends else []
        after = [NEXT + name for name in self.graphs.hypotheses]
        self._encoder = _Graph(self.folder / ENCODER, [PIXELS], [FEATURES])
        self._start = _Graph(self.folder / START, [FEATURES], state)
        self._step = _Graph(self.folder / STEP, [TOKENS, *state], [LOG_PROBABILITIES, *attention, *after])
        self._places = self.graphs.grid[0] * self.graphs.grid[1]

    def save_pretrained(self, folder: str | Path, *, card: str = "") -> Path:
        """Copy the exported folder; see :meth:`Captioner.save_pretrained`."""
        config = folders.read_whole(self.folder, ONNX)
        with folders.replace(folder, ONNX, config) as copy:
            for name in (*folders.GRAPHS, folders.VOCABULARY):
                shutil.copyfile(self.folder / name, copy / name)
            if not card and (self.folder / folders.CARD).is_file():
                shutil.copyfile(self.folder / folders.CARD, copy / folders.CARD)
            else:
                folders.write_card(copy, ONNX, config, folder, card)
        return Path(folder)

    def check(self, attention: str) -> None:
        """See :meth:`Captioner.check`: there is only the mean."""
        if attention != MEAN:
            raise CaptionerError(
                f"attention: {attention!r} needs the model itself, and this is an exported captioner, which has only "
                "the mean; give the model that it was exported from"
            )

    def encode(self, pixels: Array) -> Array:
        """Encode pixels (B, 3, S, S) uint8 to features (B, N, D) float32, a few pictures at once, as maps are large."""
        chunks = (np.ascontiguousarray(pixels[start : start + _AT_ONCE]) for start in range(0, len(pixels), _AT_ONCE))
        return np.concatenate(
            [self._encoder({PIXELS: chunk}, {FEATURES: (len(chunk), self._places)})[FEATURES] for chunk in chunks]
        )

    def start(self, features: Array) -> State:
        """Prepare one hypothesis per image; see :meth:`captioner.decoders.decoder.Decoder.start`."""
        b = len(features)
        shapes: dict[str, tuple[int, ...]] = {STATE + name: (b,) for name in self.graphs.images}
        shapes |= {STATE + name: (b, 1) for name in self.graphs.hypotheses}
        out = self._start({FEATURES: features}, shapes)
        return State(
            {name: out[STATE + name] for name in self.graphs.hypotheses},
            {name: out[STATE + name] for name in self.graphs.images},
        )

    def step(self, tokens: Array, state: State) -> Step:
        """Read words (B, W) and score the next; see :meth:`captioner.onnx.beam.Stepper.step`."""
        shapes = {LOG_PROBABILITIES: (*tokens.shape, len(self.vocabulary)), ATTENTION: (*tokens.shape, self._places)}
        inputs = {STATE + name: array for name, array in (*state.hypotheses.items(), *state.images.items())}
        out = self._step({TOKENS: tokens, **inputs}, shapes)
        if np.isnan(out[LOG_PROBABILITIES].max()):
            raise CheckpointError(f"{self.folder / STEP}: gives numbers that are not finite; export the model again")
        after = State({name: out[NEXT + name] for name in self.graphs.hypotheses}, state.images)
        return Step(out[LOG_PROBABILITIES], out.get(ATTENTION), after)

    def caption_batches(
        self, batches: Iterable[ImageBatch], together: int, attention: str
    ) -> Iterator[Caption | ImageError]:
        """See :meth:`Captioner.caption_batches`."""
        for batch in batches:
            yield from placed([batch], iter(self.caption_pixels(batch.array) if len(batch) else []))

    def caption_pixels(self, pixels: Array) -> list[Caption]:
        """Caption pictures that :attr:`transform` has made pixels (B, 3, S, S) of, uint8."""
        found = beam(self, self.start(self.encode(pixels)), len(pixels), self.search)
        captions = []
        for hypotheses in found:
            first, *others = (caption_of(each, self.vocabulary, grid=self.graphs.grid) for each in hypotheses)
            first.others.extend(others)
            captions.append(first)
        return captions


class _Graph:
    """A graph that is called, and refused where it is not what the config describes.

    Args:
        path: its file.
        inputs: the names of its inputs.
        outputs: the names of its outputs.

    Raises:
        CheckpointError: it has others, or onnxruntime is not installed or cannot load it.
    """

    def __init__(self, path: Path, inputs: list[str], outputs: list[str]) -> None:
        self.path, self.outputs, self._session = path, outputs, _session(path)
        for what, named, there in (
            ("inputs", inputs, self._session.get_inputs()),
            ("outputs", outputs, self._session.get_outputs()),
        ):
            found = [each.name for each in there]
            if sorted(found) != sorted(named):
                raise CheckpointError(
                    f"{path}: its {what} are {', '.join(found)[:200]} and not {', '.join(named)[:200]}, so it is not "
                    f"this graph or not of this model; {folders.COPY}"
                )

    def __call__(self, inputs: Mapping[str, Array], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Array]:
        """Return its outputs by name, of which some must have shapes that begin with the given ones.

        Raises:
            CheckpointError: it cannot be run on these inputs, or gives other shapes.
        """
        try:
            found = dict(zip(self.outputs, self._session.run(self.outputs, dict(inputs)), strict=True))
        except Exception as error:  # onnxruntime has one family of errors for each of its codes
            raise CheckpointError(
                f"{self.path}: cannot be run ({first_line(error)[:300]}), so it is not of this model; {folders.COPY}"
            ) from None
        for name, array in found.items():
            shape = shapes.get(name, ())
            if array.shape[: len(shape)] != shape:
                raise CheckpointError(
                    f"{self.path}: {name} has the shape {array.shape}, and it should begin with {shape}, so it is not "
                    f"of this model; {folders.COPY}"
                )
        return found


def _session(path: Path) -> InferenceSession:
    try:
        import onnxruntime
    except ImportError as error:
        raise CheckpointError(
            f"{path.parent}: is run by onnxruntime, which cannot be imported ({first_line(error)}); run: "
            "pip install onnxruntime"
        ) from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    # Its threads would wait busily, and the threads that load the next pictures want the cores meanwhile.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has one family of errors for each of its codes
        raise CheckpointError(
            f"{path}: onnxruntime {onnxruntime.__version__} cannot load it ({first_line(error)}); upgrade onnxruntime, "
            "or export the model again"
        ) from None
