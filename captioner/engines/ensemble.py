"""Ensembles: one search with the mean of the distributions of the next word of several models.

Tensor letters: B images, W hypotheses per image, N regions or cells, V words of the vocabulary, S side of a transformed
image.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from captioner.caption import MEAN, Caption
from captioner.data.transform import CombinedTransform
from captioner.decoders import State, Step
from captioner.encoders import Encoder
from captioner.engines.engine import best_of, captions_of
from captioner.engines.model import TorchEngine, Writer, predictions_of, regions_of
from captioner.errors import CaptionerError, CheckpointError, FeatureStoreError
from captioner.features import FeatureStore
from captioner.machine.backend import choose_device
from captioner.memory import Memories, Memory
from captioner.model import CaptionModel
from captioner.search.config import SearchConfig
from captioner.search.consensus import search_with_consensus
from captioner.search.search import search as find
from captioner.text.vocabulary import Vocabulary

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Member:
    """A model of an ensemble, as it searches.

    Attributes:
        writer: its refiner and decoder.
        memory: index of the memory that it attends to.
        numbers: (V,) its own number of each word of the ensemble; ``None`` if they are the same.
        shown: whether its attention is part of the ensemble's.
    """

    writer: Writer
    memory: int
    numbers: Tensor | None
    shown: bool


class Mean:
    """The mean of several decoders' probabilities of the next word.

    It replaces a decoder in the searches, with :class:`Memories` as its memory. Its state holds the tensors
    of all members, with the member's number before their names, which :meth:`State.pick` treats as any others. Its
    logits are the logarithms of the mean probabilities, and its attention is the mean over the members that are shown.

    Probabilities are added, not their logarithms: for three members, 160 hypotheses and 2,890 words that takes 2 ms on
    a core instead of 12 ms. Those below the smallest 32-bit number are replaced by it.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        self.members = members

    def start(self, memory: Memories) -> State:
        """Prepare one hypothesis per image; see :meth:`Decoder.start`."""
        return _joined(
            [member.writer.decoder.start(member.writer.refined(memory.parts[member.memory])) for member in self.members]
        )

    def step(self, tokens: Tensor, state: State) -> Step:
        """Read words (B, W) and score the next; see :meth:`Decoder.step`."""
        mean, attentions, states = torch.zeros((), device=tokens.device), [], []
        for number, member in enumerate(self.members):
            own = tokens if member.numbers is None else member.numbers[tokens]
            logits, attention, after = member.writer.decoder.step(own, _part(state, number))
            if member.numbers is not None:
                logits = logits[..., member.numbers]
            mean = logits.float().softmax(dim=-1).add_(mean)
            states.append(after)
            if member.shown and attention is not None:
                attentions.append(attention.float())
        logits = mean.div_(len(self.members)).clamp_min_(torch.finfo(mean.dtype).tiny).log_()
        return Step(logits, torch.stack(attentions).mean(0) if attentions else None, _joined(states))


def _joined(states: Sequence[State]) -> State:
    hypotheses, images = (
        {f"{number}.{name}": tensor for number, part in enumerate(parts) for name, tensor in part.items()}
        for parts in ([state.hypotheses for state in states], [state.images for state in states])
    )
    return State(hypotheses, images)


def _part(state: State, number: int) -> State:
    """Return the state of one member."""
    start = f"{number}."
    hypotheses, images = (
        {name[len(start) :]: tensor for name, tensor in tensors.items() if name.startswith(start)}
        for tensors in (state.hypotheses, state.images)
    )
    return State(hypotheses, images)


class Front(NamedTuple):
    """The stages that encoders share.

    Attributes:
        encoder: these stages as they caption; a whole encoder if it shares nothing with another one.
        cut: number of stages that follow.
        of: the numbers of these encoders.
    """

    encoder: Encoder
    cut: int
    of: list[int]


class EnsembleEngine(TorchEngine):
    """Captions images with several models at once, of any families and on any encoders.

    The probability of a word is the mean over the models, and there is one search: a caption is that of all of them,
    and its log-probability is by the mean. An image is read once. Models with the same encoder share its output, and
    encoders of which only the last stages were tuned share that of the frozen stages.

    Attention is the mean over the models that attend to the same regions as the first one that attends: those with the
    same encoder, or with a grid of the same shape over the same part of the image.

    Args:
        models: by the names that errors give them. They must have the same words, in any order.
        device: a torch device, or ``auto``.

    Raises:
        CheckpointError: a model has another vocabulary than the first.
    """

    def __init__(self, models: Mapping[str, CaptionModel], *, device: str = "auto") -> None:
        (name, first), *_ = models.items()
        self.device, self.vocabulary, self.search = choose_device(device), first.vocabulary, first.config.search
        numbers = [_numbers(name, self.vocabulary, other, model.vocabulary) for other, model in models.items()]
        encoders, which = _distinct([model.encoder for model in models.values()])
        self._models = [model.to(self.device).eval() for model in models.values()]
        self.encoders = [encoder.to(self.device).eval() for encoder in encoders]
        self._encoders = [encoder.fast(self.device) for encoder in self.encoders]
        tuned = [self._models[which.index(number)].tuned_stages for number in range(len(encoders))]
        self._fronts = _fronts(self.encoders, self._encoders, tuned, self.device)

        attending = [number for model, number in zip(self._models, which, strict=True) if model.decoder.attends]
        self.attends, self._shown = bool(attending), [*attending, which[0]][0]
        first_shown = self.encoders[self._shown]
        shown = [_same_regions(encoder, first_shown) for encoder in self.encoders]
        self._decoder = Mean(
            [
                Member(
                    Writer.of(model, self.device),
                    number,
                    None if own is None else own.to(self.device),
                    model.decoder.attends and shown[number],
                )
                for model, number, own in zip(self._models, which, numbers, strict=True)
            ]
        )

        # The part of the image that the first transform keeps is where the attention is shown.
        transforms = [encoder.transform for encoder in (first_shown, *self.encoders)]
        self._transforms = [part for number, part in enumerate(transforms) if part not in transforms[:number]]
        self.transform = self._transforms[0] if len(self._transforms) == 1 else CombinedTransform.of(self._transforms)
        log.info("an ensemble of %d models on %d encoders", len(models), len(encoders))

    @property
    def decoder_size(self) -> int:
        return sum(model.decoder_size for model in self._models)

    def for_attention(self, attention: str) -> EnsembleEngine:
        """Return this engine, which gives the mean alone.

        Raises:
            CaptionerError: another kind of attention is wanted.
        """
        if attention != MEAN:
            raise CaptionerError(
                f"attention: an ensemble has only the mean over its models, and {attention!r} is of one model; give"
                " that model alone"
            )
        return self

    def encode(self, pixels: Tensor) -> Memories:
        """Encode pixels by each encoder once; stages that encoders share run once."""
        views = self.transform.split(pixels) if isinstance(self.transform, CombinedTransform) else [pixels]
        parts: dict[int, Memory] = {}
        for front, cut, numbers in self._fronts:
            memory = front(views[self._transforms.index(front.transform)])
            parts |= {number: self._encoders[number].finish(memory, cut) for number in numbers}
        return Memories(tuple(parts[number] for number in range(len(self.encoders))))

    def open_features(self, folder: str | Path) -> FeatureStore:
        """Open a feature store of the stages that all encoders share.

        Raises:
            FeatureStoreError: it cannot be read, or an encoder differs before the stage where it was cut.
        """
        store = FeatureStore(folder)  # a damaged one has its own error
        try:
            for encoder in self.encoders:
                FeatureStore(folder, encoder=encoder)
        except FeatureStoreError:
            raise FeatureStoreError(
                f"{folder}: was not made by the encoder of each member of this ensemble; leave it out, or take members "
                "with the encoder that made it"
            ) from None
        return store

    @torch.inference_mode()
    def caption_memory(
        self, memory: Memories | Memory, search: SearchConfig, *, cut: int = 0, attention: str = MEAN
    ) -> list[Caption]:
        """Caption encoded images; a single memory, from a store, is finished by every encoder."""
        self.for_attention(attention)
        parts = (memory,) * len(self.encoders) if isinstance(memory, Memory) else memory.parts
        memories = Memories(
            tuple(
                encoder.finish(part.to(self.device), cut) for encoder, part in zip(self._encoders, parts, strict=True)
            )
        )
        members = [
            (model, memories.parts[member.memory], None if member.numbers is None else member.numbers.tolist())
            for model, member in zip(self._models, self._decoder.members, strict=True)
        ]
        found = search_with_consensus(partial(find, self._decoder, memories), search, list(predictions_of(members)))
        regions = regions_of(memories.parts[self._shown], self.encoders[self._shown].classes)
        return [
            best_of(captions_of(hypotheses, self.vocabulary, **each))
            for hypotheses, each in zip(found, regions, strict=True)
        ]


def _distinct(encoders: Sequence[Encoder]) -> tuple[list[Encoder], list[int]]:
    """Return the encoders that differ, and for each of the given ones which of these it equals."""
    numbers: dict[str, int] = {}
    which = [numbers.setdefault(encoder.fingerprint(), len(numbers)) for encoder in encoders]
    return [encoders[which.index(number)] for number in range(len(numbers))], which


def _fronts(
    encoders: Sequence[Encoder], fast: Sequence[Encoder], tuned: Sequence[int], device: torch.device
) -> list[Front]:
    """Find the stages that encoders share.

    Args:
        encoders: which differ.
        fast: the encoders as they caption.
        tuned: number of the last stages of each that were tuned.
        device: of the encoders.
    """
    cut = max((number for number, encoder in zip(tuned, encoders, strict=True) if number < encoder.stages), default=0)
    groups: dict[str, list[int]] = {}
    for number, encoder in enumerate(encoders):
        shares = len(encoders) > 1 and cut > 0 and tuned[number] <= cut < encoder.stages
        groups.setdefault(encoder.front(cut).fingerprint() if shares else f"alone {number}", []).append(number)
    return [
        Front(encoders[numbers[0]].front(cut).fast(device), cut, numbers)
        if len(numbers) > 1
        else Front(fast[numbers[0]], 0, numbers)
        for numbers in groups.values()
    ]


def _same_regions(encoder: Encoder, other: Encoder) -> bool:
    """Return whether two encoders give memories of the same regions; regions of two detectors differ."""
    same_grid = encoder.grid is not None and encoder.grid == other.grid
    return encoder is other or (same_grid and encoder.transform.view == other.transform.view)


def _numbers(name: str, words: Vocabulary, other_name: str, others: Vocabulary) -> Tensor | None:
    """Return the number in another vocabulary of each word (V,) of the ensemble's; ``None`` if they are the same.

    Raises:
        CheckpointError: they are not of the same words.
    """
    if words == others:
        return None
    differences = []
    for owner, these, those in ((name, words, others), (other_name, others, words)):
        if lacking := [word for word in these.words if word not in those]:
            more = f" and {len(lacking) - 3:,} more" if len(lacking) > 3 else ""
            differences.append(f"only {owner} has {', '.join(map(repr, lacking[:3]))}{more}")
    if differences:
        raise CheckpointError(
            f"{name} and {other_name} cannot be an ensemble, as they do not share a vocabulary: "
            f"{'; '.join(differences)}; give models that were trained on the same captions"
        )
    return torch.tensor([others.index(word) for word in words.words])
