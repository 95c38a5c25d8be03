"""Where the single heads of a Transformer looked, or all of its blocks together.

A search keeps the mean over blocks and heads of every hypothesis, since each head would cost blocks times heads as much
memory, for captions that are thrown away. The heads of the captions that it found are computed on request, from the
same memory, with the captions' words fed to the decoder all at once.

Letters in shapes: B images, K captions of an image, T words, M words of all captions, N places, L blocks, H heads.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from captioner.decoders import Decoder
from captioner.encoders import TransformerRefiner
from captioner.errors import CaptionerError
from captioner.layers.transformer import key_mask
from captioner.memory import Memory
from captioner.model import Refined
from captioner.text.vocabulary import BOS, PAD

MEAN, ROLLOUT, HEADS = "mean", "rollout", "heads"


@runtime_checkable
class HasHeads(Protocol):
    """A decoder of which each head can be asked where it looked."""

    def cross_attention(self, memory: Memory, tokens: Tensor) -> Tensor:
        """Return where each head of each block looked at the real words of captions (B, K, T), in their order: (M, L, H, N)."""


def check(decoder: Decoder, attention: str) -> tuple[int, int] | None:
    """Read whose attention is asked for: block and head, counted from zero, or ``None`` for what is no single head.

    Args:
        decoder: of the model that is asked.
        attention: ``mean``, ``rollout``, ``heads`` or ``BLOCK.HEAD``; see :func:`look_again`.

    Raises:
        CaptionerError: there is no such head, or the decoder is no Transformer.
    """
    if attention == MEAN:
        return None
    found = re.fullmatch(r"(\d+)\.(\d+)", attention)
    if found is None and attention not in (ROLLOUT, HEADS):
        raise CaptionerError(
            f"attention: {attention!r} is none of mean, rollout, heads and BLOCK.HEAD, for example 2.5 for the fifth head of the second block"
        )
    inner = _inner(decoder)
    if not isinstance(inner, HasHeads):
        raise CaptionerError(
            f"attention: {attention} is for models whose decoder is a Transformer; this one has a single attention, which mean shows"
        )
    if found is None:
        return None
    config: Any = inner.config
    block, head = int(found[1]), int(found[2])
    if not (1 <= block <= config.blocks and 1 <= head <= config.heads):
        raise CaptionerError(
            f"attention: there is no head {attention}; this model has blocks 1 to {config.blocks}, each with heads 1 to {config.heads}"
        )
    return block - 1, head - 1


@torch.inference_mode()
def look_again(
    decoder: Decoder, memory: Memory, captions: Sequence[Sequence[Sequence[int]]], attention: str
) -> list[list[Tensor]]:
    """Return whose attention was asked for, at every word of captions that a search found.

    The decoder reads all captions at once. What it attends to at a word is what it attended to in the search, as it had
    read the same words then.

    Args:
        decoder: what wrote the captions.
        memory: of B images, the one it looked at.
        captions: for each image its captions, as numbers of words without ``<bos>`` and ``<eos>``.
        attention: ``2.5`` is the fifth head of the second block; ``heads`` is all of them; ``rollout`` is attention
            rollout (Abnar and Zuidema 2020, https://arxiv.org/abs/2005.00928): how much of each place there is in a
            word's vector after all blocks, if each sub-layer of attention mixes half of what its mean head looks at
            with half of what was there before. The places themselves are followed back through the self-attention of
            the refiner, if the model has one, and the words through that of the decoder; what is left of words is not
            counted.

    Returns:
        For each image and caption (T, N), or (T, L, H, N) for ``heads``, float32 on the CPU.

    Raises:
        CaptionerError: see :func:`check`.
    """
    wanted = check(decoder, attention)
    if attention == MEAN:
        raise ValueError("the mean is what a search gives; there is no need to look again")
    read = [
        [torch.tensor([BOS, *words[:-1]]) if words else torch.empty(0, dtype=torch.long) for words in mine]
        for mine in captions
    ]
    if attention == ROLLOUT:
        return [[_rolled(decoder, memory[row : row + 1], words) for words in mine] for row, mine in enumerate(read)]
    tokens = torch.full((len(read), max(map(len, read)), max(1, *(len(words) for mine in read for words in mine))), PAD)
    for row, mine in enumerate(read):
        for number, words in enumerate(mine):
            tokens[row, number, : len(words)] = words
    found = cross_attention(decoder, memory, tokens.to(memory.vectors.device))
    chosen = (found if wanted is None else found[:, wanted[0], wanted[1]]).float().cpu()
    parts = iter(chosen.split([len(words) for mine in read for words in mine]))
    return [[next(parts) for _ in mine] for mine in read]


def _rolled(decoder: Decoder, memory: Memory, words: Tensor) -> Tensor:
    if not len(words):
        return torch.zeros(0, memory.places)
    return rollout(decoder, memory, words.to(memory.vectors.device).view(1, 1, -1)).float().cpu()


def cross_attention(decoder: Decoder, memory: Memory, tokens: Tensor) -> Tensor:
    """Return where each head of each block looked at the real words of captions (B, K, T), in their order: (M, L, H, N)."""
    while isinstance(decoder, Refined):
        memory, decoder = decoder.refiner(memory), decoder.decoder
    assert isinstance(decoder, HasHeads)
    return decoder.cross_attention(memory, tokens)


def rollout(decoder: Decoder, memory: Memory, tokens: Tensor) -> Tensor:
    """Return attention rollout, (T, N) with rows that sum to one, for one caption (1, 1, T) of one photo; see :func:`look_again`."""
    inner: Any = _inner(decoder)
    refining: list[Any] = [
        block for module in decoder.modules() if isinstance(module, TransformerRefiner) for block in module.blocks
    ]
    with _inputs([*refining, *inner.blocks]) as inputs:
        crossed = cross_attention(decoder, memory, tokens).mean(2).unbind(1)
    size, steps = memory.places, tokens.shape[-1]
    places = torch.eye(size, device=tokens.device, dtype=crossed[0].dtype)
    for block, (x, *more) in zip(refining, inputs[: len(refining)], strict=True):
        own, mask = block.attention, more[0] if more else key_mask(memory.mask)
        y = block.around_attention.before(x)
        places = _half(own.weights(own.query(y), own.split(own.key_value(y)), mask=mask)[0].mean(0), places)
    earlier = torch.ones(steps, steps, dtype=torch.bool, device=tokens.device).tril()
    words = torch.zeros(steps, size, device=tokens.device, dtype=places.dtype)
    for block, (x, *_), weights in zip(inner.blocks, inputs[len(refining) :], crossed, strict=True):
        own = block.self_attention
        y = block.around_self_attention.before(x).unsqueeze(0)
        words = _half(own.weights(own.query(y), own.split(own.key_value(y)), mask=earlier)[0].mean(0), words)
        words = 0.5 * words + 0.5 * weights @ places
    return words / words.sum(1, keepdim=True)


def _half(weights: Tensor, before: Tensor) -> Tensor:
    return 0.5 * before + 0.5 * weights @ before


def _inner(decoder: Decoder) -> Decoder:
    while isinstance(decoder, Refined):
        decoder = decoder.decoder
    return decoder


@contextmanager
def _inputs(blocks: list[Any]) -> Iterator[list[tuple[Any, ...]]]:
    """Give a list that fills with what the blocks are called with, in their order."""
    inputs: list[tuple[Any, ...]] = []
    hooks = [block.register_forward_pre_hook(lambda module, arguments: inputs.append(arguments)) for block in blocks]
    try:
        yield inputs
    finally:
        for hook in hooks:
            hook.remove()
