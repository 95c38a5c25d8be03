"""Self-critical sequence training: the policy gradient of CIDEr-D (Rennie et al. 2017, https://arxiv.org/abs/1612.00563).

Tensor letters: B images, K sampled captions per image, T words, M real positions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from captioner.data.batches import Captions
from captioner.data.dataset import CaptionedImage
from captioner.decoders.decoder import Decoder
from captioner.encoders import Refiner
from captioner.evaluation.bleu import SentenceBleu
from captioner.evaluation.cider import CiderD
from captioner.memory import Memory
from captioner.search.config import SearchConfig
from captioner.search.sample import sample
from captioner.settings import Settings
from captioner.text.vocabulary import BOS, EOS, PAD, UNK, Vocabulary, tokenize
from captioner.training.likelihood import log_likelihoods
from captioner.training.objective import OBJECTIVES, Objective

MINUS_INFINITY = float("-inf")


class SelfCriticalConfig(Settings):
    """Settings of the objective."""

    samples: int = Field(5, ge=2, description="K: captions sampled per image")
    baseline: Literal["others", "greedy"] = Field(
        "others",
        description="baseline of a caption's reward: the mean reward of the image's other samples (Luo 2020), or the "
        "reward of the greedy caption (Rennie 2017)",
    )
    bleu: float = Field(
        0.0, ge=0, description="weight of BLEU-4 (0 to 1) in the reward; CIDEr-D (0 to 10) has weight 1"
    )
    length: float = Field(
        0.0,
        ge=0,
        description="weight of the length penalty in the reward: the share of words by which a caption is shorter than "
        "the mean of the image's references",
    )
    cross_entropy: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of cross-entropy on the training captions in the loss, which keeps the language fluent "
        "(Paulus 2018, eq. 16: 1 - gamma)",
    )
    max_words: int = Field(20, ge=1, description="samples are cut after this many words")
    dropout: bool = Field(
        False,
        description="keep dropout in the gradient; it is then the gradient of another policy than the sampled one",
    )


@OBJECTIVES.register("self_critical")
class SelfCritical(Objective):
    """The mean of ``-(r(w) - b) log p(w)`` over captions w sampled from the model.

    Its gradient estimates that of the negative expected reward (equation 8). The reward r is CIDEr-D against all
    captions of the image, with document frequencies from the training images. ``<eos>`` counts as a word, so a caption
    cannot gain by ending early. The baseline b is the mean reward of the image's other samples (Luo 2020,
    https://arxiv.org/abs/2003.09971), or the reward of the greedy caption as in Rennie 2017.

    Each word of the references outside the vocabulary gets an index, so rewards equal those of the strings. Of the
    special words only ``<eos>`` is sampled, and probabilities are normalised over the words that can be sampled.
    Captions are sampled step by step without a gradient; their probabilities are computed in one teacher-forced pass.
    Without ``dropout`` a refiner runs once for both.

    CIDEr-D alone makes captions shorter and more similar. Three settings, each 0 by default, counteract that:

    - ``bleu`` adds the caption's BLEU-4, which has a brevity penalty and counts common phrases as much as rare ones.
    - ``length`` subtracts the shortfall ``max(0, 1 - n / m)`` of a caption's n words below the mean m of the image's
      references. CIDEr-D already penalises longer captions, by its Gaussian of the difference in length and by n-grams
      that no reference has.
    - ``cross_entropy`` c makes the loss ``(1 - c) L_rl + c L_ml`` (Paulus 2018, https://arxiv.org/abs/1705.04304,
      equation 16), where L_rl is the loss above and L_ml the mean of ``-log p(w)`` over the training captions.

    Args:
        config: the settings.
        references: the captions of each image as word indices, with ``<eos>``.
        words: size of the vocabulary.
    """

    Config: ClassVar[type[Settings]] = SelfCriticalConfig

    def __init__(self, config: SelfCriticalConfig, references: Sequence[Sequence[Sequence[int]]], words: int) -> None:
        super().__init__()
        self.config = config
        self.cider = CiderD(references, words=words)
        self.bleu = SentenceBleu(references) if config.bleu else None
        self.lengths = np.array([max(1.0, np.mean([len(caption) - 1 for caption in image])) for image in references])
        self.search = SearchConfig(width=1, max_words=config.max_words)

    @classmethod
    def build(cls, config: Settings, images: Sequence[CaptionedImage], vocabulary: Vocabulary) -> SelfCritical:
        assert isinstance(config, SelfCriticalConfig)
        indices = {word: index for index, word in enumerate(vocabulary.words)}
        references = [
            [
                [indices.setdefault(word, len(indices)) for word in tokenize(caption)] + [EOS]
                for caption in image.captions
            ]
            for image in images
        ]
        return cls(config, references, len(vocabulary))

    def forward(
        self, refiner: Refiner, decoder: Decoder, memory: Memory, captions: Captions
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and metrics of the samples.

        The metrics are the mean ``reward``, the mean number of ``words``, and the share of ``distinct`` captions; for a
        reward of several parts also these, unweighted: ``cider`` (CIDEr-D, 0 to 10), ``bleu`` (0 to 1) and
        ``shortfall`` (0 to 1). ``cross_entropy`` adds ``nll``, in nats per word.
        """
        training = decoder.training
        both = nn.ModuleList([refiner, decoder]).eval()
        refined = refiner(memory)
        samples = sample(decoder, refined, self.config.samples, self.search)
        parts = self._reward_parts(captions.images, samples)
        rewards = self._reward(parts)
        if self.config.baseline == "greedy":
            greedy = sample(decoder, refined, 1, self.search, greedy=True)
            baseline = self._reward(self._reward_parts(captions.images, greedy))
        else:
            baseline = (rewards.sum(1, keepdim=True) - rewards) / (rewards.shape[1] - 1)
        if self.config.dropout:
            both.train(training)
            refined = refiner(memory)
        likelihood, caption = self.log_probability(decoder, refined, samples)
        weight = captions.weights.images
        loss = -weight * ((rewards - baseline).flatten().float()[caption] * likelihood).sum() / rewards.numel()
        words = (samples > EOS).sum(-1).float().mean()
        distinct = torch.tensor(len(torch.unique(samples.flatten(0, 1), dim=0)) / samples.shape[:2].numel())
        metrics = {"reward": weight * rewards.mean(), "words": weight * words, "distinct": weight * distinct}
        if len(parts) > 1:
            metrics |= {name: weight * part.mean() for name, part in parts.items()}
        if share := self.config.cross_entropy:
            of_words, _ = log_likelihoods(decoder(refined, captions.inputs).logits, captions.targets)
            total = -of_words.sum()
            loss = (1 - share) * loss + share * captions.weights.captions * total / captions.captions
            metrics["nll"] = captions.weights.words * total.detach() / len(captions.targets)
        both.train(training)
        return loss, metrics

    def _reward_parts(self, images: Sequence[int], samples: Tensor) -> dict[str, Tensor]:
        """Return the unweighted parts of the rewards of captions (B, K, T), each (B, K), float64."""
        b, k, _ = samples.shape
        image_of_caption = list(chain.from_iterable([image] * k for image in images))
        candidates = samples.flatten(0, 1).cpu().numpy()
        parts = {"cider": self.cider(image_of_caption, candidates)}
        if self.bleu is not None:
            parts["bleu"] = self.bleu(image_of_caption, candidates)
        if self.config.length:
            words = (candidates > EOS).sum(-1)
            parts["shortfall"] = np.maximum(0.0, 1.0 - words / self.lengths[image_of_caption])
        return {name: torch.from_numpy(part).view(b, k).to(samples.device) for name, part in parts.items()}

    def _reward(self, parts: Mapping[str, Tensor]) -> Tensor:
        weights = {"cider": 1.0, "bleu": self.config.bleu, "shortfall": -self.config.length}
        return torch.stack([weights[name] * part for name, part in parts.items()]).sum(0)

    def log_probability(self, decoder: Decoder, memory: Memory, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log-probability (M,) of each word of captions (B, K, T), and the index of its caption (M,).

        Probabilities are normalised over the words that can be sampled.
        """
        inputs = torch.cat([torch.full_like(samples[..., :1], BOS), samples[..., :-1]], dim=-1)
        inputs = inputs.masked_fill(samples == PAD, PAD)
        real = inputs != PAD
        logits = decoder(memory, inputs).logits.float()
        logits = logits.index_fill(1, torch.tensor([PAD, BOS, UNK], device=logits.device), MINUS_INFINITY)
        likelihood, _ = log_likelihoods(logits, samples[real])
        return likelihood, real.flatten(0, 1).nonzero()[:, 0]
