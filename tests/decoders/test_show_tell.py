"""Show and Tell against the paper's equations (10)-(12), computed one word at a time, and the decoder of seq2seq."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from captioner.decoders import ShowTell
from captioner.layers.linear import packed
from captioner.memory import Memory
from captioner.text.vocabulary import BOS, PAD
from tests.builders import build_decoder, build_memory, build_tokens, naive_lstm, step_by_step


def naive(decoder: ShowTell, memory: Memory, tokens: Tensor) -> Tensor:
    """Show each caption's LSTM the image, or start it from the final state, then show its words; logits (M, V)."""
    w = dict(decoder.named_parameters())
    lstm = [w[f"lstm.{name}_l0"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    logits = []
    for source, captions in enumerate(tokens.tolist()):
        for caption in captions:
            if decoder.config.from_state:
                assert memory.final_state is not None
                h, c = memory.final_state[source, 0, 0], memory.final_state[source, 1, 0]
            else:
                h = c = torch.zeros(decoder.config.hidden, dtype=torch.float64)
                h, c = naive_lstm(lstm, w["image.weight"] @ memory.pooled[source] + w["image.bias"], h, c)
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


def test_forward_reads_the_image_and_then_the_words(decoder: ShowTell) -> None:
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


def test_only_the_pooled_vector_matters_and_only_at_the_start(decoder: ShowTell) -> None:
    memory, tokens = build_memory(), build_tokens()
    elsewhere = Memory(torch.randn_like(memory.vectors), memory.pooled)
    assert torch.equal(decoder(memory, tokens).logits, decoder(elsewhere, tokens).logits)
    other = Memory(memory.vectors, memory.pooled + 1.0)
    assert not torch.allclose(decoder(memory, tokens).logits, decoder(other, tokens).logits)


def test_a_new_decoder_starts_with_open_forget_gates() -> None:
    _, forget, _, _ = build_decoder("show_tell", spread=None).get_parameter("lstm.bias_ih_l0").chunk(4)
    assert torch.equal(forget, torch.ones_like(forget))


def seq2seq(**settings: float) -> tuple[ShowTell, Memory]:
    """Build a decoder that starts from the final state, and a memory with one."""
    built, memory = build_decoder("show_tell", from_state=True, **settings), build_memory()
    assert isinstance(built, ShowTell)
    random = torch.Generator().manual_seed(6)
    state = torch.randn(len(memory), 2, 1, built.config.hidden, generator=random, dtype=torch.float64)
    return built, replace(memory, final_state=state)


def test_seq2seq_starts_from_the_final_state() -> None:
    decoder, memory = seq2seq()
    tokens = build_tokens()
    assert memory.final_state is not None
    state = memory.final_state.requires_grad_()
    logits, expected = decoder(memory, tokens).logits, naive(decoder, memory, tokens)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(step_by_step(decoder, memory, tokens).logits, expected, rtol=0, atol=1e-10)
    leaves, direction = [state, *decoder.parameters()], torch.randn_like(logits)
    actual = torch.autograd.grad(logits, leaves, direction)
    torch.testing.assert_close(actual, torch.autograd.grad(expected, leaves, direction), rtol=0, atol=1e-9)
    assert not actual[0][2].any() and actual[0][[0, 1, 3]].all(), "image 2 has no caption"


def test_the_first_step_of_seq2seq_is_that_of_torchs_lstm() -> None:
    decoder, memory = seq2seq()
    assert memory.final_state is not None
    lstm = nn.LSTM(6, 5, batch_first=True).double()
    lstm.load_state_dict(decoder.lstm.state_dict())
    begin = torch.full((len(memory), 1), BOS)
    h, c = memory.final_state[:, 0, 0], memory.final_state[:, 1, 0]
    for row in range(len(memory)):
        states, after = lstm(decoder.embedding(begin[row : row + 1]), (h[None, row : row + 1], c[None, row : row + 1]))
        step = decoder.step(begin, decoder.start(memory))
        torch.testing.assert_close(step.logits[row], decoder.output(states[0]))
        for name, expected in zip("hc", after, strict=True):
            torch.testing.assert_close(step.state.hypotheses[name][row], expected[0])


def test_seq2seq_reads_nothing_but_the_final_state() -> None:
    decoder, memory = seq2seq()
    tokens = build_tokens()
    elsewhere = replace(memory, vectors=torch.randn_like(memory.vectors), pooled=torch.randn_like(memory.pooled))
    assert torch.equal(decoder(memory, tokens).logits, decoder(elsewhere, tokens).logits)
    assert not any(name.startswith("image") for name, _ in decoder.named_parameters())
    with pytest.raises(ValueError, match="the memory has no final_state"):
        decoder(replace(memory, final_state=None), tokens)
    with pytest.raises(ValidationError, match="feature_dropout: from_state reads no pooled feature"):
        seq2seq(feature_dropout=0.1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_seq2seq_in_16_bits_gives_nearly_the_same(dtype: torch.dtype) -> None:
    decoder, memory = seq2seq()
    tokens = build_tokens()
    with torch.no_grad():
        expected = decoder(memory, tokens).logits.softmax(-1)
        copy, half = packed(decoder.float(), torch.bfloat16), memory.to(dtype=dtype)
        start = copy.start(half)
        found = [step_by_step(copy, half, tokens)]
        with torch.autocast("cpu", torch.bfloat16):
            found.append(decoder(memory.to(dtype=torch.float32), tokens))
        found += [form(decoder.to(dtype), half, tokens) for form in (ShowTell.__call__, step_by_step)]
    assert all(tensor.dtype == torch.float32 for tensor in start.hypotheses.values()), "states keep 32 bits"
    for output in found:
        assert (output.logits.double().softmax(-1) - expected).abs().max() < 0.02
