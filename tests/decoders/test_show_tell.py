"""Show and Tell against the paper's equations (10)-(12), computed one word at a time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from captioner.decoders import ShowTell
from captioner.memory import Memory
from captioner.text.vocabulary import PAD
from tests.builders import build_decoder, build_memory, build_tokens, naive_lstm


def naive(decoder: ShowTell, memory: Memory, tokens: Tensor) -> Tensor:
    """Show each caption's LSTM the image, then its words; logits (M, V)."""
    w = dict(decoder.named_parameters())
    lstm = [w[f"lstm.{name}_l0"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    logits = []
    for pooled, captions in zip(memory.pooled, tokens.tolist(), strict=True):
        for caption in captions:
            h = c = torch.zeros(decoder.config.hidden, dtype=torch.float64)
            h, c = naive_lstm(lstm, w["image.weight"] @ pooled + w["image.bias"], h, c)
            for word in caption:
                if word == PAD:
                    break
                h, c = naive_lstm(lstm, w["embedding.weight"][word], h, c)
                logits.append(w["output.weight"] @ h + w["output.bias"])
    return torch.stack(logits)


@pytest.fixture
def decoder() -> ShowTell:
    built = build_decoder("show_tell")
    assert isinstance(built, ShowTell)
    return built


def test_forward_shows_the_image_and_then_tells(decoder: ShowTell) -> None:
    memory, tokens = build_memory(), build_tokens()
    output = decoder(memory, tokens)
    torch.testing.assert_close(output.logits, naive(decoder, memory, tokens), rtol=0, atol=1e-10)
    assert output.attention is None


def test_gradients_are_those_of_the_equations(decoder: ShowTell) -> None:
    memory, tokens = build_memory(), build_tokens()
    memory.pooled.requires_grad_()
    leaves = [memory.pooled, *decoder.parameters()]
    logits, expected = decoder(memory, tokens).logits, naive(decoder, memory, tokens)
    direction = torch.randn_like(logits)
    actual = torch.autograd.grad(logits, leaves, direction)
    torch.testing.assert_close(actual, torch.autograd.grad(expected, leaves, direction), rtol=0, atol=1e-9)


def test_the_image_is_seen_once_through_its_pooled_vector_only(decoder: ShowTell) -> None:
    memory, tokens = build_memory(), build_tokens()
    elsewhere = Memory(torch.randn_like(memory.vectors), memory.pooled)
    assert torch.equal(decoder(memory, tokens).logits, decoder(elsewhere, tokens).logits)
    other = Memory(memory.vectors, memory.pooled + 1.0)
    assert not torch.allclose(decoder(memory, tokens).logits, decoder(other, tokens).logits)


def test_a_new_decoder_starts_with_open_forget_gates() -> None:
    _, forget, _, _ = build_decoder("show_tell", spread=None).get_parameter("lstm.bias_ih_l0").chunk(4)
    assert torch.equal(forget, torch.ones_like(forget))
