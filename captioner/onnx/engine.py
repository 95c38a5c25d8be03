"""Exported captioners on onnxruntime, without torch.

Letters in shapes: B images, W hypotheses per image, N cells, D features, S side of the transformed image in pixels.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property, partial
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from captioner import store
from captioner.caption import MEAN, Array, Caption
from captioner.data.loader import ImageBatch
from captioner.engines.engine import Engine, best_of, captions_of, spread
from captioner.engines.load import load_in_torch
from captioner.errors import CaptionerError, CheckpointError, ConfigError, first_line
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
    Graphs,
)
from captioner.search.config import SearchConfig
from captioner.search.consensus import Consensus, ConsensusPrediction, search_with_consensus
from captioner.text.vocabulary import Vocabulary

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

T = TypeVar("T")
_MAX_BATCH = 16  # images of a thread's batch, which are encoded one after the other
_ROWS = 32  # hypotheses that a step reads together: with more, attention outgrows the processor's cache


class OnnxEngine(Engine):
    """Runs an exported model.

    Args:
        graphs: the graphs' description in its config.
        vocabulary: its words.
        folder: with the graphs.
        consensus: chooses among the hypotheses of a search, if the model has one.
        weights: the folder has the model's weights too.
        threads: number of threads; ``None`` for one a core.

    Raises:
        CheckpointError: a graph is damaged or the consensus is another model's, or onnxruntime is not installed or too
            old for the graphs.
    """

    def __init__(
        self,
        graphs: Graphs,
        vocabulary: Vocabulary,
        folder: Path,
        *,
        consensus: Consensus | None = None,
        weights: bool = False,
        threads: int | None = None,
    ) -> None:
        self._folder, self._weights, self._threads = folder, weights, threads or _cores()
        self.graphs, self.vocabulary, self.search, self.consensus = graphs, vocabulary, graphs.search, consensus
        self.transform, self.attends, self.most_words = graphs.transform, graphs.attends, graphs.most_words
        state = [STATE + name for name in (*graphs.hypotheses, *graphs.images)]
        attention = [ATTENTION] if graphs.attends else []
        after = [NEXT + name for name in graphs.hypotheses]
        self._encoder = _Graph(folder / ENCODER, threads or 0, [PIXELS], [FEATURES])
        if self._encoder.features != graphs.transform.shape[0]:
            raise CheckpointError(
                f"{self._encoder.path}: reads pixels channel by channel, as earlier versions did; export the "
                "model again"
            )
        self._start = _Graph(folder / START, threads or 0, [FEATURES], state)
        if consensus is not None and len(consensus.centre) != self._start.features:
            raise CheckpointError(
                f"{folder / store.CONSENSUS}: is of a model with {len(consensus.centre)} features, and this one has "
                f"{self._start.features}; {store.COPY}"
            )
        self._step = _Graph(folder / STEP, threads or 0, [TOKENS, *state], [LOG_PROBABILITIES, *attention, *after])
        self.grid, self._cells = graphs.grid, graphs.grid[0] * graphs.grid[1]

    @classmethod
    def load(cls, folder: Path, *, device: str = "auto", threads: int | None = None) -> OnnxEngine:
        """Load the graphs of an exported folder, or of a model's.

        Args:
            folder: of the graphs.
            device: ``cpu`` or ``auto``.
            threads: number of threads; ``None`` for one a core.

        Raises:
            CheckpointError: the folder is damaged, or onnxruntime is not installed or too old for its graphs.
            ConfigError: the device is neither ``cpu`` nor ``auto``.
        """
        config, graphs = exported.read(folder)
        weights = store.kind_in(config) == store.CAPTIONER
        if device not in ("auto", "cpu"):
            other = "the engine torch" if weights else "the model that it was exported from"
            raise ConfigError(
                f"device {device!r}: onnxruntime runs captioners on the CPU; give cpu or auto, or {other}"
            )
        return cls(
            graphs,
            Vocabulary.load(folder / store.VOCABULARY),
            folder,
            consensus=Consensus.of(folder, config),
            weights=weights,
            threads=threads,
        )

    def for_attention(self, attention: str) -> Engine:
        """Return this engine for the mean, and for other kinds of attention that of the model's weights.

        Raises:
            CaptionerError: the model does not have this kind, or its weights are not there.
        """
        if attention == MEAN:
            return self
        model = self.in_torch()
        if model is None:
            raise CaptionerError(
                f"attention: {attention!r} needs the model itself, and this is an exported captioner, which has only "
                "the mean; give the model that it was exported from"
            )
        return model.for_attention(attention)

    def in_torch(self) -> Engine | None:
        return self._model

    @cached_property
    def _model(self) -> Engine | None:
        return load_in_torch({self._folder.name: self._folder}, device="cpu") if self._weights else None

    def encode(self, pixels: Array) -> Array:
        """Encode pixels (B, 3, S, S) uint8 to features (B, N, D) float32.

        One image after the other: the maps of one stay in the processor's cache.
        """
        images = np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))
        rows = (images[row : row + 1] for row in range(len(images)))
        return np.concatenate([self._encoder({PIXELS: row}, {FEATURES: (1, self._cells)})[FEATURES] for row in rows])

    def encoded_at_once(self, batch_size: int) -> int:
        """The share of one core."""
        return min(_MAX_BATCH, -(-batch_size // self._threads))

    def start(self, features: Array) -> State:
        b = len(features)
        shapes: dict[str, tuple[int, ...]] = {STATE + name: (b,) for name in self.graphs.images}
        shapes |= {STATE + name: (b, 1) for name in self.graphs.hypotheses}
        out = self._start({FEATURES: features}, shapes)
        return State(
            {name: out[STATE + name] for name in self.graphs.hypotheses},
            {name: out[STATE + name] for name in self.graphs.images},
        )

    def step(self, tokens: Array, state: State) -> Step:
        shapes = {LOG_PROBABILITIES: (*tokens.shape, len(self.vocabulary)), ATTENTION: (*tokens.shape, self._cells)}
        out = self._step(step_inputs(tokens, state), shapes)
        if np.isnan(out[LOG_PROBABILITIES].max()):
            raise CheckpointError(f"{self._step.path}: gives numbers that are not finite; export the model again")
        after = State({name: out[NEXT + name] for name in self.graphs.hypotheses}, state.images)
        return Step(out[LOG_PROBABILITIES], out.get(ATTENTION), after)

    def caption(
        self, batches: Iterable[ImageBatch], search: SearchConfig, *, together: int = 1, attention: str = MEAN
    ) -> Iterator[tuple[list[ImageBatch], list[Caption]]]:
        """Caption loaded images; see :meth:`_side_by_side`."""
        for batch, captions in self._side_by_side(batches, lambda pixels: self.caption_pixels(pixels, search)):
            yield [batch], captions or []

    def features(self, batches: Iterable[ImageBatch]) -> Iterator[tuple[ImageBatch, Array]]:
        none = np.empty((0, self._cells, self._start.features), np.float32)
        for batch, features in self._side_by_side(batches, self.encode):
            yield batch, none if features is None else features

    def log_likelihoods(self, features: Array, caption: Sequence[int]) -> Array:
        found = []
        for first in range(0, len(features), _MAX_BATCH):
            cells = features[first : first + _MAX_BATCH]
            state = self.start(cells if cells.shape[1] == self._cells else spread(cells, self.graphs.grid))
            total = np.zeros(len(cells), np.float32)
            for word, following in pairwise(caption):
                step = self.step(np.full((len(cells), 1), word), state)
                total += step.log_probabilities[:, 0, following]
                state = step.state
            found.append(total)
        return np.concatenate(found)

    def _side_by_side(
        self, batches: Iterable[ImageBatch], run: Callable[[Array], T]
    ) -> Iterator[tuple[ImageBatch, T | None]]:
        """Yield each batch with what ``run`` makes of its pixels; ``None`` for a batch without images.

        Each batch runs in one of as many threads as there are cores, ahead of the caller. onnxruntime and Pillow
        release Python's global lock, so loading, encoding and searching run side by side. A single batch runs in the
        caller's thread, with onnxruntime's own threads.
        """

        def run_batch(batch: ImageBatch) -> T | None:
            return run(batch.array) if len(batch) else None

        incoming, cores = iter(batches), self._threads
        first = list(islice(incoming, 2))
        if cores == 1 or len(first) < 2:
            for batch in chain(first, incoming):
                yield batch, run_batch(batch)
            return
        incoming = chain(first, incoming)
        pending: deque[tuple[ImageBatch, Future[T | None]]] = deque()
        pool = ThreadPoolExecutor(cores, thread_name_prefix="captioner-engine")
        try:
            while True:
                pending.extend(
                    (batch, pool.submit(run_batch, batch)) for batch in islice(incoming, 2 * cores - len(pending))
                )
                if not pending:
                    return
                batch, result = pending.popleft()
                yield batch, result.result()
        finally:  # also when the caller stops early
            pool.shutdown(wait=True, cancel_futures=True)

    def caption_pixels(self, pixels: Array, search: SearchConfig) -> list[Caption]:
        """Caption images whose pixels are (B, 3, S, S) uint8, as :attr:`transform` gives them."""
        return self.caption_features(self.encode(pixels), search)

    def caption_features(self, features: Array, search: SearchConfig) -> list[Caption]:
        """Caption images from their features (B, N, D), which :meth:`encode` returns."""
        captions, together = [], max(1, _ROWS // search.width)
        for first in range(0, len(features), together):
            part = features[first : first + together]
            predictions = []
            if self.consensus is not None:
                predictions.append(ConsensusPrediction(self.consensus, self.consensus.codes(part.mean(1))))
            found = search_with_consensus(partial(beam, self, self.start(part), len(part)), search, predictions)
            captions += [best_of(captions_of(each, self.vocabulary, grid=self.graphs.grid)) for each in found]
        return captions


def step_inputs(tokens: Array, state: State) -> dict[str, Array]:
    """Return the inputs of the step's graph, by name."""
    arrays = (*state.hypotheses.items(), *state.images.items())
    return {TOKENS: tokens, **{STATE + name: array for name, array in arrays}}


def _cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Graph:
    """A callable graph; refused where it contradicts the config.

    Args:
        path: its file.
        threads: number of threads that run one call; 0 for a choice of onnxruntime's.
        inputs: the names of its inputs.
        outputs: the names of its outputs.

    Raises:
        CheckpointError: it has others, or onnxruntime is not installed or cannot load it.
    """

    def __init__(self, path: Path, threads: int, inputs: list[str], outputs: list[str]) -> None:
        self.path, self.outputs, self._session = path, outputs, _session(path, threads)
        self.features = self._session.get_inputs()[0].shape[-1]
        for what, named, there in (
            ("inputs", inputs, self._session.get_inputs()),
            ("outputs", outputs, self._session.get_outputs()),
        ):
            found = [each.name for each in there]
            if sorted(found) != sorted(named):
                raise CheckpointError(
                    f"{path}: its {what} are {', '.join(found)[:200]} and not {', '.join(named)[:200]}, so it is not "
                    f"this graph or not of this model; {store.COPY}"
                )

    def __call__(self, inputs: Mapping[str, Array], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Array]:
        """Return its outputs by name; ``shapes`` has the first sizes of some.

        Raises:
            CheckpointError: it cannot be run on these inputs, or gives other shapes.
        """
        try:
            found = dict(zip(self.outputs, self._session.run(self.outputs, dict(inputs)), strict=True))
        except Exception as error:  # onnxruntime has one family of errors for each of its codes
            raise CheckpointError(
                f"{self.path}: cannot be run ({first_line(error)[:300]}), so it is not of this model; {store.COPY}"
            ) from None
        for name, array in found.items():
            shape = shapes.get(name, ())
            if array.shape[: len(shape)] != shape:
                raise CheckpointError(
                    f"{self.path}: {name} has the shape {array.shape}, and it should begin with {shape}, so it is not "
                    f"of this model; {store.COPY}"
                )
        return found


def _session(path: Path, threads: int) -> InferenceSession:
    try:
        import onnxruntime
    except ImportError as error:
        raise CheckpointError(
            f"{path.parent}: is run by onnxruntime, which cannot be imported ({first_line(error)}); run: "
            "pip install onnxruntime"
        ) from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    options.intra_op_num_threads = threads
    # Spinning threads would take cores from the threads that load the next images.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        # Without the fallback, whose failures it prints among the results.
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"], enable_fallback=0)
        _ = [each.name for each in (*session.get_inputs(), *session.get_outputs())]  # which may be no text
        return session
    except Exception as error:  # onnxruntime has one family of errors for each of its codes
        raise CheckpointError(
            f"{path}: onnxruntime {onnxruntime.__version__} cannot load it ({first_line(error)}); upgrade onnxruntime, "
            "or export the model again"
        ) from None
