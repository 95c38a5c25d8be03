"""Teacher-forced cross-entropy with the extensions of Show, Attend and Tell (Xu 2015).

These are the doubly stochastic penalty on attention and REINFORCE for hard attention. Label smoothing, scheduled
sampling and the supervision of attention by boxes are optional.

Tensor letters: B images, K captions per image, T steps, M real positions, N regions or cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from captioner.caption import Array
from captioner.data.batches import Captions
from captioner.data.dataset import CaptionedImage
from captioner.decoders.decoder import Decoder, DecoderOutput
from captioner.decoders.unrolled import UnrolledDecoder
from captioner.encoders import Refiner
from captioner.evaluation.object_boxes import covered
from captioner.machine.randomness import generator_states, replayed
from captioner.memory import Memory
from captioner.settings import Settings
from captioner.text.vocabulary import BOS, EOS, PAD, Vocabulary
from captioner.training.likelihood import log_likelihoods
from captioner.training.objective import OBJECTIVES, Objective


class CrossEntropyConfig(Settings):
    """Settings of the objective."""

    label_smoothing: float = Field(
        0.1, ge=0, lt=1, description="share of the target's probability that is spread over all words (Szegedy 2016)"
    )
    doubly_stochastic: float = Field(
        0.0, ge=0, description="weight of the penalty that makes captions attend to every cell (Xu 2015, eq. 14)"
    )
    grounding: float = Field(
        0.0,
        ge=0,
        description="weight of the supervision of attention: words that name an object with boxes in data.boxes attend "
        "to them (Liu 2017, eq. 9)",
    )
    scheduled_sampling: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of input words that the model samples itself, rising linearly from 0 to this at the end of "
        "the run (Bengio 2015)",
    )
    reinforce: float = Field(
        1.0,
        ge=0,
        description="lambda_r: weight of the reward of sampled cells (Xu 2015, section 4.1; hard attention only)",
    )
    entropy: float = Field(
        0.002,
        ge=0,
        description="lambda_e: weight of the entropy of the attention (Xu 2015, section 4.1; hard attention only)",
    )


@OBJECTIVES.register("cross_entropy")
class CrossEntropy(Objective):
    """Mean negative log-likelihood per word, plus ``doubly_stochastic`` times the doubly stochastic penalty.

    The penalty is the mean over captions and cells of ``(1 - sum_t alpha_t)^2``. The paper (equation 14) sums over the
    words and cells of a caption; with means, the weight does not depend on the size of the grid. The paper's lambda of
    1 corresponds to the number of cells over the number of words, about 17.

    Supervised attention (Liu 2017, https://arxiv.org/abs/1605.09553, equation 9) adds ``grounding`` times the
    cross-entropy of the attention of words that name an object with boxes; see :func:`grounding_loss`.

    Hard attention adds the gradient of the paper's section 4.1: for each caption ``lambda_r (log p(y | s, a) - b)``
    times the gradient of ``log p(s | a)``, plus ``lambda_e`` times the gradient of the entropy; both are means over
    words, like the likelihood. Departure from the paper: its baseline b, the moving average of log p(y | s, a), is the
    same for all captions, whose likelihoods differ far more than those of the cells of one caption. Here b is the
    log-likelihood of the same caption under the expected vectors, with the same dropout. It does not depend on s, so
    the gradient stays unbiased.

    Scheduled sampling (Bengio 2015, https://arxiv.org/abs/1506.03099) replaces a share of the decoder's input words by
    words that it samples at the same positions, step by step. As in the paper, no gradient passes through the sampling,
    so the loss is computed in one teacher-forced pass over the mixed input.
    """

    Config: ClassVar[type[Settings]] = CrossEntropyConfig

    def __init__(self, config: CrossEntropyConfig) -> None:
        super().__init__()
        self.config = config

    @classmethod
    def build(cls, config: Settings, images: Sequence[CaptionedImage], vocabulary: Vocabulary) -> CrossEntropy:
        assert isinstance(config, CrossEntropyConfig)
        return cls(config)

    def forward(
        self, refiner: Refiner, decoder: Decoder, memory: Memory, captions: Captions
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and its parts, each a scalar.

        The parts are ``nll`` (nats per word, without smoothing), ``penalty``, ``grounding`` (nats per word) and
        ``reward``, the log-likelihood of captions with hard attention less that under the expected vectors (nats per
        caption).
        """
        memory = refiner(memory)
        share = self.config.scheduled_sampling * self.done
        inputs = scheduled_sampling(decoder, memory, captions.inputs, share) if share else captions.inputs
        random = generator_states()
        output: DecoderOutput = decoder(memory, inputs)
        likelihoods, means = log_likelihoods(output.logits, captions.targets)
        weights = captions.weights
        nll = -weights.words * likelihoods.mean()
        smoothing = self.config.label_smoothing
        loss = (1 - smoothing) * nll - smoothing * weights.words * means.mean() if smoothing else nll
        metrics = {"nll": nll.detach()}
        if output.attention is not None:
            attention = output.attention.float()
            if self.config.doubly_stochastic:
                penalty = weights.captions * doubly_stochastic_penalty(attention, captions.inputs)
                loss = loss + self.config.doubly_stochastic * penalty
                metrics["penalty"] = penalty.detach()
            if self.config.grounding and (corners := memory.image_boxes()) is not None:
                supervised = weights.words * grounding_loss(attention, corners, captions)
                loss = loss + self.config.grounding * supervised
                metrics["grounding"] = supervised.detach()
            if output.sampled is not None:
                assert isinstance(decoder, UnrolledDecoder)
                with replayed(random), decoder.expected_vectors(), torch.no_grad():
                    expected, _ = log_likelihoods(decoder(memory, inputs).logits, captions.targets)
                gain = likelihoods.detach() - expected
                reinforced, metrics["reward"] = self._reinforce(attention, output.sampled, gain, captions)
                loss = loss - reinforced
        return loss, metrics

    def _reinforce(self, attention: Tensor, sampled: Tensor, gain: Tensor, captions: Captions) -> tuple[Tensor, Tensor]:
        """Return a scalar whose gradient with respect to the attention is that of section 4.1, and the mean reward.

        Args:
            attention: (M, N).
            sampled: (M,) the sampled cell, or -1 where the expected vector was used.
            gain: (M,) log-probability of each target, less that under the expected vectors.
            captions: the reference captions.
        """
        caption, number, present = _caption_of(captions.inputs)
        rewards = gain.new_zeros(number).index_add(0, caption, gain)
        log_attention = attention.clamp(min=torch.finfo(attention.dtype).tiny).log()
        log_sampled = log_attention.gather(1, sampled.clamp(min=0).unsqueeze(1)).squeeze(1)
        advantage = rewards[caption].masked_fill(sampled < 0, 0.0)
        entropy = -(attention * log_attention).sum(-1)
        gain = self.config.reinforce * (advantage * log_sampled).mean() + self.config.entropy * entropy.mean()
        weights = captions.weights
        return weights.words * gain, weights.captions * rewards[present].mean()


@torch.no_grad()
def scheduled_sampling(decoder: Decoder, memory: Memory, inputs: Tensor, share: float) -> Tensor:
    """Replace words of captions (B, K, T), with probability ``share``, by words that the decoder samples.

    Each word is sampled given the previous words, replaced ones included. ``<bos>`` is kept.
    """
    b, k, _ = inputs.shape
    state = decoder.start(memory).pick(torch.zeros(b, k, dtype=torch.long, device=inputs.device))
    mixed = inputs.clone()
    replaced = (torch.rand(inputs.shape, device=inputs.device) < share) & (inputs != PAD)
    for t in range(1, inputs.shape[-1]):
        logits, _, state = decoder.step(mixed[..., t - 1], state)
        logits[..., [PAD, BOS, EOS]] = float("-inf")  # the caption keeps the length of the reference
        sampled = torch.multinomial(logits.float().softmax(-1).flatten(0, 1), 1).view(b, k)
        mixed[..., t] = torch.where(replaced[..., t], sampled, mixed[..., t])
    return mixed


def _caption_of(inputs: Tensor) -> tuple[Tensor, int, Tensor]:
    """Return the caption of each real position (M,), the number B K of captions, and which of them exist (B K,)."""
    b, k, _ = inputs.shape
    real = inputs != PAD
    image, caption, _ = real.nonzero(as_tuple=True)
    return image * k + caption, b * k, real.any(-1).flatten()


def doubly_stochastic_penalty(attention: Tensor, inputs: Tensor) -> Tensor:
    """Return the mean over captions and cells of ``(1 - sum_t alpha_t)^2``.

    Args:
        attention: (M, N) attention of each real position, in the order of ``inputs[inputs != PAD]``.
        inputs: (B, K, T) words; a row of padding only is an absent caption and is left out of the mean.
    """
    caption, number, present = _caption_of(inputs)
    total = attention.new_zeros(number, attention.shape[1]).index_add(0, caption, attention)
    return ((1.0 - total) ** 2)[present].mean()


def grounding_loss(attention: Tensor, corners: Tensor, captions: Captions) -> Tensor:
    """Return ``-sum_i beta_i log alpha_i``, summed over words that name objects with boxes, per word (Liu 2017, eq. 9).

    beta_i is the share of region or cell i inside the union of the boxes, divided by the sum over i. The terms of all
    other words, and of words whose boxes overlap no region, are 0.

    Args:
        attention: (M, N) attention of each real position.
        corners: (B, N, 4) the regions or cells, relative xyxy.
        captions: the captions with ``boxed`` words.
    """
    if not captions.boxed:
        return attention.new_zeros(())
    regions = corners.double().cpu().numpy()
    ends = (captions.inputs != PAD).sum(-1).flatten().cumsum(0).tolist()
    starts, captions_per_image = [0, *ends], captions.inputs.shape[1]
    rows, shares = [], []
    known: dict[tuple[int, int], Array] = {}
    for word in captions.boxed:
        key = word.image, id(word.boxes)
        if key not in known:
            known[key] = covered(regions[word.image], word.boxes)
        shares.append(known[key])
        rows.append(starts[word.image * captions_per_image + word.caption] + word.word)
    beta = torch.from_numpy(np.stack(shares)).to(attention)
    beta = beta / beta.sum(1, keepdim=True).clamp(min=torch.finfo(beta.dtype).tiny)
    alpha = attention[torch.tensor(rows, device=attention.device)].clamp(min=torch.finfo(attention.dtype).tiny)
    return -(beta * alpha.log()).sum() / len(attention)
