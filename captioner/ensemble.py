"""Several models that write one caption together: the mean of their distributions of the next word, in one search.

Tensor letters: B images, W hypotheses per image, N places, V words of the vocabulary, S side of a transformed picture.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from captioner import folders
from captioner.backend import choose_device, fast_dtype
from captioner.caption import MEAN, Caption
from captioner.checkpoint import load_model
from captioner.data.transform import Together
from captioner.decoders import Decoder, State, Step
from captioner.encoders import Encoder
from captioner.errors import CaptionerError, CheckpointError, FeatureStoreError
from captioner.features import FeatureStore
from captioner.memory import Memories, Memory
from captioner.model import CaptionModel
from captioner.pipeline import TorchPipeline, best_of, captions_of
from captioner.search import choose_search
from captioner.text.vocabulary import Vocabulary

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Member:
    """A decoder of an ensemble.

    Attributes:
        decoder: as it searches.
        memory: which of the memories it attends to.
        numbers: (V,) its own number of each word of the ensemble; ``None`` if they are the same.
        shown: whether its attention is part of the ensemble's.
    """

    decoder: Decoder
    memory: int
    numbers: Tensor | None
    shown: bool


class Mean:
    """Decoders that write together: the next word has the mean of the probabilities that they give it.

    It takes the place of a decoder in the searches, with :class:`Memories` as its memory. Its state is that of all
    members, whose tensors have the member's number before their names, so that :meth:`State.pick` works as ever. Its
    logits are the logarithms of the mean probabilities, and its attention is the mean over the members that are shown.

    Probabilities are added up as such, with those below the smallest number of 32 bits taken for that. For three
    members, 160 hypotheses and 2,890 words that takes 2 ms on a core, and the sum of logarithms 12 ms.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        self.members = members

    def start(self, memory: Memories) -> State:
        """Prepare one hypothesis per image; see :meth:`Decoder.start`."""
        return _joined([member.decoder.start(memory.parts[member.memory]) for member in self.members])

    def step(self, tokens: Tensor, state: State) -> Step:
        """Read words (B, W) and score the next; see :meth:`Decoder.step`."""
        mean, attentions, states = torch.zeros((), device=tokens.device), [], []
        for number, member in enumerate(self.members):
            own = tokens if member.numbers is None else member.numbers[tokens]
            logits, attention, after = member.decoder.step(own, _part(state, number))
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
    """What encoders begin with, up to where they differ.

    Attributes:
        encoder: as it captions; a whole encoder, if it shares nothing with another one.
        cut: how many stages of the encoders follow it.
        of: the numbers of these encoders.
    """

    encoder: Encoder
    cut: int
    of: list[int]


class Ensemble(TorchPipeline):
    """Captions pictures with several models at once, which may be of any families, on any encoders.

    The probability of a word is the mean over the models, and there is one search: a caption is that of all of them,
    and its log-probability is by the mean. A picture is read once. Models with the same encoder share its work, and
    encoders of which only the last stages were tuned that of the stages before.

    Attention is the mean over the models that attend to the same places as the first one that attends: those with the
    same encoder, or with a grid of the same shape over the same part of the picture.

    Args:
        models: by the names that errors give them. They must know the same words, in any order.
        device: a torch device, or ``auto``.
        search: settings that differ from those of the first model.

    Raises:
        CheckpointError: a model has another vocabulary than the first.
    """

    def __init__(self, models: Mapping[str, CaptionModel], *, device: str = "auto", **search: Any) -> None:
        (name, first), *_ = models.items()
        self.device, self.vocabulary = choose_device(device), first.vocabulary
        self.about: dict[str, Any] = {}
        self.search = first.config.search.changed(**search)
        numbers = [_numbers(name, self.vocabulary, other, model.vocabulary) for other, model in models.items()]
        encoders, which = _distinct([model.encoder for model in models.values()])
        self.encoders = [encoder.to(self.device).eval() for encoder in encoders]
        self.decoders = [model.decoder.to(self.device).eval() for model in models.values()]
        self._encoders = [encoder.fast(self.device) for encoder in self.encoders]
        tuned = [list(models.values())[which.index(number)].tuned_stages for number in range(len(encoders))]
        self._fronts = _fronts(self.encoders, self._encoders, tuned, self.device)

        attending = [number for decoder, number in zip(self.decoders, which, strict=True) if decoder.attends]
        self.attends, self._shown = bool(attending), [*attending, which[0]][0]
        first_shown = self.encoders[self._shown]
        shown = [_same_places(encoder, first_shown) for encoder in self.encoders]
        members = []
        for decoder, number, own in zip(self.decoders, which, numbers, strict=True):
            own = None if own is None else own.to(self.device)
            members.append(
                Member(decoder.fast(fast_dtype(self.device)), number, own, decoder.attends and shown[number])
            )
        self._decoder = Mean(members)

        # The place of a picture is that of the first transform, so it is where the attention is shown.
        transforms = [encoder.transform for encoder in (first_shown, *self.encoders)]
        self._transforms = [part for number, part in enumerate(transforms) if part not in transforms[:number]]
        self.transform = self._transforms[0] if len(self._transforms) == 1 else Together.of(self._transforms)
        log.info("an ensemble of %d models on %d encoders; search: %s", len(models), len(encoders), self.search)

    @classmethod
    def load(cls, models: Mapping[str, Path], *, device: str = "auto", **search: Any) -> Ensemble:
        """Load the models in folders, by their names; see :meth:`Captioner.from_pretrained`.

        Raises:
            CheckpointError: a model is damaged, or has another vocabulary than the first.
        """
        ensemble = cls({name: load_model(folder) for name, folder in models.items()}, device=device, **search)
        ensemble.about = {"members": {name: folders.about(folder) for name, folder in models.items()}}
        return ensemble

    def save_pretrained(self, folder: str | Path, *, card: str = "") -> Path:
        """Refuse: an ensemble is not one model; it is loaded by the names of its members.

        Raises:
            CheckpointError: always.
        """
        raise CheckpointError(
            f"{folder}: an ensemble cannot be saved as one model; save its members, and join their names by "
            f"{folders.AND}"
        )

    def check(self, attention: str) -> None:
        """See :meth:`Captioner.check`: there is only the mean."""
        if attention != MEAN:
            raise CaptionerError(
                f"attention: an ensemble has only the mean over its models, and {attention!r} is of one model; give it"
                " alone"
            )

    def encode(self, pixels: Tensor) -> Memories:
        """See :meth:`TorchPipeline.encode`; each encoder works once, and so does what encoders share."""
        views = self.transform.split(pixels) if isinstance(self.transform, Together) else [pixels]
        parts: dict[int, Memory] = {}
        for front, cut, numbers in self._fronts:
            memory = front(views[self._transforms.index(front.transform)])
            parts |= {number: self._encoders[number].finish(memory, cut) for number in numbers}
        return Memories(tuple(parts[number] for number in range(len(self.encoders))))

    def open_features(self, folder: str | Path) -> FeatureStore:
        """See :meth:`TorchPipeline.open_features`.

        Several encoders can finish one store, if they are the same up to where it was cut.
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
    def caption_memory(self, memory: Memories | Memory, *, cut: int = 0, attention: str = MEAN) -> list[Caption]:
        """See :meth:`TorchPipeline.caption_memory`; a single memory, from a store, is for every encoder to finish."""
        self.check(attention)
        parts = (memory,) * len(self.encoders) if isinstance(memory, Memory) else memory.parts
        memories = Memories(
            tuple(self.finished(encoder, part, cut) for encoder, part in zip(self._encoders, parts, strict=True))
        )
        found = choose_search(self.search)(self._decoder, memories, self.search)
        shown = self._shown
        return best_of(captions_of(found, self.vocabulary, memories.parts[shown], self.encoders[shown].classes))


def _distinct(encoders: Sequence[Encoder]) -> tuple[list[Encoder], list[int]]:
    """Return the encoders that differ, and for each of the given ones which of these it equals."""
    numbers: dict[str, int] = {}
    which = [numbers.setdefault(encoder.fingerprint(), len(numbers)) for encoder in encoders]
    return [encoders[which.index(number)] for number in range(len(numbers))], which


def _fronts(
    encoders: Sequence[Encoder], fast: Sequence[Encoder], tuned: Sequence[int], device: torch.device
) -> list[Front]:
    """Find what encoders share.

    Args:
        encoders: which differ.
        fast: how they caption.
        tuned: how many of the last stages of each were tuned.
        device: where they are.
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


def _same_places(encoder: Encoder, other: Encoder) -> bool:
    """Return whether two encoders give memories of the same places; those that are not one object differ."""
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
    for knows, these, those in ((name, words, others), (other_name, others, words)):
        if lacking := [word for word in these.words if word not in those]:
            more = f" and {len(lacking) - 3:,} more" if len(lacking) > 3 else ""
            differences.append(f"only {knows} knows {', '.join(map(repr, lacking[:3]))}{more}")
    if differences:
        raise CheckpointError(
            f"{name} and {other_name} cannot be an ensemble, as they do not share a vocabulary: "
            f"{'; '.join(differences)}; give models that were trained on the same captions"
        )
    return torch.tensor([others.number(word) for word in words.words])
