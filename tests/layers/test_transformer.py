"""The Transformer's blocks against the paper's formula in numpy and torch's own layers with the same weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from captioner.errors import ConfigError
from captioner.layers.attention import Attention
from captioner.layers.conformer import ConvolutionModule
from captioner.layers.relative import RelativeAttention
from captioner.layers.transformer import BlockConfig, DecoderBlock, EncoderBlock, EncoderBlockConfig, Rows, key_mask
from captioner.settings import validate

SIZE, HEADS = 8, 2
FORMS = [
    pytest.param({"norm": norm, "activation": activation}, id=f"{norm}-{activation}")
    for norm in ("pre", "post")
    for activation in ("relu", "gelu")
]
MASK = torch.tensor([[True, True, False, True, False], [True] * 5, [False, False, False, False, True]])


def small(settings: dict[str, Any]) -> EncoderBlockConfig:
    return EncoderBlockConfig(size=SIZE, heads=HEADS, feed_forward=12, dropout=0.0, **settings)


def scattered(module: nn.Module, seed: int = 0) -> Any:
    """Draw all weights at random, so no bias is zero and no norm is one."""
    random = torch.Generator().manual_seed(seed)
    module = module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=random, dtype=torch.float64) / 2)
    return module


def randoms(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def copy_attention(ours: Attention, theirs: nn.MultiheadAttention) -> None:
    theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key_value.weight]))
    theirs.out_proj.weight.copy_(ours.output.weight)
    theirs.in_proj_bias.zero_()
    theirs.out_proj.bias.zero_()


def torch_layer(kind: Any, config: BlockConfig) -> Any:
    """Make torch's layer of a kind in a block's sizes, without dropout."""
    sizes = (config.size, config.heads, config.feed_forward)
    return kind(*sizes, 0.0, config.activation, batch_first=True, norm_first=config.norm == "pre").double()


@torch.no_grad()
def torch_encoder(block: EncoderBlock, config: BlockConfig) -> nn.TransformerEncoderLayer:
    """Make torch's layer with a block's weights."""
    layer = torch_layer(nn.TransformerEncoderLayer, config)
    copy_attention(block.attention, layer.self_attn)
    layer.linear1, layer.linear2 = block.feed_forward[0], block.feed_forward[2]  # type: ignore[assignment]
    layer.norm1, layer.norm2 = block.around_attention.norm, block.around_feed_forward.norm
    return layer


@torch.no_grad()
def torch_decoder(block: DecoderBlock, config: BlockConfig) -> nn.TransformerDecoderLayer:
    """Make torch's layer with a block's weights."""
    layer = torch_layer(nn.TransformerDecoderLayer, config)
    copy_attention(block.self_attention, layer.self_attn)
    copy_attention(block.cross_attention, layer.multihead_attn)
    layer.linear1, layer.linear2 = block.feed_forward[0], block.feed_forward[2]  # type: ignore[assignment]
    layer.norm1, layer.norm2, layer.norm3 = (
        block.around_self_attention.norm,
        block.around_cross_attention.norm,
        block.around_feed_forward.norm,
    )
    return layer


def naive_attention(attention: Attention, x: Tensor, memory: Tensor, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute section 3.2's equation (1), a query and a head at a time, in numpy.

    From the mask (B, Q, N) it returns the concatenated heads (B, Q, S) and the weights (B, H, Q, N).
    """
    w_q, w_kv = attention.query.weight.detach().numpy(), attention.key_value.weight.detach().numpy()
    w_k, w_v = w_kv[:SIZE], w_kv[SIZE:]
    b, q, n, e = len(x), x.shape[1], memory.shape[1], SIZE // HEADS
    out, weights = np.zeros((b, q, SIZE)), np.zeros((b, HEADS, q, n))
    for image in range(b):
        for query in range(q):
            for head in range(HEADS):
                part = slice(head * e, (head + 1) * e)
                cells = np.flatnonzero(seen[image, query])
                scores = [
                    (w_q[part] @ x[image, query].numpy()) @ (w_k[part] @ memory[image, cell].numpy()) / np.sqrt(e)
                    for cell in cells
                ]
                alpha = np.exp(scores) / np.exp(scores).sum()
                weights[image, head, query, cells] = alpha
                out[image, query, part] = sum(
                    a * (w_v[part] @ memory[image, cell].numpy()) for a, cell in zip(alpha, cells, strict=True)
                )
    return out, weights


@pytest.mark.parametrize("masked", [True, False])
def test_attention_is_the_papers_equation(masked: bool) -> None:
    attention, x, memory = scattered(Attention(SIZE, HEADS)), randoms(3, 4, SIZE), randoms(3, 5, SIZE, seed=2)
    mask = MASK if masked else None
    out, weights = naive_attention(
        attention, x, memory, (MASK if masked else torch.ones_like(MASK))[:, None].expand(-1, 4, -1).numpy()
    )
    query, keys_values = attention.query(x), attention.split(attention.key_value(memory))
    torch.testing.assert_close(
        attention.attend(query, keys_values, mask=key_mask(mask)), torch.from_numpy(out), rtol=0, atol=1e-12
    )
    torch.testing.assert_close(
        attention.weights(query, keys_values, mask=key_mask(mask)), torch.from_numpy(weights), rtol=0, atol=1e-12
    )


def test_causal_attention_is_on_earlier_words_only() -> None:
    attention, x = scattered(Attention(SIZE, HEADS)), randoms(2, 4, SIZE)
    out, _ = naive_attention(attention, x, x, np.broadcast_to(np.tril(np.ones((4, 4), dtype=bool)), (2, 4, 4)))
    seen = attention.attend(attention.query(x), attention.split(attention.key_value(x)), causal=True)
    torch.testing.assert_close(seen, torch.from_numpy(out), rtol=0, atol=1e-12)


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("settings", FORMS)
def test_an_encoder_block_is_torchs(settings: dict[str, Any], masked: bool) -> None:
    config = small(settings)
    block = scattered(EncoderBlock(config))
    x, mask = randoms(3, 5, SIZE), MASK if masked else torch.ones_like(MASK)
    expected = torch_encoder(block, config)(x, src_key_padding_mask=~mask)
    torch.testing.assert_close(block(x, key_mask(mask) if masked else None)[mask], expected[mask], rtol=0, atol=1e-12)


@pytest.mark.parametrize("settings", FORMS)
def test_a_decoder_block_is_torchs(settings: dict[str, Any]) -> None:
    config = small(settings)
    block = scattered(DecoderBlock(config))
    words, memory = randoms(3, 2, 4, SIZE), randoms(3, 5, SIZE, seed=2)
    lengths = torch.tensor([[4, 1], [2, 3], [0, 4]])  # one caption is absent
    real = torch.arange(4) < lengths.unsqueeze(-1)
    rows = Rows((3, 2, 4), real.flatten().nonzero().squeeze(1))
    expected = torch_decoder(block, config)(
        words.flatten(0, 1),
        memory.repeat_interleave(2, dim=0),
        tgt_mask=torch.ones(4, 4, dtype=torch.bool).triu(1),
        memory_key_padding_mask=~MASK.repeat_interleave(2, dim=0),
    )
    x = block(words[real], rows, block.memory(memory), key_mask(MASK)).x
    torch.testing.assert_close(x, expected[real.flatten(0, 1)], rtol=0, atol=1e-12)


def test_a_decoder_block_resumes_from_its_cache() -> None:
    block = scattered(DecoderBlock(small({})))
    words, cells, mask = randoms(3, 2, 4, SIZE), block.memory(randoms(3, 5, SIZE, seed=2)), key_mask(MASK)
    whole = block(words.flatten(0, 2), Rows((3, 2, 4)), cells, mask, weights=True)
    cache = whole.cache.new_empty(3, 2, 2, HEADS, 0, SIZE // HEADS)
    for t in range(4):
        step = block(words[:, :, t].flatten(0, 1), Rows((3, 2, 1)), cells, mask, cache=cache, weights=True)
        cache = step.cache
        torch.testing.assert_close(step.x, whole.x.view(3, 2, 4, -1)[:, :, t].flatten(0, 1), rtol=0, atol=1e-12)
        torch.testing.assert_close(
            step.weights, whole.weights.view(3, 2, 4, HEADS, -1)[:, :, t].flatten(0, 1), rtol=0, atol=1e-12
        )
    torch.testing.assert_close(cache, whole.cache, rtol=0, atol=1e-12)


def test_dropout_is_on_the_output_of_a_sub_layer_only() -> None:
    block = EncoderBlock(EncoderBlockConfig(size=SIZE, heads=HEADS, feed_forward=12, dropout=0.9)).train()
    x = torch.randn(50, 5, SIZE)
    untouched = (block(x) == x).float().mean()  # neither of two sub-layers added anything: 0.81
    assert 0.75 < untouched < 0.87


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_a_fully_masked_image_is_finite(norm: str) -> None:
    block, x = scattered(EncoderBlock(small({"norm": norm}))), randoms(3, 5, SIZE).requires_grad_()
    mask = MASK.clone()
    mask[1] = False
    out = block(x, key_mask(mask))
    out.sum().backward()
    assert out.isfinite().all() and x.grad is not None and x.grad.isfinite().all()
    torch.testing.assert_close(out[[0, 2]], block(x, key_mask(MASK))[[0, 2]], rtol=0, atol=0)


def test_heads_that_do_not_share_the_size_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"decoder: size \(10\) must be a multiple of heads \(4\)"):
        validate(BlockConfig, {"size": 10, "heads": 4}, where="decoder")


def assert_glorot(weight: Tensor, inputs: int, outputs: int) -> None:
    """Assert that a weight is uniform within Glorot 2010's bound, equation 16, and no smaller."""
    bound = (6 / (inputs + outputs)) ** 0.5
    assert bound * 0.98 < weight.max() <= bound and -bound <= weight.min() < -bound * 0.98


def test_new_blocks_have_glorots_weights_and_no_bias() -> None:
    torch.manual_seed(0)
    config = EncoderBlockConfig(size=64, heads=4, feed_forward=96, relative=True, convolution=5, half_steps=True)
    encoder, decoder = EncoderBlock(config), DecoderBlock(config, relative=True)
    own, convolution = encoder.attention, encoder.convolution
    assert isinstance(own, RelativeAttention) and convolution is not None
    for attention in (own, decoder.self_attention, decoder.cross_attention):
        assert_glorot(attention.query.weight, 64, 64)
        assert_glorot(attention.key_value.weight, 64, 128)
        assert_glorot(attention.output.weight, 64, 64)
        assert attention.query.bias is attention.key_value.bias is attention.output.bias is None
    assert_glorot(own.relative, 64, 64)
    assert not own.content_bias.any() and not own.position_bias.any()
    for network in (encoder.feed_forward, encoder.first_feed_forward, decoder.feed_forward):
        assert network is not None
        for layer in (network[0], network[2]):
            assert_glorot(layer.weight, 64, 96)
            assert not layer.bias.any()
    assert_glorot(convolution.expand.weight, 64, 128)
    assert_glorot(convolution.project.weight, 64, 64)
    assert not convolution.expand.bias.any() and not convolution.project.bias.any() and not convolution.bias.any()
    # A sum over 5 x 5 weights, each within 1 / 5.
    assert 0.98 / 5 < convolution.weight.max() <= 1 / 5 and -1 / 5 <= convolution.weight.min() < -0.98 / 5
    line = ConvolutionModule(64, 9, axes=1).weight
    assert 0.98 / 3 < line.max() <= 1 / 3 and -1 / 3 <= line.min() < -0.98 / 3


@pytest.mark.parametrize(
    ("setting", "accepted", "refused"),
    [
        ("blocks", (1,), (0,)),
        ("size", (8,), (0, -8)),
        ("heads", (1,), (0, -1)),
        ("feed_forward", (1,), (0,)),
        ("dropout", (0, 0.99), (-0.1, 1)),
        ("convolution", (0, 1, 3), (-1, 2)),
        ("axes", (1, 2), (0, 3)),
    ],
)
def test_settings_have_limits(setting: str, accepted: tuple[float, ...], refused: tuple[float, ...]) -> None:
    for value in accepted:
        assert getattr(EncoderBlockConfig(**{setting: value}), setting) == value  # type: ignore[arg-type]
    for value in refused:
        with pytest.raises(ValidationError, match=setting):
            EncoderBlockConfig(**{setting: value})  # type: ignore[arg-type]


def test_words_are_unpacked_and_packed_in_order() -> None:
    index = torch.tensor([0, 1, 3, 6, 7, 8])
    rows, x = Rows((1, 3, 3), index), randoms(6, 4)
    spread = rows.unpack(x)
    assert spread.shape == (1, 3, 3, 4)
    expected = torch.zeros(9, 4, dtype=torch.float64)
    for row, place in enumerate(index.tolist()):
        expected[place] = x[row]
    assert torch.equal(spread.view(9, 4), expected)
    assert torch.equal(rows.pack(spread.view(3, 3, 4)), x)
    whole = Rows((2, 1, 3))
    assert torch.equal(whole.unpack(x), x.view(2, 1, 3, 4)) and torch.equal(whole.pack(x.view(2, 3, 4)), x)


class OnGpu(Tensor):
    """A tensor in this machine's memory that claims to be on a GPU, where torch's own kernel attends."""

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return torch.device("cuda")


@pytest.mark.parametrize(
    ("masked", "biased", "causal"),
    [(False, False, False), (True, False, False), (False, True, False), (True, True, False), (False, False, True)],
)
def test_torchs_kernel_attends_as_the_plain_form_does(masked: bool, biased: bool, causal: bool) -> None:
    attention, x = scattered(Attention(SIZE, HEADS)), randoms(3, 5, SIZE)
    query, keys_values = attention.query(x), attention.split(attention.key_value(x))
    settings: dict[str, Any] = {
        "mask": key_mask(MASK) if masked else None,
        "bias": randoms(3, HEADS, 5, 5, seed=2) if biased else None,
        "causal": causal,
    }
    found = attention.attend(query.as_subclass(OnGpu), keys_values, **settings).as_subclass(Tensor)
    torch.testing.assert_close(found, attention.attend(query, keys_values, **settings), rtol=0, atol=1e-12)
