"""Text encoders, against torch's LSTM and the papers' equations run on each sentence alone, without padding."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor, nn

from captioner.encoders.refiner import REFINERS
from captioner.encoders.sequence import (
    TEXT_ENCODERS,
    SequenceEncoder,
    TextEncoder,
    WordEncoder,
    build_text_encoder,
    reverse,
)
from captioner.errors import ConfigError
from captioner.text.vocabulary import PAD
from tests.builders import naive_lstm

WORDS = 11
SENTENCES = [[4, 5, 6, 7, 2], [8, 2], [2], [4, 4, 9, 10, 2]]

every = pytest.mark.parametrize("name", list(TEXT_ENCODERS))


def build(name: str, *, dropout: float = 0.0, seed: int = 0, **settings: Any) -> TextEncoder:
    """Build a small encoder in eval mode and float64."""
    torch.manual_seed(seed)
    small = {"embedding": 6, "dropout": dropout} | ({"hidden": 5} if name == "sequence" else {}) | settings
    return build_text_encoder({"name": name, **small}, words=WORDS).double().eval()


def batch(width: int = 0) -> Tensor:
    longest = max(width, *map(len, SENTENCES))
    return torch.stack(
        [F.pad(torch.tensor(sentence), (0, longest - len(sentence)), value=PAD) for sentence in SENTENCES]
    )


@pytest.mark.parametrize("layers", [1, 2])
def test_every_sentence_is_read_as_torch_reads_it_alone(layers: int) -> None:
    encoder = build("sequence", layers=layers)
    assert isinstance(encoder, SequenceEncoder)
    memory = encoder(batch())
    assert memory.vectors.shape == (4, 5, encoder.features) and encoder.features == 10
    for row, sentence in enumerate(SENTENCES):
        states, (last, _) = encoder.lstm(encoder.embedding(torch.tensor([sentence])))
        torch.testing.assert_close(memory.vectors[row, : len(sentence)], states[0])
        torch.testing.assert_close(memory.pooled[row], torch.cat([last[-2, 0], last[-1, 0]]))


def test_pooled_is_the_forward_state_after_the_last_word_and_the_backward_one_after_the_first() -> None:
    encoder = build("sequence")
    assert isinstance(encoder, SequenceEncoder)
    pooled, sentence = encoder(batch()).pooled[0], SENTENCES[0]
    halves = []
    for suffix, order in (
        ("", sentence),
        ("_reverse", sentence[::-1]),
    ):  # reversed, this is what Sutskever's encoder leaves
        weights = [
            getattr(encoder.lstm, f"{name}_l0{suffix}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        ]
        h = c = torch.zeros(5, dtype=torch.float64)
        for word in order:
            h, c = naive_lstm(weights, encoder.embedding.weight[word], h, c)
        halves.append(h)
    torch.testing.assert_close(pooled, torch.cat(halves))


@pytest.mark.parametrize("direction", ["both", "forward", "backward"])
@pytest.mark.parametrize("layers", [1, 2])
def test_the_final_state_is_that_of_torch_after_the_last_word_of_each_sentence(direction: str, layers: int) -> None:
    encoder = build("sequence", direction=direction, layers=layers)
    assert isinstance(encoder, SequenceEncoder)
    both = direction == "both"
    lstm = nn.LSTM(6, 5, layers, batch_first=True, bidirectional=both).double()
    lstm.load_state_dict(encoder.lstm.state_dict())
    memory = encoder(batch(9))
    assert memory.final_state.shape == (4, 2, layers, encoder.features)
    assert encoder.features == memory.vectors.shape[-1] == (10 if both else 5)
    assert encoder.final_state == (layers, encoder.features)
    for row, sentence in enumerate(SENTENCES):
        order = sentence[::-1] if direction == "backward" else sentence
        states, (h, c) = lstm(encoder.embedding(torch.tensor([order])))
        if both:  # torch's order: layer 1 forward, layer 1 backward, layer 2 forward, ...
            h, c = (torch.stack([torch.cat([x[2 * k, 0], x[2 * k + 1, 0]]) for k in range(layers)]) for x in (h, c))
        else:
            h, c = h[:, 0], c[:, 0]
        torch.testing.assert_close(memory.final_state[row], torch.stack([h, c]))
        torch.testing.assert_close(memory.pooled[row], h[-1])
        expected = states[0].flip(0) if direction == "backward" else states[0]
        torch.testing.assert_close(memory.vectors[row, : len(sentence)], expected)
        assert not memory.vectors[row, len(sentence) :].any()


def test_backward_is_forward_over_the_reversed_words() -> None:
    forward, backward = (build("sequence", direction=direction) for direction in ("forward", "backward"))
    tokens, longest = batch(7), 7
    turned = torch.stack([F.pad(torch.tensor(one[::-1]), (0, longest - len(one)), value=PAD) for one in SENTENCES])
    torch.testing.assert_close(backward(tokens).final_state, forward(turned).final_state)
    assert not torch.allclose(backward(tokens).final_state, forward(tokens).final_state)
    mask = tokens != PAD
    assert torch.equal(reverse(tokens, mask), turned) and torch.equal(reverse(turned, mask), tokens)


def test_words_are_scaled_and_averaged() -> None:
    encoder = build("words")
    assert isinstance(encoder, WordEncoder)
    memory = encoder(batch())
    for row, sentence in enumerate(SENTENCES):
        expected = torch.stack([encoder.embedding.weight[word] for word in sentence]) * math.sqrt(6)
        torch.testing.assert_close(memory.vectors[row, : len(sentence)], expected)
        torch.testing.assert_close(memory.pooled[row], expected.mean(0))


def test_a_transformer_over_words_reads_every_sentence_as_alone() -> None:
    encoder, config = (
        build("words"),
        REFINERS["transformer"].Config(
            geometry=False, order=True, blocks=2, size=6, heads=2, feed_forward=8, dropout=0.0
        ),
    )
    refiner = REFINERS["transformer"](config, features=encoder.features).double().eval()  # type: ignore[call-arg]
    memory = refiner(encoder(batch()))
    for row, sentence in enumerate(SENTENCES):
        alone = refiner(encoder(torch.tensor([sentence])))
        torch.testing.assert_close(memory.vectors[row, : len(sentence)], alone.vectors[0])
        torch.testing.assert_close(memory.pooled[row], alone.pooled[0])
    backwards = refiner(encoder(torch.tensor([SENTENCES[0][::-1]])))
    assert not torch.allclose(backwards.pooled[0], memory.pooled[0]), "the order of words is lost"


@pytest.mark.parametrize(
    ("name", "settings"),
    [("words", {}), *(("sequence", {"direction": direction}) for direction in ("both", "forward", "backward"))],
)
def test_padding_has_no_influence(name: str, settings: dict[str, Any]) -> None:
    encoder = build(name, **settings)
    memory, wider = encoder(batch()), encoder(batch(9))
    assert memory.mask is not None and memory.mask.sum(1).tolist() == [5, 2, 1, 5]
    assert not memory.vectors[~memory.mask].any()
    torch.testing.assert_close(wider.pooled, memory.pooled)
    torch.testing.assert_close(wider.final_state, memory.final_state)
    torch.testing.assert_close(wider.vectors[:, :5], memory.vectors)
    assert wider.n_vectors == 9 and not wider.vectors[:, 5:].any()
    with torch.no_grad():
        encoder.embedding.weight[PAD].fill_(3.0)  # type: ignore[union-attr,index,operator]
    torch.testing.assert_close(encoder(batch()).vectors, memory.vectors)
    torch.testing.assert_close(encoder(batch()).final_state, memory.final_state)


@every
def test_the_order_of_sentences_does_not_matter(name: str) -> None:
    encoder, order = build(name), torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(encoder(batch()[order]).vectors, encoder(batch()).vectors[order])


@every
def test_gradients_reach_everything_but_padding(name: str) -> None:
    encoder = build(name)
    memory = encoder(batch())
    (memory.vectors.square().sum() + memory.pooled.square().sum()).backward()
    for key, parameter in encoder.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), key
        if key == "embedding.weight":
            assert not parameter.grad[PAD].any() and parameter.grad[[2, 4, 10]].any(1).all()


@every
def test_dropout_is_for_training_only(name: str) -> None:
    plain, dropping = build(name), build(name, dropout=0.5)
    assert torch.equal(dropping(batch()).vectors, plain(batch()).vectors)
    dropping.train()
    assert not torch.equal(dropping(batch()).vectors, dropping(batch()).vectors)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@every
def test_16_bits_give_nearly_the_same(name: str, dtype: torch.dtype) -> None:
    encoder = build(name)
    expected = encoder(batch())
    with torch.no_grad():
        memory = encoder.to(dtype)(batch())
    assert memory.vectors.dtype == dtype
    torch.testing.assert_close(memory.vectors.double(), expected.vectors, rtol=0, atol=0.02)


@every
def test_wrong_settings_are_explained(name: str) -> None:
    with pytest.raises(ConfigError, match=r"encoder: there is no setting 'embeding'.*Did you mean 'embedding'"):
        build_text_encoder({"name": name, "embeding": 4}, words=WORDS)
    with pytest.raises(ValidationError):
        TEXT_ENCODERS[name].Config(embedding=0)


def test_an_unknown_encoder_is_explained() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'sequence'"):
        build_text_encoder({"name": "sequense"}, words=WORDS)
    assert isinstance(build_text_encoder({}, words=WORDS), SequenceEncoder)
