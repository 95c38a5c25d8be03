"""Where the single heads of a Transformer looked, or all of its blocks together.

A caption carries the mean over blocks and heads. The others are asked of the model once more: the photo is encoded again and the caption's words are fed
to the decoder all at once.

Letters in shapes: T words, N places, L blocks, H heads.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import torch
from PIL import Image
from torch import Tensor

from captioner.caption import Caption
from captioner.captioner import Captioner
from captioner.decoders import Decoder, Refined
from captioner.encoders import TransformerRefiner
from captioner.errors import CaptionerError
from captioner.memory import Memory
from captioner.text.vocabulary import BOS
from captioner.transformer import key_mask

MEAN, ROLLOUT = "mean", "rollout"


@runtime_checkable
class HasHeads(Protocol):
    """A decoder of which each head can be asked where it looked."""

    def cross_attention(self, memory: Memory, tokens: Tensor) -> Tensor:
        """Return where each head of each block looked at the real words of captions (B, K, T), in their order: (M, L, H, N)."""


def look_again(captioner: Captioner, caption: Caption, photo: Image.Image, heads: str) -> Caption:
    """Return the caption with the attention of chosen heads.

    Args:
        captioner: what wrote the caption.
        caption: it must be of this photo.
        photo: upright; see :func:`captioner.data.images.load_image`.
        heads: ``mean`` gives the caption back as it is; ``2.5`` is the fifth head of the second block; ``rollout`` is attention rollout (Abnar and
            Zuidema 2020, https://arxiv.org/abs/2005.00928): how much of each place there is in a word's vector after all blocks, if each sub-layer of
            attention mixes half of what its mean head looks at with half of what was there before. The places themselves are followed back through
            the self-attention of the refiner, if the model has one, and the words through that of the decoder; what is left of words is not counted.

    Raises:
        CaptionerError: the decoder has no heads, or no such head.
    """
    if heads == MEAN:
        return caption
    wanted = check(captioner, heads)
    model, decoder = captioner.model, captioner.model.decoder
    if not caption.tokens:
        return caption
    with torch.inference_mode():
        memory = model(torch.from_numpy(model.encoder.transform.pixels(photo)).unsqueeze(0).to(captioner.device))
        numbers = [BOS, *(model.vocabulary.number(word) for word in caption.tokens[:-1])]
        tokens = torch.tensor([[numbers]], device=captioner.device)
        weights = rollout(decoder, memory, tokens) if wanted is None else cross_attention(decoder, memory, tokens)[:, wanted[0], wanted[1]]
    boxes = None if memory.boxes is None else memory.boxes[0].float().cpu()
    return replace(caption, attention=weights.float().cpu(), boxes=boxes, others=[])


def check(captioner: Captioner, heads: str) -> tuple[int, int] | None:
    """Read ``heads``: block and head, counted from zero, or ``None`` for those that are no single head.

    Raises:
        CaptionerError: see :func:`look_again`.
    """
    if heads == MEAN:
        return None
    found = re.fullmatch(r"(\d+)\.(\d+)", heads)
    if found is None and heads != ROLLOUT:
        raise CaptionerError(f"heads: {heads!r} is none of mean, rollout and BLOCK.HEAD, for example 2.5 for the fifth head of the second block")
    decoder = _inner(captioner.model.decoder)
    if not isinstance(decoder, HasHeads):
        raise CaptionerError(f"heads: {heads} is for models whose decoder is a Transformer; this one has a single attention, which mean shows")
    if found is None:
        return None
    config: Any = decoder.config
    block, head = int(found[1]), int(found[2])
    if not (1 <= block <= config.blocks and 1 <= head <= config.heads):
        raise CaptionerError(f"heads: there is no head {heads}; this model has blocks 1 to {config.blocks}, each with heads 1 to {config.heads}")
    return block - 1, head - 1


def cross_attention(decoder: Decoder, memory: Memory, tokens: Tensor) -> Tensor:
    """Return where each head of each block looked, (T, L, H, N), for one caption (1, 1, T) of one photo."""
    while isinstance(decoder, Refined):
        memory, decoder = decoder.refiner(memory), decoder.decoder
    assert isinstance(decoder, HasHeads)
    return decoder.cross_attention(memory, tokens)


def rollout(decoder: Decoder, memory: Memory, tokens: Tensor) -> Tensor:
    """Return attention rollout, (T, N) with rows that sum to one, for one caption (1, 1, T) of one photo; see :func:`look_again`."""
    inner: Any = _inner(decoder)
    refining: list[Any] = [block for module in decoder.modules() if isinstance(module, TransformerRefiner) for block in module.blocks]
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
