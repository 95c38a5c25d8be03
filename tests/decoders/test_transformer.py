"""The Transformer's decoder against torch's own layers, one caption at a time, and its settings."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from captioner.decoders.transformer import Transformer, TransformerConfig
from captioner.errors import ConfigError
from captioner.layers.linear import PackedLinear, packed
from captioner.layers.transformer import key_mask
from captioner.memory import Memory
from captioner.text.vocabulary import BOS, PAD
from tests.builders import FEATURES, LENGTHS, WORDS, build_decoder, build_memory, build_tokens, step_by_step
from tests.layers.test_relative import naive_weights
from tests.layers.test_transformer import torch_decoder

FORMS = [
    pytest.param(settings, id=" ".join(map(str, settings.values())) or "defaults")
    for settings in (
        {},
        {"norm": "post", "activation": "gelu"},
        {"positions": "learned", "max_words": 5, "tie_output": False},
        {"size": 12, "geometry": True},
        {"size": 12, "norm": "post", "tie_output": False},
    )
]


def build(settings: dict[str, Any], *, seed: int = 0, family: str = "transformer") -> Transformer:
    decoder = build_decoder(family, seed=seed, **settings)
    assert isinstance(decoder, Transformer)
    return decoder


def on_grid(memory: Memory) -> Memory:
    return replace(memory, grid=(2, 3))


def close(a: Tensor, b: Tensor | None) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


def reference(decoder: Transformer, memory: Memory, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Compute logits (M, V) and cross-attention (M, blocks, H, N) one caption at a time, with torch's layers."""
    config = decoder.config
    layers = [torch_decoder(block, config) for block in decoder.blocks]
    vectors = decoder.project(memory.vectors)
    if decoder.geometry is not None:
        vectors = vectors + decoder.geometry(memory)
    logits, attention = [], []
    for image, captions in enumerate(tokens):
        for caption in captions:
            words = caption[caption != PAD]
            if not len(words):
                continue
            where = torch.zeros(len(words), config.size, dtype=torch.float64)
            for t in range(len(words)):  # section 3.5
                for i in range(config.size):
                    angle = t / 10_000 ** ((i - i % 2) / config.size)
                    where[t, i] = math.cos(angle) if i % 2 else math.sin(angle)
            if config.positions == "learned":
                assert decoder.positions is not None
                where = decoder.positions[: len(words)]
            x = (decoder.embedding.weight[words] * math.sqrt(config.size) + where).unsqueeze(0)
            cells = vectors[image : image + 1]
            hidden = None if memory.mask is None else ~memory.mask[image : image + 1]
            ahead = torch.ones(len(words), len(words), dtype=torch.bool).triu(1)
            weights: list[Tensor] = []
            for layer in layers:
                # torch's layer discards the weights: request them from its attention while the layer calls it.
                inner = layer.multihead_attn

                def spy(
                    module: Any, args: Any, kwargs: Any, inner: Any = inner, weights: list[Tensor] = weights
                ) -> None:
                    if not kwargs["need_weights"]:
                        weights.append(
                            inner(*args, **kwargs | {"need_weights": True, "average_attn_weights": False})[1][0]
                        )

                with inner.register_forward_pre_hook(spy, with_kwargs=True):
                    x = layer(x, cells, tgt_mask=ahead, memory_key_padding_mask=hidden)
            x = decoder.norm(x[0])
            logits.append(x @ decoder.embedding.weight.T if decoder.output is None else decoder.output(x))
            attention.append(torch.stack(weights).permute(2, 0, 1, 3))
    return torch.cat(logits), torch.cat(attention)


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("settings", FORMS)
def test_forward_is_torchs_decoder(settings: dict[str, Any], masked: bool) -> None:
    decoder, memory, tokens = build(settings), on_grid(build_memory(masked=masked)), build_tokens()
    logits, attention = reference(decoder, memory, tokens)
    output = decoder(memory, tokens)
    close(output.logits, logits)
    close(output.attention, attention.mean((1, 2)))
    close(decoder.cross_attention(memory, tokens), attention)


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_relative_positions_are_the_papers(norm: str) -> None:
    decoder, memory = build({"norm": norm}, family="transformer_xl"), build_memory(images=1)
    words = torch.tensor([BOS, 5, 7, 5, 9])
    x = decoder.embedding.weight[words] * math.sqrt(8)
    for block in decoder.blocks:
        y, own = block.around_self_attention.sublayer_input(x), block.self_attention
        weights = torch.from_numpy(naive_weights(own, y.detach().unsqueeze(0), (5,), 5)).tril()
        weights = weights / weights.sum(-1, keepdim=True)
        close(block.weights(x.unsqueeze(0)), weights)
        values = own.split(own.key_value(y.unsqueeze(0)))
        out = own.output(own.average(weights, values))[0]
        x = block.around_self_attention(x, lambda y, out=out: out)
        y, cross = block.around_cross_attention.sublayer_input(x), block.cross_attention
        read = cross.attend(cross.query(y.unsqueeze(0)), block.memory(memory.vectors), mask=key_mask(memory.mask))
        out = cross.output(read)[0]
        x = block.around_cross_attention(x, lambda y, out=out: out)
        x = block.around_feed_forward(x, block.feed_forward)
    logits = decoder.norm(x) @ decoder.embedding.weight.T
    close(decoder(memory, words.view(1, 1, -1)).logits, logits)


@pytest.mark.parametrize("settings", FORMS)
def test_cached_steps_are_the_full_pass(settings: dict[str, Any]) -> None:
    decoder, memory, tokens = build(settings), on_grid(build_memory()), build_tokens()
    output, expected = step_by_step(decoder, memory, tokens), decoder(memory, tokens)
    close(output.logits, expected.logits)
    assert output.attention is not None
    close(output.attention, expected.attention)


def test_each_head_attends_to_unmasked_vectors_only() -> None:
    decoder, memory, tokens = build({}), build_memory(), build_tokens()
    weights = decoder.cross_attention(memory, tokens)
    assert weights.shape == (sum(map(sum, LENGTHS)), 2, 2, memory.n_vectors)
    assert memory.mask is not None
    real = memory.mask[(tokens != PAD).nonzero()[:, 0]]
    assert not weights.permute(0, 3, 1, 2)[~real].any()
    close(weights.sum(-1), torch.ones(weights.shape[:-1], dtype=torch.float64))
    assert (weights[:, 0, 0] - weights[:, 1, 1]).abs().max() > 0.1, "all heads attend to the same cells"


def test_tied_output_scores_words_with_their_vectors() -> None:
    tied, untied = build({}), build({"tie_output": False})
    sizes = [sum(parameter.numel() for parameter in decoder.parameters()) for decoder in (tied, untied)]
    assert sizes[1] - sizes[0] == WORDS * 8 + WORDS
    memory, tokens = build_memory(), build_tokens()
    word = WORDS - 1
    tokens = tokens.masked_fill(tokens == word, word - 1)  # a word that is only scored, never read
    before = tied(memory, tokens).logits
    with torch.no_grad():
        tied.embedding.weight[word] *= 2
    after = tied(memory, tokens).logits
    close(after[:, word], 2 * before[:, word])
    close(after[:, :word], before[:, :word])


def test_the_vector_of_padding_gets_no_gradient() -> None:
    decoder, tokens = build({}), build_tokens()
    F.cross_entropy(decoder(build_memory(), tokens).logits, tokens[tokens != PAD]).backward()
    gradient = decoder.embedding.weight.grad
    assert gradient is not None and not gradient[PAD].any() and gradient[PAD + 1 :].any(1).all()


def test_the_order_of_words_matters_and_learned_positions_start_as_sinusoidal_ones() -> None:
    memory = build_memory(images=1)
    config = {"blocks": 1, "size": 8, "heads": 2, "feed_forward": 12}
    sinusoidal, learned = (
        Transformer(TransformerConfig(**config, positions=positions), features=FEATURES, words=WORDS).double().eval()  # type: ignore[arg-type]
        for positions in ("sinusoidal", "learned")
    )
    learned.load_state_dict(sinusoidal.state_dict(), strict=False)
    tokens, swapped = torch.tensor([[[BOS, 5, 6, 7]]]), torch.tensor([[[BOS, 6, 5, 7]]])
    torch.testing.assert_close(learned(memory, tokens).logits, sinusoidal(memory, tokens).logits, rtol=0, atol=1e-6)
    # With one block the last word sees the same words with the same vectors: only their positions differ.
    assert (sinusoidal(memory, tokens).logits[-1] - sinusoidal(memory, swapped).logits[-1]).abs().max() > 1e-4
    with torch.no_grad():
        learned.positions.zero_()  # type: ignore[union-attr]
    close(learned(memory, tokens).logits[-1], learned(memory, swapped).logits[-1])


def test_only_learned_positions_limit_the_length_of_captions() -> None:
    decoder, memory = build({"positions": "learned", "max_words": 3}), build_memory(images=1)
    assert len(decoder(memory, torch.full((1, 1, 4), 5)).logits) == 4
    with pytest.raises(ConfigError, match="end after 3 words, and a caption has 4"):
        decoder(memory, torch.full((1, 1, 5), 5))
    state = decoder.start(memory)
    for _ in range(4):
        state = decoder.step(torch.full((1, 1), 5), state).state
    with pytest.raises(ConfigError, match="max_words"):
        decoder.step(torch.full((1, 1), 5), state)
    for endless in (build({"max_words": 3}), build({}, family="transformer_xl")):
        assert endless(memory, torch.full((1, 1, 100), 5)).logits.isfinite().all()


def test_geometry_adds_positions() -> None:
    memory, tokens = on_grid(build_memory(masked=False)), build_tokens()
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    moved = replace(memory, vectors=memory.vectors[:, order])
    blind, sighted = build({}), build({"geometry": True})
    close(blind(moved, tokens).logits, blind(memory, tokens).logits)
    assert (sighted(moved, tokens).logits - sighted(memory, tokens).logits).abs().max() > 0.01


def test_training_returns_attention_on_request_and_learns_from_it() -> None:
    memory, tokens = build_memory(), build_tokens()
    assert build({}).train()(memory, tokens).attention is None
    decoder = build({"train_attention": True})
    output, expected = decoder.train()(memory, tokens), build({})(memory, tokens)
    close(output.attention, expected.attention)
    output.attention.square().sum().backward()
    assert all(block.cross_attention.query.weight.grad.any() for block in decoder.blocks)


def test_masked_vectors_have_no_influence_and_no_gradient() -> None:
    decoder, memory, tokens = build({}), build_memory(), build_tokens()
    assert memory.mask is not None
    hidden = ~memory.mask.unsqueeze(-1)
    other = replace(memory, vectors=memory.vectors.masked_fill(hidden, 1e3).requires_grad_())
    output = decoder(other, tokens)
    close(output.logits, decoder(memory, tokens).logits)
    (gradient,) = torch.autograd.grad(output.logits.square().sum(), other.vectors)
    assert torch.equal(gradient.flatten(1).any(1), torch.tensor(LENGTHS).sum(1) > 0), (
        "an image without captions got a gradient"
    )
    assert not gradient[hidden.expand_as(gradient)].any()


def test_a_batch_without_captions_and_a_fully_masked_image_work() -> None:
    decoder, memory, tokens = build({}), build_memory(), build_tokens()
    output = decoder(memory, torch.full_like(tokens, PAD))
    assert output.logits.shape == (0, WORDS) and output.attention.shape == (0, memory.n_vectors)
    assert memory.mask is not None
    mask = memory.mask.clone()
    mask[0] = False
    assert decoder(replace(memory, mask=mask), tokens).logits.isfinite().all()


@pytest.mark.parametrize("tied", [True, False])
@torch.inference_mode()
def test_the_packed_copy_packs_the_output_layer(tied: bool) -> None:
    copy, memory = packed(build({"tie_output": tied}).float(), torch.float32), build_memory().to(dtype=torch.float32)
    widths: list[int] = []
    for module in copy.modules():
        if isinstance(module, PackedLinear):
            module.register_forward_hook(lambda _, inputs, output: widths.append(output.shape[-1]))
    copy.step(torch.full((len(memory), 1), BOS), copy.start(memory))
    assert widths.count(WORDS) == 1
