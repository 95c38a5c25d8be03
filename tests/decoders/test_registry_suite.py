"""Tests of every decoder family: adding one to the registry adds its tests."""

from __future__ import annotations

from typing import Any

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor, nn

from captioner import backend
from captioner.decoders import DECODERS, DecoderOutput
from captioner.text.vocabulary import BOS, PAD
from tests.builders import LENGTHS, WORDS, build_decoder, build_memory, build_tokens, spread_out, step_by_step

pytestmark = pytest.mark.parametrize("name", list(DECODERS))


@pytest.fixture(autouse=True)
def without_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the suite fast; compiled kernels are compared with the eager ones in ``test_kernels.py``."""
    monkeypatch.setattr(backend, "can_compile", lambda: False)


def assert_same(output: DecoderOutput, expected: DecoderOutput, tolerance: float = 1e-10) -> None:
    """Assert that two results are the same, attention included."""
    torch.testing.assert_close(output.logits, expected.logits, rtol=0, atol=tolerance)
    assert (output.attention is None) == (expected.attention is None)
    if output.attention is not None:
        torch.testing.assert_close(output.attention, expected.attention, rtol=0, atol=tolerance)


def part_of(output: DecoderOutput, tokens: Tensor, index: Any) -> DecoderOutput:
    """Return the result for ``tokens[index]`` out of that for ``tokens``."""
    real = tokens[index] != PAD
    logits, attention = (None if part is None else spread_out(part, tokens)[index][real] for part in output[:2])
    assert logits is not None
    return DecoderOutput(logits, attention)


@pytest.mark.parametrize("masked", [True, False])
def test_step_by_step_is_forward(name: str, masked: bool) -> None:
    decoder, memory, tokens = build_decoder(name), build_memory(masked=masked), build_tokens()
    output = decoder(memory, tokens)
    assert output.logits.shape == (sum(map(sum, LENGTHS)), WORDS)
    assert_same(output, step_by_step(decoder, memory, tokens))


def test_the_order_of_images_does_not_matter(name: str) -> None:
    decoder, memory, tokens = build_decoder(name), build_memory(), build_tokens()
    order = torch.tensor([2, 0, 3, 1])
    assert_same(decoder(memory[order], tokens[order]), part_of(decoder(memory, tokens), tokens, order))


def test_captions_together_are_captions_one_by_one(name: str) -> None:
    decoder, memory, tokens = build_decoder(name), build_memory(), build_tokens()
    together = decoder(memory, tokens)
    for k in range(tokens.shape[1]):
        one = (slice(None), slice(k, k + 1))
        assert_same(decoder(memory, tokens[one]), part_of(together, tokens, one))


def test_more_padding_changes_nothing(name: str) -> None:
    decoder, memory, tokens = build_decoder(name), build_memory(), build_tokens()
    assert_same(decoder(memory, F.pad(tokens, (0, 3), value=PAD)), decoder(memory, tokens))


def test_picking_hypotheses_and_images_is_as_if_they_had_been_written_so(name: str) -> None:
    decoder, memory = build_decoder(name), build_memory(images=3)
    words = torch.tensor([[[BOS, 5], [BOS, 6]], [[BOS, 7], [BOS, 8]], [[BOS, 9], [BOS, 4]]])  # (B, W, T)
    state = decoder.start(memory).pick(torch.zeros(3, 2, dtype=torch.long))
    for word in words.unbind(-1):
        state = decoder.step(word, state).state

    parents, images, last = (
        torch.tensor([[1, 0, 1], [1, 1, 1], [0, 0, 1]]),
        torch.tensor([2, 0]),
        torch.tensor([[5, 10, 11], [12, 4, 3]]),
    )
    step = decoder.step(last, state.pick(parents, images=images))

    histories = torch.cat([words[torch.arange(3).unsqueeze(1), parents][images], last.unsqueeze(-1)], dim=-1)
    expected = decoder(memory[images], histories)
    ends = torch.zeros_like(histories, dtype=torch.bool)
    ends[..., -1] = True
    picked = DecoderOutput(step.logits.flatten(0, 1), None if step.attention is None else step.attention.flatten(0, 1))
    attention = None if expected.attention is None else expected.attention[ends.flatten()]
    assert_same(picked, DecoderOutput(expected.logits[ends.flatten()], attention))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.1)])
@torch.inference_mode()
def test_the_fast_twin_steps_as_the_decoder_does(name: str, dtype: torch.dtype, tolerance: float) -> None:
    decoder, memory, tokens = build_decoder(name).float(), build_memory().to(dtype=torch.float32), build_tokens()
    before = {key: tensor.clone() for key, tensor in decoder.state_dict().items()}
    fast = decoder.fast(dtype)
    expected = step_by_step(decoder, memory, tokens)
    assert_same(step_by_step(fast, memory, tokens), expected, tolerance)
    assert_same(step_by_step(fast, memory.to(dtype=torch.bfloat16), tokens), expected, 0.1)
    assert decoder.state_dict().keys() == before.keys(), "packing changed the decoder"
    assert all(torch.equal(tensor, before[key]) for key, tensor in decoder.state_dict().items())
    logits = fast.step(tokens[:, :1, 0], fast.start(memory)).logits
    assert logits.dtype == torch.float32, "words are told apart in 32 bits"


def test_what_hypotheses_share_is_never_copied(name: str) -> None:
    decoder = build_decoder(name)
    start = decoder.start(build_memory(images=2))
    wide = start.pick(torch.zeros(2, 5, dtype=torch.long))
    state = decoder.step(torch.full((2, 5), BOS), wide).state
    assert {key: tensor.data_ptr() for key, tensor in state.images.items()} == {
        key: tensor.data_ptr() for key, tensor in start.images.items()
    }
    assert all(tensor.shape[:2] == (2, 5) for tensor in state.hypotheses.values())


def test_attention_lies_on_real_places_and_sums_to_one(name: str) -> None:
    decoder, memory, tokens = build_decoder(name), build_memory(), build_tokens()
    output = decoder(memory, tokens)
    assert (output.attention is not None) == decoder.attends
    if output.attention is not None:
        assert memory.mask is not None
        masked = ~memory.mask[(tokens != PAD).nonzero()[:, 0]]
        assert masked.any() and not output.attention[masked].any()
        torch.testing.assert_close(output.attention.sum(-1), torch.ones(len(output.logits), dtype=torch.float64))
        assert output.attention.std(0).max() > 0.05, "it always looks at the same place"


def near(output: DecoderOutput, expected: DecoderOutput) -> None:
    """Assert that a 16-bit result is finite and has nearly the same probabilities and attention."""
    assert (output.logits.double().softmax(-1) - expected.logits.softmax(-1)).abs().max() < 0.02
    if output.attention is not None and expected.attention is not None:
        assert (output.attention.double() - expected.attention).abs().max() < 0.02


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_16_bit_decoder_writes_step_by_step(name: str, dtype: torch.dtype) -> None:
    decoder, memory, tokens = build_decoder(name), build_memory(), build_tokens()
    with torch.no_grad():
        expected = step_by_step(decoder, memory, tokens)
        output = step_by_step(decoder.to(dtype), memory.to(dtype=dtype), tokens)
    assert output.logits.dtype == dtype
    near(output, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_16_bit_decoder_scores_captions(name: str, dtype: torch.dtype) -> None:
    decoder, memory, tokens = build_decoder(name), build_memory(), build_tokens()
    with torch.no_grad():
        expected = decoder(memory, tokens)
        near(decoder.to(dtype)(memory.to(dtype=dtype), tokens), expected)


def test_autocast_learns_what_32_bits_learn(name: str) -> None:
    decoder, memory, tokens = build_decoder(name).float(), build_memory().to(dtype=torch.float32), build_tokens()
    targets = tokens[tokens != PAD]

    def learn(autocast: bool) -> tuple[DecoderOutput, Tensor]:
        decoder.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            output = decoder(memory, tokens)
        F.cross_entropy(output.logits.float(), targets).backward()
        return output, nn.utils.parameters_to_vector(
            [torch.zeros_like(p) if p.grad is None else p.grad for p in decoder.parameters()]
        )

    (output, gradient), (expected, reference) = learn(True), learn(False)
    near(output, expected)
    assert F.cosine_similarity(gradient, reference, dim=0) > 0.99


def test_weights_survive_a_file(name: str) -> None:
    decoder, other = build_decoder(name), build_decoder(name, seed=7)
    other.load_state_dict(safetensors.torch.load(safetensors.torch.save(decoder.state_dict())))
    memory, tokens = build_memory(), build_tokens()
    assert torch.equal(other(memory, tokens).logits, decoder(memory, tokens).logits)


@pytest.mark.parametrize("spread", [0.5, 8.0])
def test_gradients_reach_every_parameter_and_are_numbers(name: str, spread: float) -> None:
    decoder, memory, tokens = build_decoder(name, spread=spread), build_memory(), build_tokens()
    decoder(memory, tokens).logits.square().mean().backward()
    for key, parameter in decoder.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key
        assert spread > 1 or parameter.grad.any(), key


def test_a_few_steps_lower_the_loss_and_leave_padding_alone(name: str) -> None:
    decoder, memory, tokens = build_decoder(name, spread=None).train(), build_memory(), build_tokens()
    targets = build_tokens(seed=5)[tokens != PAD]
    optimiser = torch.optim.Adam(decoder.parameters(), lr=0.02, weight_decay=1e-3)
    losses = []
    for _ in range(20):
        loss = F.cross_entropy(decoder(memory, tokens).logits, targets)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    embeddings = [
        module for module in decoder.modules() if isinstance(module, nn.Embedding) and module.num_embeddings == WORDS
    ]
    assert embeddings and all(
        embedding.weight[BOS].any() and not embedding.weight[PAD].any() for embedding in embeddings
    )


def test_dropout_is_for_training_only(name: str) -> None:
    plain, dropping, memory, tokens = (
        build_decoder(name),
        build_decoder(name, dropout=0.5),
        build_memory(),
        build_tokens(),
    )
    assert torch.equal(dropping(memory, tokens).logits, plain(memory, tokens).logits)
    torch.testing.assert_close(plain.train()(memory, tokens).logits, plain.eval()(memory, tokens).logits)
    dropping.train()
    assert not torch.allclose(dropping(memory, tokens).logits, dropping(memory, tokens).logits)


def test_an_unknown_setting_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="hiden"):
        DECODERS[name].Config(**{"hiden": 4})


def test_a_new_decoder_prefers_no_word_and_forgets_nothing(name: str) -> None:
    torch.manual_seed(0)
    fields = DECODERS[name].Config.model_fields
    sizes = {"embedding": 60, "hidden": 50, "attention": 500, "values": 40}
    sizes |= {"size": 60, "heads": 2, "feed_forward": 12, "blocks": 1, "tie_output": False}
    config = DECODERS[name].Config(**{field: size for field, size in sizes.items() if field in fields})
    decoder = DECODERS[name](config, features=30, words=400)
    (words,) = (module for module in decoder.modules() if isinstance(module, nn.Embedding))
    std = 60**-0.5 if "heads" in fields else 0.1  # Vaswani 2017 multiplies by the square root of the size afterwards
    assert not words.weight[PAD].any() and words.padding_idx == PAD
    assert words.weight[PAD + 1 :].std().item() == pytest.approx(std, rel=0.03)
    assert abs(words.weight[PAD + 1 :].mean().item()) < 0.05 * std
    (output,) = (layer for layer in decoder.modules() if isinstance(layer, nn.Linear) and layer.out_features == 400)
    assert not output.bias.any() and output.weight.any()
    for module in decoder.modules():
        if isinstance(module, nn.LSTM | nn.LSTMCell):
            weights = dict(module.named_parameters())
            hidden, bias = (
                weights[next(key for key in weights if key.startswith(part))] for part in ("weight_hh", "bias_ih")
            )
            torch.testing.assert_close(hidden.T @ hidden, torch.eye(hidden.shape[1]), rtol=0, atol=1e-5)
            others, forget = bias.view(4, -1)[[0, 2, 3]], bias.view(4, -1)[1]
            assert (forget == 1).all() and (others.abs() < 0.5).all()
    if "attention" in fields:
        bound = 500**-0.5
        scores = decoder.get_parameter("score")
        assert -bound <= scores.min() < -0.9 * bound and 0.9 * bound < scores.max() <= bound


def test_sizes_and_shares_have_limits(name: str) -> None:
    config = DECODERS[name].Config
    sizes = {"embedding", "hidden", "attention", "blocks", "size", "heads", "feed_forward", "max_words"}
    for field in config.model_fields:
        refused: tuple[float, ...]
        if field in sizes:
            refused, accepted = (0, -1), (1,)
        elif field == "values":
            refused, accepted = (-1,), (0, 1)
        elif "dropout" in field:
            refused, accepted = (-0.1, 1, 1.5), (0, 0.99)
        elif field == "expected":
            refused, accepted = (-0.1, 1.1), (0, 1)
        else:
            continue
        one = {"heads": 1} if field == "size" else {}
        for value in accepted:
            assert getattr(config(**{field: value, **one}), field) == value
        for value in refused:
            with pytest.raises(ValidationError, match=field):
                config(**{field: value})


def test_searches_on_a_cpu_give_it_a_memory_in_16_bits(name: str) -> None:
    assert DECODERS[name].reads_half
