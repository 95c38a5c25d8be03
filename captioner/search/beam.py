"""Beam search, batched over images and hypotheses."""

from __future__ import annotations

import torch
from torch import Tensor

from captioner.memory import Encoded
from captioner.search.collect import collect
from captioner.search.config import MINUS_INFINITY, Hypothesis, SearchConfig
from captioner.search.constraints import StepwiseDecoder, constrain
from captioner.text.vocabulary import BOS, EOS


@torch.inference_mode()
def beam(
    decoder: StepwiseDecoder, memory: Encoded, config: SearchConfig, count: int | None = None
) -> list[list[Hypothesis]]:
    """Find the best captions of each image among ``width`` hypotheses.

    As in the code of Show, Attend and Tell, the beam width of an image decreases by one whenever one of its hypotheses
    ends, and the search of an image stops when all have ended or ``max_words`` is reached; width 1 is greedy search.
    Ended hypotheses are ranked by their normalised score; unfinished ones follow all ended ones, which guarantees a
    result. Images whose search has stopped are left out of later steps, and an image's result does not depend on the
    other images of the batch.

    Two optimisations do not change the result. A step computes only as many hypotheses per image as the image with the
    most live hypotheses needs. And a search stops as soon as no live hypothesis can overtake the ``count`` best ended
    ones: a log-probability never increases, so ``total / max_words ** length_normalisation`` is an upper bound of a
    hypothesis's score.

    ``prune`` saves more, but may change results: it is the relative threshold of Freitag and Al-Onaizan 2017
    (https://arxiv.org/abs/1702.01806). The next step fills the beam again from the hypotheses that remain.

    Args:
        decoder: computes the steps.
        memory: of B images.
        config: the settings.
        count: the number of captions to return for each image; ``n_best`` by default.
    """
    count = count or config.n_best
    device, b, w = memory.device, len(memory), config.width
    steps = config.max_words
    words = torch.zeros(steps, b, w, dtype=torch.long, device=device)
    parents = torch.zeros(steps, b, w, dtype=torch.long, device=device)
    # Log-probabilities of live hypotheses, and of those that end in the step.
    totals = torch.full((steps, b, w), MINUS_INFINITY, device=device)
    ended = torch.zeros(steps, b, w, dtype=torch.bool, device=device)
    attentions: list[tuple[Tensor, Tensor]] = []

    images = torch.arange(b, device=device)
    state = decoder.start(memory)
    tokens = torch.full((b, 1), BOS, device=device)
    total = torch.zeros(b, 1, device=device)
    history = torch.empty(b, 1, 0, dtype=torch.long, device=device)
    width = torch.full((b,), w, device=device)  # live hypotheses of each image
    ranks = torch.arange(w, device=device)
    best = torch.full((b, count), MINUS_INFINITY, device=device)  # scores of the best ended hypotheses
    columns = w
    for t in range(steps):
        logits, attention, state = decoder.step(tokens, state)
        if attention is not None:
            attentions.append((images, attention.float()))
        candidates = constrain(torch.log_softmax(logits.float(), dim=-1), history, config) + total.unsqueeze(-1)
        vocabulary = candidates.shape[-1]
        total, flat = candidates.flatten(1).topk(min(columns, candidates.shape[1] * vocabulary), dim=-1)
        if total.shape[1] < columns:  # a vocabulary smaller than the beam
            total = torch.nn.functional.pad(total, (0, columns - total.shape[1]), value=MINUS_INFINITY)
            flat = torch.nn.functional.pad(flat, (0, columns - flat.shape[1]))
        parent, tokens = flat // vocabulary, flat % vocabulary
        total = total.masked_fill(ranks[:columns] >= width.unsqueeze(1), MINUS_INFINITY)
        if config.prune:
            pruned = (total < total[:, :1] - config.prune) & (ranks[:columns] >= config.n_best)
            total = total.masked_fill(pruned, MINUS_INFINITY)
        ends = (tokens == EOS) & (total > MINUS_INFINITY)
        entries = slice(t, t + 1), images, slice(columns)
        words[entries], parents[entries], totals[entries], ended[entries] = tokens, parent, total, ends
        scores = config.normalise(total, t + 1).masked_fill(~ends, MINUS_INFINITY)
        best = torch.cat([best, scores], dim=1).topk(count, dim=1).values
        total = total.masked_fill(ends, MINUS_INFINITY)
        width = width - ends.sum(1)
        can_win = config.normalise(total.amax(1), steps) >= best[:, -1]
        # One transfer from the device per step: the number of hypotheses an image may have next, and the last live one.
        live = (total > MINUS_INFINITY) & can_win.unsqueeze(1)
        continuing, last = torch.stack(
            [torch.where(live.any(1), width, 0), (live * (1 + ranks[:columns])).amax(1)]
        ).tolist()
        columns, reached = max(continuing), max(last)
        alive = torch.tensor([row for row, left in enumerate(continuing) if left], dtype=torch.long, device=device)
        parent, tokens, total = parent[:, :reached], tokens[:, :reached], total[:, :reached]
        history = torch.cat([history.gather(1, parent.unsqueeze(-1).expand(-1, -1, t)), tokens.unsqueeze(-1)], dim=-1)
        if len(alive) == 0:
            break
        if len(alive) < len(images):
            state = state.pick(parent, images=alive)
            images, tokens, total, history, width, best = (
                part[alive] for part in (images, tokens, total, history, width, best)
            )
        else:
            state = state.pick(parent)
    attention_of_steps = None
    if attentions:
        padded = attentions[0][1].new_zeros(len(attentions), b, w, attentions[0][1].shape[-1])
        for t, (active, weights) in enumerate(attentions):
            padded[t, active, : weights.shape[1]] = weights
        attention_of_steps = padded.cpu().numpy()
    on_cpu = [tensor.cpu().numpy() for tensor in (words, parents, totals, ended)]
    return collect(on_cpu[0], on_cpu[1], on_cpu[2], on_cpu[3], attention_of_steps, config, count)
