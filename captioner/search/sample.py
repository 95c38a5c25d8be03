"""Sampling captions from the decoder's distribution, several per image at once, on the device.

Tensor letters: B images, K captions per image, T words of the longest one with ``<eos>``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from captioner.memory import Encoded
from captioner.search.config import SearchConfig
from captioner.search.constraints import StepwiseDecoder, constrain
from captioner.text.vocabulary import BOS, EOS, PAD


@torch.no_grad()
def sample(
    decoder: StepwiseDecoder, memory: Encoded, captions: int, config: SearchConfig, *, greedy: bool = False
) -> Tensor:
    """Draw captions word by word, each word in proportion to its probability among the allowed words.

    An image whose captions have all ended is left out of later steps.

    Args:
        decoder: in eval mode, unless its dropout is to be active.
        memory: of B images.
        captions: K, how many to draw for each.
        config: constraints on the words; the width has no effect here.
        greedy: take the most probable word instead.

    Returns:
        (B, K, T) words without ``<bos>``, each caption with its ``<eos>`` unless it was cut at ``max_words``, then
        padding.
    """
    device, b = memory.device, len(memory)
    images = torch.arange(b, device=device)
    state = decoder.start(memory).pick(torch.zeros(b, captions, dtype=torch.long, device=device))
    tokens = torch.full((b, captions), BOS, device=device)
    written = torch.full((b, captions, config.max_words), PAD, device=device)
    longest = config.max_words
    for t in range(config.max_words):
        logits, _, state = decoder.step(tokens, state)
        allowed = constrain(torch.log_softmax(logits.float(), dim=-1), written[images, :, :t], config)
        # With exponential noise e, argmax_i p_i / e_i is a draw from p: e_i / p_i is exponential with rate p_i, and
        # each is the smallest with a probability proportional to its rate.
        weights = allowed if greedy else allowed.exp() / torch.empty_like(allowed).exponential_()
        drawn = weights.argmax(-1)
        ended = (tokens == EOS) | (tokens == PAD)
        tokens = drawn.masked_fill(ended, PAD)
        written[images, :, t] = tokens
        alive = ((tokens != EOS) & (tokens != PAD)).any(1).nonzero().squeeze(1)
        if len(alive) == 0:
            longest = t + 1
            break
        if len(alive) < len(images):
            state, tokens, images = state.pick(images=alive), tokens[alive], images[alive]
    return written[..., :longest]
