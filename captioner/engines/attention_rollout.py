"""The attention of single heads of a Transformer, or of all its blocks together.

A search keeps only the mean over blocks and heads of every hypothesis: each head separately would take blocks times
heads as much memory, mostly for captions that are discarded. The heads' attention for the captions that it found is
computed on request, from the same memory, by teacher forcing.

Tensor letters: B images, K captions of an image, T words, M words of all captions, N regions, L blocks, H heads.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from captioner.caption import HEADS, MEAN, ROLLOUT
from captioner.decoders import Decoder
from captioner.encoders import Refiner, TransformerRefiner
from captioner.encoders.refiner import Identity
from captioner.errors import CaptionerError
from captioner.memory import Memory
from captioner.model import CaptionModel
from captioner.text.vocabulary import BOS, PAD


@runtime_checkable
class HasHeads(Protocol):
    """A decoder that can return the attention of each head."""

    def cross_attention(self, memory: Memory, tokens: Tensor) -> Tensor:
        """Return each head's attention at the real words of captions (B, K, T), in their order: (M, L, H, N)."""


def check(model: CaptionModel, attention: str) -> tuple[int, int] | None:
    """Check that a model has a kind of attention.

    Args:
        model: the model.
        attention: ``mean``, ``rollout``, ``heads`` or ``BLOCK.HEAD``; see :func:`recompute_attention`.

    Returns:
        Block and head, counted from zero, or ``None`` if it is not a single head.

    Raises:
        CaptionerError: the head does not exist, the decoder is not a Transformer, or ``rollout`` cannot trace the
            refiner.
    """
    decoder: Decoder = model.decoder
    if attention == MEAN:
        return None
    found = re.fullmatch(r"(\d+)\.(\d+)", attention)
    if found is None and attention not in (ROLLOUT, HEADS):
        raise CaptionerError(
            f"attention: {attention!r} is none of mean, rollout, heads and BLOCK.HEAD, for example 2.3 for the third "
            "head of the second block"
        )
    if not isinstance(decoder, HasHeads):
        raise CaptionerError(
            f"attention: {attention} is for models whose decoder is a Transformer; this one has a single attention, "
            "which mean shows"
        )
    if attention == ROLLOUT and not isinstance(model.refiner, TransformerRefiner | Identity):
        raise CaptionerError(
            f"attention: rollout cannot trace regions through the refiner {type(model.refiner).__name__}, only through "
            "a Transformer; take mean, heads or BLOCK.HEAD"
        )
    if found is None:
        return None
    config: Any = decoder.config
    block, head = int(found[1]), int(found[2])
    if not (1 <= block <= config.blocks and 1 <= head <= config.heads):
        raise CaptionerError(
            f"attention: there is no head {attention}; this model has blocks 1 to {config.blocks}, each with heads "
            f"1 to {config.heads}"
        )
    return block - 1, head - 1


@torch.inference_mode()
def recompute_attention(
    model: CaptionModel, memory: Memory, captions: Sequence[Sequence[Sequence[int]]], attention: str
) -> list[list[Tensor]]:
    """Return the requested attention at every word of captions, by teacher forcing.

    The attention at a word is the same as in the search, where the decoder had read the same words.

    Args:
        model: the model that wrote the captions.
        memory: of B images, before the refiner.
        captions: for each image its captions, as indices of words without ``<bos>`` and ``<eos>``.
        attention: ``mean`` is the attention of a search, for any decoder that attends; ``2.3`` is the third head of the
            second block; ``heads`` is all of them; ``rollout`` is attention rollout (Abnar and Zuidema 2020,
            https://arxiv.org/abs/2005.00928): the share of each region in a word's vector after all blocks, if the
            output of each attention sub-layer is half its input and half the average under the mean of its heads. The
            regions are traced back through the self-attention of the refiner, if the model has one, and the words
            through that of the decoder; the remaining share of words is not counted.

    Returns:
        For each image and caption (T, N), or (T, L, H, N) for ``heads``, float32 on the CPU.

    Raises:
        CaptionerError: see :func:`check`.
    """
    head = check(model, attention)
    inputs = [
        [torch.tensor([BOS, *words[:-1]]) if words else torch.empty(0, dtype=torch.long) for words in of_image]
        for of_image in captions
    ]
    if attention == ROLLOUT:
        return [
            [_caption_rollout(model, memory[image : image + 1], words) for words in of_image]
            for image, of_image in enumerate(inputs)
        ]
    lengths = [len(words) for of_image in inputs for words in of_image]
    tokens = torch.full((len(inputs), max(1, *map(len, inputs)), max(1, *lengths)), PAD)
    for image, of_image in enumerate(inputs):
        for caption, words in enumerate(of_image):
            tokens[image, caption, : len(words)] = words
    tokens = tokens.to(memory.vectors.device)
    if attention == MEAN:
        chosen = model.decoder(model.refiner(memory), tokens).attention
    else:
        assert isinstance(model.decoder, HasHeads)
        weights = model.decoder.cross_attention(model.refiner(memory), tokens)
        chosen = weights if head is None else weights[:, head[0], head[1]]
    parts = iter(chosen.float().cpu().split(lengths))
    return [[next(parts) for _ in of_image] for of_image in inputs]


def _caption_rollout(model: CaptionModel, memory: Memory, words: Tensor) -> Tensor:
    """Return the rollout (T, N) of one caption (T,) of one image, on the CPU."""
    if not len(words):
        return torch.zeros(0, memory.n_vectors)
    return rollout(model.refiner, model.decoder, memory, words.to(memory.vectors.device).view(1, 1, -1)).float().cpu()


def rollout(refiner: Refiner, decoder: Any, memory: Memory, tokens: Tensor) -> Tensor:
    """Return attention rollout, (T, N) with rows that sum to one, for one caption (1, 1, T) of one image.

    See :func:`recompute_attention`.

    Args:
        refiner: of the model.
        decoder: a Transformer.
        memory: of the image, before the refiner.
        tokens: the caption, without ``<eos>``.
    """
    refining: list[Any] = list(refiner.blocks) if isinstance(refiner, TransformerRefiner) else []
    with _inputs([*refining, *decoder.blocks]) as inputs:
        by_block = decoder.cross_attention(refiner(memory), tokens).mean(2).unbind(1)
    size, steps = memory.n_vectors, tokens.shape[-1]
    regions = torch.eye(size, device=tokens.device, dtype=by_block[0].dtype)
    for block, given in zip(refining, inputs[: len(refining)], strict=True):
        regions = _mix(block.weights(*given)[0].mean(0), regions)
    words = torch.zeros(steps, size, device=tokens.device, dtype=regions.dtype)
    for block, (x, *_), weights in zip(decoder.blocks, inputs[len(refining) :], by_block, strict=True):
        words = _mix(block.weights(x.unsqueeze(0))[0].mean(0), words)
        words = 0.5 * words + 0.5 * weights @ regions
    return words / words.sum(1, keepdim=True)


def _mix(weights: Tensor, before: Tensor) -> Tensor:
    """Mix half of the shares before a sub-layer with half of their average under its weights."""
    return 0.5 * before + 0.5 * weights @ before


@contextmanager
def _inputs(blocks: list[Any]) -> Iterator[list[tuple[Any, ...]]]:
    """Yield a list to which the arguments of every call of the blocks are appended."""
    inputs: list[tuple[Any, ...]] = []
    hooks = [block.register_forward_pre_hook(lambda module, arguments: inputs.append(arguments)) for block in blocks]
    try:
        yield inputs
    finally:
        for hook in hooks:
            hook.remove()
