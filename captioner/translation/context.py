"""Translating lines with previous lines as context, by segment recurrence (Transformer-XL, Dai et al. 2019).

Blocks with relative positions attend to previous lines: the refiner's blocks to their sources, the decoder's blocks to
their translations. Cross-attention is limited to the current line. See :mod:`captioner.layers.segments`.

Tensor letters: B lines, S pieces of the longest source, T pieces of the longest translation, N previous lines.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from captioner.decoders import Decoder, DecoderOutput, State, Step, TransformerXL
from captioner.encoders import Refiner, TransformerRefiner
from captioner.errors import ConfigError
from captioner.layers.segments import BatchContext, StoredContext
from captioner.memory import Memory
from captioner.search.config import Hypothesis, SearchConfig
from captioner.search.search import search as find
from captioner.text.vocabulary import BOS, PAD
from captioner.translation.pairs import collate


def readers_of_context(refiner: Refiner, decoder: Decoder) -> tuple[TransformerRefiner | None, TransformerXL | None]:
    """Return the parts of a translation model that can attend to previous lines.

    Returns:
        The refiner, which attends to their sources, and the decoder, which attends to their translations; ``None`` for
        a part that cannot.

    Raises:
        ConfigError: neither can.
    """
    found = (
        refiner if isinstance(refiner, TransformerRefiner) and refiner.reads_context else None,
        decoder if isinstance(decoder, TransformerXL) else None,
    )
    if found == (None, None):
        raise ConfigError(
            "context: this model cannot read previous lines, since its blocks have no relative positions; "
            "leave the context out, or train a model with refiner: {relative: true, axes: 1, order: false} or "
            "decoder: {name: transformer_xl}, as the recipe multi30k_transformer_xl does"
        )
    return found


class RefinerInContext(Refiner):
    """A refiner of consecutive lines, for training with context.

    A block computes all lines at once; see :class:`captioner.layers.segments.BatchContext`.

    Args:
        refiner: of a translation model.
        previous: (B, N) the previous lines of each line; see :func:`captioner.layers.segments.previous_lines`.
    """

    def __init__(self, refiner: Refiner, previous: Tensor) -> None:
        super().__init__()
        self.refiner, self.previous, self.features = refiner, previous, refiner.features

    def forward(self, memory: Memory) -> Memory:
        """Refine the sources, each with the previous ones as context if the refiner can attend to it."""
        assert memory.mask is not None  # texts always have a mask
        refined: Memory
        if isinstance(self.refiner, TransformerRefiner) and self.refiner.reads_context:
            refined = self.refiner(memory, BatchContext.of(self.previous, memory.mask.sum(1)))
        else:
            refined = self.refiner(memory)
        return refined


class DecoderInContext(Decoder):
    """A decoder of consecutive lines, for training with context; see :class:`RefinerInContext`.

    Args:
        decoder: of a translation model.
        previous: (B, N) the previous lines of each line.
    """

    def __init__(self, decoder: Decoder, previous: Tensor) -> None:
        torch.nn.Module.__init__(self)
        self.decoder, self.previous = decoder, previous
        self.attends = decoder.attends  # type: ignore[misc]

    def forward(self, memory: Memory, tokens: Tensor) -> DecoderOutput:
        """Score whole translations (B, 1, T), each with the previous ones as context if the decoder has it."""
        output: DecoderOutput
        if isinstance(self.decoder, TransformerXL):
            lengths = (tokens != PAD).squeeze(1).sum(1)
            output = self.decoder(memory, tokens, BatchContext.of(self.previous, lengths))
        else:
            output = self.decoder(memory, tokens)
        return output

    def start(self, memory: Memory) -> State:
        """Refuse: only :class:`ContextReader` has the translations of previous lines."""
        raise NotImplementedError

    def step(self, tokens: Tensor, state: State) -> Step:
        return self.decoder.step(tokens, state)


class _ContinuingDecoder(Decoder):
    """A decoder whose hypotheses continue previous translations."""

    def __init__(self, decoder: TransformerXL, past: StoredContext | None) -> None:
        torch.nn.Module.__init__(self)
        self.decoder, self.past, self.attends = decoder, past, decoder.attends  # type: ignore[misc]

    def start(self, memory: Memory) -> State:
        return self.decoder.start(memory, self.past)

    def step(self, tokens: Tensor, state: State) -> Step:
        return self.decoder.step(tokens, state)

    def forward(self, memory: Memory, tokens: Tensor) -> DecoderOutput:
        return self.decoder(memory, tokens, self.past)


class _TextStates:
    """The states of the refiner (source) and of the decoder (target) for the last lines of a text."""

    def __init__(self, lines: int) -> None:
        self.source: deque[Tensor] = deque(maxlen=lines)
        self.target: deque[Tensor] = deque(maxlen=lines)


class ContextReader:
    """Translates texts line by line, each with its previous lines as context.

    Only the states of the last N lines are kept, so memory is constant. The lines of a text are translated in order,
    since a translation is context for the next; the texts of a call are translated in parallel.

    Args:
        encode: from tokens (B, S) to a memory.
        refiner: of the model, or its packed copy.
        decoder: likewise.
        search: settings of the search.
        context: N, at least 1: the number of previous lines that a line attends to.

    Raises:
        ConfigError: the model cannot read context.
    """

    def __init__(
        self,
        encode: Callable[[Tensor], Memory],
        refiner: Refiner,
        decoder: Decoder,
        search: SearchConfig,
        *,
        context: int,
    ) -> None:
        self.encode, self.refiner, self.decoder = encode, refiner, decoder
        self.search, self.context = search, context
        self._refiner, self._writer = readers_of_context(refiner, decoder)
        self._text = _TextStates(context)  # the text of the last line

    def __call__(self, lines: Sequence[list[int] | None]) -> list[list[Hypothesis] | None]:
        """Translate lines that continue those of the last call.

        Args:
            lines: each as the encoder reads it; ``None`` ends a text.

        Returns:
            The translations of each line, best first, and ``None`` for ``None``.
        """
        found: list[list[Hypothesis] | None] = [None] * len(lines)
        texts: list[tuple[_TextStates, list[int]]] = [(self._text, [])]
        for number, line in enumerate(lines):
            if line is None:
                texts.append((_TextStates(self.context), []))
            else:
                texts[-1][1].append(number)
        for turn in range(max(len(numbers) for _, numbers in texts)):
            current = [(text, numbers[turn]) for text, numbers in texts if turn < len(numbers)]
            sources = [lines[number] or [] for _, number in current]
            translations = self._lines([text for text, _ in current], sources)
            for (_, number), hypotheses in zip(current, translations, strict=True):
                found[number] = hypotheses
        self._text = texts[-1][0]
        return found

    @torch.inference_mode()
    def _lines(self, texts: list[_TextStates], sources: list[list[int]]) -> list[list[Hypothesis]]:
        """Translate the next line of each text."""
        device = next(self.decoder.parameters()).device
        memory = self.encode(collate(sources).to(device))
        if self._refiner is None:
            memory = self.refiner(memory)
        else:
            memory, read = self._refiner.states(memory, StoredContext.of([text.source for text in texts]))
            _append_states([text.source for text in texts], read, [len(source) for source in sources])
        if self._writer is None:
            return find(self.decoder, memory, self.search)
        past = StoredContext.of([text.target for text in texts])
        found = find(_ContinuingDecoder(self._writer, past), memory, self.search)
        written = [[BOS, *hypotheses[0].words] for hypotheses in found]
        states = self._writer.states(memory, collate(written).to(device), past)
        _append_states([text.target for text in texts], states, [len(words) for words in written])
        return found


def _append_states(kept: list[deque[Tensor]], states: Tensor, lengths: list[int]) -> None:
    """Add each line's states (blocks, B, T, S), without padding, to those of its text."""
    for number, (lines, length) in enumerate(zip(kept, lengths, strict=True)):
        lines.append(states[:, number, :length].clone())
