"""Tiny decoders, memories and captions for the tests, all in float64.

Letters as in :mod:`captioner.decoders.decoder`: B images, K captions per image, T steps, N regions or cells, D
features, V words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from captioner.decoders import DECODERS, Decoder, DecoderOutput
from captioner.memory import Memory
from captioner.text.vocabulary import BOS, PAD, UNK

FEATURES, WORDS = 8, 13
SMALL = {"embedding": 6, "hidden": 5, "attention": 7, "values": 4}
SMALL |= {"blocks": 2, "size": 8, "heads": 2, "feed_forward": 12}

# (B, K): captions of different lengths, absent ones, and an image that has none at all.
LENGTHS = ((3, 1), (0, 5), (0, 0), (4, 4))


def build_decoder(
    name: str, *, dropout: float = 0.0, spread: float | None = 0.5, seed: int = 0, **settings: Any
) -> Decoder:
    """Build a small decoder in eval mode.

    Args:
        name: its family in the registry; settings that the family lacks are left out.
        dropout: the value of each of its dropout settings.
        spread: standard deviation of all weights, so none is zero and attention is far from uniform; ``None``
            keeps the family's own initialisation.
        seed: of the weights.
        settings: of this family only.
    """
    family = DECODERS[name]
    fields = family.Config.model_fields
    small = {field: size for field, size in SMALL.items() if field in fields}
    dropouts = {field: dropout for field in fields if "dropout" in field}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        decoder = family(family.Config(**(small | dropouts | settings)), features=FEATURES, words=WORDS).double().eval()
        if spread is not None:
            with torch.no_grad():
                for parameter in decoder.parameters():
                    parameter.normal_(std=spread)
                for module in decoder.modules():
                    if isinstance(module, nn.Embedding) and module.padding_idx is not None:
                        module.weight[module.padding_idx].zero_()
    return decoder


def build_memory(images: int = len(LENGTHS), places: int = 6, *, masked: bool = True, seed: int = 1) -> Memory:
    """Make a memory whose pooled vector is not the mean of its vectors.

    Masked, image b has N - 2b real vectors (at least one), scattered.
    """
    random = torch.Generator().manual_seed(seed)
    vectors = torch.randn(images, places, FEATURES, generator=random, dtype=torch.float64)
    pooled = torch.randn(images, FEATURES, generator=random, dtype=torch.float64)
    counts = (places - 2 * torch.arange(images)).clamp(min=1)
    ranks = torch.rand(images, places, generator=random).argsort(1).argsort(1)
    return Memory(vectors, pooled, mask=ranks < counts.unsqueeze(1) if masked else None)


def build_tokens(lengths: Sequence[Sequence[int]] = LENGTHS, *, seed: int = 2) -> Tensor:
    """Make captions (B, K, T) of the given lengths, ``<bos>`` included, with words that recur.

    The last column is padding only.
    """
    random = torch.Generator().manual_seed(seed)
    sizes = torch.tensor(lengths)
    steps = torch.arange(int(sizes.max()) + 1)
    tokens = torch.randint(UNK, WORDS, (*sizes.shape, len(steps)), generator=random)
    tokens[..., 0] = BOS
    return tokens.masked_fill(steps >= sizes.unsqueeze(-1), PAD)


def spread_out(packed: Tensor, tokens: Tensor) -> Tensor:
    """Unpack a part of a :class:`DecoderOutput`, (M, ...), to (B, K, T, ...), zero at padding."""
    out = packed.new_zeros(*tokens.shape, *packed.shape[1:])
    out[tokens != PAD] = packed
    return out


def step_by_step(decoder: Decoder, memory: Memory, tokens: Tensor) -> DecoderOutput:
    """Return the result of the plain loop over ``step``, which the families override in ``forward``."""
    return Decoder.forward(decoder, memory, tokens)


def naive_lstm(weights: Sequence[Tensor], x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Take one step of an LSTM by its equations.

    The weights are as torch stacks them: W_ih, W_hh, b_ih, b_hh, each input, forget, cell, output.
    """
    w_x, w_h, b_x, b_h = (weight.chunk(4) for weight in weights)
    i, f, g, o = (w_x[gate] @ x + b_x[gate] + w_h[gate] @ h + b_h[gate] for gate in range(4))
    i, f, o = (1 / (1 + torch.exp(-gate)) for gate in (i, f, o))
    c = f * c + i * torch.tanh(g)
    return o * torch.tanh(c), c


def assert_equations(naive: Callable[..., tuple[Tensor, Tensor]], decoder: Any, memory: Memory, tokens: Tensor) -> None:
    """Assert that ``forward`` gives the logits and the attention of a paper's equations computed naively."""
    logits, attention = naive(decoder, memory, tokens)
    output = decoder(memory, tokens)
    torch.testing.assert_close(output.logits, logits, rtol=0, atol=1e-10)
    torch.testing.assert_close(output.attention, attention, rtol=0, atol=1e-10)


def assert_gradients(
    naive: Callable[..., tuple[Tensor, Tensor]], decoder: Any, memory: Memory, tokens: Tensor, on: str
) -> None:
    """Assert that a loss on ``logits``, ``attention`` or ``both`` has the gradients of the naive equations."""
    leaves = dict(decoder.named_parameters()) | {
        "vectors": memory.vectors.requires_grad_(),
        "pooled": memory.pooled.requires_grad_(),
    }
    to_logits, to_attention = (torch.randn_like(out) for out in naive(decoder, memory, tokens))

    def gradients(logits: Tensor, attention: Tensor) -> dict[str, Tensor]:
        loss = torch.zeros((), dtype=torch.float64)
        if on != "attention":
            loss = loss + (logits * to_logits).sum()
        if on != "logits":
            loss = loss + ((attention - to_attention) ** 2).sum()
        found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
        return dict(zip(leaves, found, strict=True))

    expected = gradients(*naive(decoder, memory, tokens))
    torch.testing.assert_close(gradients(*decoder(memory, tokens)[:2]), expected, rtol=0, atol=1e-9)
