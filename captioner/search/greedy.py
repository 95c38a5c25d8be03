"""Greedy search: the most probable next word at every step."""

from __future__ import annotations

import torch

from captioner.memory import Encoded
from captioner.search.config import Hypothesis, SearchConfig
from captioner.search.constraints import StepwiseDecoder, constrain
from captioner.text.vocabulary import BOS, EOS


@torch.inference_mode()
def greedy(decoder: StepwiseDecoder, memory: Encoded, config: SearchConfig) -> list[list[Hypothesis]]:
    """Find one caption for each image, word by word.

    See :class:`SearchConfig`; ``width`` and ``n_best`` have no effect here.
    """
    device = memory.device
    state = decoder.start(memory)
    tokens = torch.full((len(memory), 1), BOS, device=device)
    history = torch.empty(len(memory), 1, 0, dtype=torch.long, device=device)
    total = torch.zeros(len(memory), 1, device=device)
    done = torch.zeros(len(memory), 1, dtype=torch.bool, device=device)
    weights = []
    while history.shape[-1] < config.max_words and not done.all():
        logits, attention, state = decoder.step(tokens, state)
        best, tokens = constrain(torch.log_softmax(logits.float(), dim=-1), history, config).max(-1)
        total += best.where(~done, 0.0)
        tokens = tokens.where(~done, EOS)
        done |= tokens == EOS
        history = torch.cat([history, tokens.unsqueeze(-1)], dim=-1)
        if attention is not None:
            weights.append(attention.float())
    ended = history == EOS
    lengths = torch.where(ended.any(-1), ended.int().argmax(-1), history.shape[-1]).squeeze(1).tolist()
    attentions = torch.cat(weights, dim=1).cpu().numpy() if weights else None
    found = []
    for image, length in enumerate(lengths):
        finished = bool(done[image])
        found.append(
            [
                Hypothesis(
                    words=history[image, 0, :length].tolist(),
                    log_probability=float(total[image]),
                    score=float(config.normalise(total[image], length + finished)),
                    attention=None if attentions is None else attentions[image, :length],
                    finished=finished,
                )
            ]
        )
    return found
