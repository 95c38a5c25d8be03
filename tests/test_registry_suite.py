"""Tests of every decoder, and of every encoder with every decoder, with and without a refiner.

Adding a family to its registry adds its tests. Other options of the Transformer are tested where they fit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor, nn

from captioner.data.batches import Captions
from captioner.decoders import DECODERS, Decoder, DecoderOutput, State, Step
from captioner.encoders import ENCODERS, REFINERS, Encoder
from captioner.encoders.sequence import TEXT_ENCODERS
from captioner.layers.linear import packed
from captioner.machine import backend
from captioner.memory import Memory
from captioner.model import CaptionModel, ModelConfig, build_encoder
from captioner.model.checkpoint import load_model, save_model
from captioner.search.beam import beam
from captioner.search.config import SearchConfig
from captioner.text.subwords import Subwords
from captioner.text.vocabulary import BOS, EOS, PAD, Vocabulary
from captioner.training.cross_entropy import CrossEntropy, CrossEntropyConfig
from captioner.translation.model import TranslationConfig, TranslationModel, load_translator, save_translator
from tests.builders import (
    LENGTHS,
    SMALL,
    WORDS,
    build_decoder,
    build_memory,
    build_tokens,
    spread_out,
    step_by_step,
)
from tests.search.test_search import assert_same as assert_same_hypotheses
from tests.search.test_search import reference

TINY: dict[str, dict[str, Any]] = {
    "grid": {"backbone": "test_efficientnet", "weights": "random", "size": 64},
    "regions": {"weights": "random", "size": 64, "regions": 12},
    "grid+regions": {
        "grid": {"backbone": "test_efficientnet", "weights": "random", "size": 64},
        "regions": {"weights": "random", "size": 64, "regions": 12},
    },
    "sequence": {"embedding": 6, "hidden": 4},
    "backward": {"name": "sequence", "direction": "backward", "embedding": 6, "hidden": 8},
    "words": {"embedding": 8},
}
VOCABULARY = ["a", "dog", "cat", "runs", "sleeps", "red", "old"]
SENTENCES = ["a dog runs", "the old cat sleeps on a red mat", "run"]
CAPTIONS = [[[1, 4, 5, 7, 2], [1, 9, 6, 2]], [[1, 4, 6, 8, 4, 10, 2]], [[1, 5, 2], [1, 10, 5, 7, 7, 2]]]


#: other options of a family
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "conformer": ("transformer", {"relative": True, "convolution": 3, "half_steps": True}),
    "relative": ("transformer_xl", {}),
    "seq2seq": ("show_tell", {"from_state": True, "hidden": 8}),
}


def settings_of(name: str, registry: Any) -> dict[str, Any]:
    """Return the small settings of a family or a variant of one."""
    name, own = VARIANTS.get(name, (name, {}))
    return {"name": name, **small(registry[name]), **own}


def small(family: Any) -> dict[str, Any]:
    """Return small sizes for the settings that a family has, without dropout."""
    fields = family.Config.model_fields
    return {field: size for field, size in SMALL.items() if field in fields} | {
        field: 0.0 for field in fields if "dropout" in field
    }


@dataclass(frozen=True)
class Model:
    """A model of images or of text, with the same interface."""

    encoder: nn.Module
    refiner: nn.Module
    decoder: Any
    encode: Callable[[], Memory]
    reload: Callable[[Path], Model]


def build(kind: str, encoder: str, refiner: str | None, decoder: str) -> Model:
    torch.manual_seed(0)
    positions = {"geometry": False, "order": True, "axes": 1} if kind == "text" else {}
    parts = {
        "encoder": {"name": encoder, **TINY[encoder]},
        "refiner": refiner and {**settings_of(refiner, REFINERS), **positions},
        "decoder": settings_of(decoder, DECODERS),
    }
    if kind == "text":
        pieces = Subwords.learn(SENTENCES, merges=10)
        return of_text(
            TranslationModel(TranslationConfig.model_validate(parts), pieces, Subwords.learn(["ein Hund"], merges=2))
        )
    config, made = ModelConfig.model_validate(parts), image_encoder(encoder)
    torch.manual_seed(1)
    return of_images(CaptionModel.build(config, Vocabulary(VOCABULARY), made))


@cache
def image_encoder(name: str) -> Encoder:
    """Build an encoder of images once: a detector takes a while, and no test changes it."""
    with torch.random.fork_rng(devices=[]):
        return build_encoder({"name": name, **TINY[name]})


def of_images(model: CaptionModel) -> Model:
    shape = model.encoder.transform.shape
    pixels = torch.randint(0, 256, (3, *shape), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)

    def reload(folder: Path) -> Model:
        model.tuned_stages = model.encoder.stages  # so that the folder holds the encoder's random weights
        return of_images(load_model(save_model(folder, model)))

    return Model(model.encoder, model.refiner, model.decoder, lambda: model(pixels), reload)


def of_text(model: TranslationModel) -> Model:
    numbers = [model.read(sentence) for sentence in SENTENCES]
    tokens = torch.zeros(len(numbers), max(map(len, numbers)), dtype=torch.long)
    for row, sentence in enumerate(numbers):
        tokens[row, : len(sentence)] = torch.tensor(sentence)
    return Model(
        model.encoder,
        model.refiner,
        model.decoder,
        lambda: model(tokens),
        lambda folder: of_text(load_translator(save_translator(folder, model))),
    )


class Pair(NamedTuple):
    kind: str
    encoder: str
    refiner: str | None
    decoder: str


PAIRS = [
    Pair(kind, encoder, refiner, decoder)
    for kind, encoders in (("images", ENCODERS), ("text", TEXT_ENCODERS))
    for encoder in encoders
    for refiner in (None, *REFINERS)
    for decoder in DECODERS
] + [
    Pair("images", "grid", "conformer", "relative"),
    Pair("images", "grid", "conformer", "show_attend_tell"),
    Pair("text", "words", "conformer", "relative"),
    Pair("text", "sequence", None, "seq2seq"),
    Pair("text", "backward", None, "seq2seq"),
    Pair("text", "backward", None, "show_attend_tell"),
]
decoders = pytest.mark.parametrize("name", list(DECODERS))


def each(pairs: list[Pair]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        "pair", pairs, ids=["-".join(part or "plain" for part in pair[1:]) for pair in pairs]
    )


pairs = each(PAIRS)
# The folder of any decoder of regions holds the 32 MB of a detector, so one decoder for each is enough.
folders = each([pair for pair in PAIRS if "regions" not in pair.encoder or pair.decoder == "top_down"])


@pytest.fixture(autouse=True)
def without_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the suite fast; compiled kernels are compared with the eager ones in ``test_kernels.py``."""
    monkeypatch.setattr(backend, "can_compile", lambda: False)


@cache
def memory_of(kind: str, encoder: str) -> Memory:
    """Encode once, and mask half of the last image."""
    model = build(kind, encoder, None, "show_tell")
    model.encoder.eval()
    with torch.no_grad():
        memory = model.encode()
    mask = torch.ones(memory.vectors.shape[:2], dtype=torch.bool) if memory.mask is None else memory.mask.clone()
    mask[-1, memory.n_vectors // 2 :] = False
    return replace(memory, mask=mask, labels=None, scores=None)


class Joined(Decoder):
    """A refiner and a decoder as one decoder."""

    def __init__(self, model: Model) -> None:
        nn.Module.__init__(self)
        self.refiner, self.decoder = model.refiner, model.decoder
        self.attends = model.decoder.attends  # type: ignore[misc]

    def start(self, memory: Memory) -> State:
        state: State = self.decoder.start(self.refiner(memory))
        return state

    def step(self, tokens: Tensor, state: State) -> Step:
        step: Step = self.decoder.step(tokens, state)
        return step

    def forward(self, memory: Memory, tokens: Tensor) -> DecoderOutput:
        output: DecoderOutput = self.decoder(self.refiner(memory), tokens)
        return output


def parts_of(pair: Pair, dtype: torch.dtype = torch.float64) -> tuple[Any, Memory, Tensor]:
    """Return the refiner and the decoder of a pair as one, in eval mode, with a memory and tokens."""
    memory = memory_of(pair.kind, pair.encoder).to(dtype=dtype)
    return Joined(build(*pair)).to(dtype).eval(), memory, Captions.collate(CAPTIONS).inputs


def assert_same(output: DecoderOutput, expected: DecoderOutput, tolerance: float = 1e-10) -> None:
    """Assert that two results are the same, attention included."""
    torch.testing.assert_close(output.logits, expected.logits, rtol=0, atol=tolerance)
    assert (output.attention is None) == (expected.attention is None)
    if output.attention is not None:
        torch.testing.assert_close(output.attention, expected.attention, rtol=0, atol=tolerance)


def part_of(output: DecoderOutput, tokens: Tensor, index: Any) -> DecoderOutput:
    """Return the result for ``tokens[index]`` from that for ``tokens``."""
    real = tokens[index] != PAD
    logits, attention = (None if part is None else spread_out(part, tokens)[index][real] for part in output[:2])
    assert logits is not None
    return DecoderOutput(logits, attention)


def steps_are_forward(decoder: Any, memory: Memory, tokens: Tensor, tolerance: float = 1e-10) -> DecoderOutput:
    """Assert that single steps give what ``forward`` gives, with no attention on what is masked; return it."""
    with torch.no_grad():
        output = decoder(memory, tokens)
        assert_same(output, step_by_step(decoder, memory, tokens), tolerance)
    if output.attention is not None and memory.mask is not None:
        masked = ~memory.mask[(tokens != PAD).nonzero()[:, 0]]
        assert masked.any() and not output.attention[masked].any()
    return output


@pytest.mark.parametrize("masked", [True, False])
@decoders
def test_step_by_step_is_forward(name: str, masked: bool) -> None:
    output = steps_are_forward(build_decoder(name), build_memory(masked=masked), build_tokens())
    assert output.logits.shape == (sum(map(sum, LENGTHS)), WORDS)


@pairs
def test_step_by_step_is_forward_on_encoded_memories(pair: Pair) -> None:
    steps_are_forward(*parts_of(pair), tolerance=1e-9)


def near(output: DecoderOutput, expected: DecoderOutput) -> None:
    """Assert that a 16-bit result is finite and has nearly the same probabilities and attention."""
    assert (output.logits.double().softmax(-1) - expected.logits.softmax(-1)).abs().max() < 0.02
    if output.attention is not None and expected.attention is not None:
        assert (output.attention.double() - expected.attention).abs().max() < 0.02


def half_precision_is_near(decoder: Any, memory: Memory, tokens: Tensor, dtype: torch.dtype) -> None:
    with torch.no_grad():
        expected = decoder(memory, tokens)
        output = decoder.to(dtype)(memory.to(dtype=dtype), tokens)
    assert output.logits.dtype == dtype
    near(output, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@decoders
def test_a_16_bit_decoder_scores_captions(name: str, dtype: torch.dtype) -> None:
    half_precision_is_near(build_decoder(name), build_memory(), build_tokens(), dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pairs
def test_a_16_bit_decoder_scores_captions_of_encoded_memories(pair: Pair, dtype: torch.dtype) -> None:
    half_precision_is_near(*parts_of(pair, torch.float32), dtype)


@decoders
def test_the_order_of_images_does_not_matter(name: str) -> None:
    decoder, memory, tokens = build_decoder(name), build_memory(), build_tokens()
    order = torch.tensor([2, 0, 3, 1])
    assert_same(decoder(memory[order], tokens[order]), part_of(decoder(memory, tokens), tokens, order))


@decoders
def test_captions_together_are_captions_one_by_one(name: str) -> None:
    decoder, memory, tokens = build_decoder(name), build_memory(), build_tokens()
    together = decoder(memory, tokens)
    for k in range(tokens.shape[1]):
        one = (slice(None), slice(k, k + 1))
        assert_same(decoder(memory, tokens[one]), part_of(together, tokens, one))


@decoders
def test_more_padding_changes_nothing(name: str) -> None:
    decoder, memory, tokens = build_decoder(name), build_memory(), build_tokens()
    assert_same(decoder(memory, F.pad(tokens, (0, 3), value=PAD)), decoder(memory, tokens))


@decoders
def test_picked_hypotheses_and_images_continue_as_full_captions(name: str) -> None:
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


@decoders
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.1)])
@torch.inference_mode()
def test_the_packed_copy_steps_as_the_decoder_does(name: str, dtype: torch.dtype, tolerance: float) -> None:
    decoder, memory, tokens = build_decoder(name).float(), build_memory().to(dtype=torch.float32), build_tokens()
    before = {key: tensor.clone() for key, tensor in decoder.state_dict().items()}
    fast = packed(decoder, dtype)
    expected = step_by_step(decoder, memory, tokens)
    assert_same(step_by_step(fast, memory, tokens), expected, tolerance)
    assert_same(step_by_step(fast, memory.to(dtype=torch.bfloat16), tokens), expected, 0.1)
    assert decoder.state_dict().keys() == before.keys(), "packing changed the decoder"
    assert all(torch.equal(tensor, before[key]) for key, tensor in decoder.state_dict().items())
    logits = fast.step(tokens[:, :1, 0], fast.start(memory)).logits
    assert logits.dtype == torch.float32, "logits have 32 bits"


@decoders
def test_shared_tensors_are_never_copied(name: str) -> None:
    decoder = build_decoder(name)
    start = decoder.start(build_memory(images=2))
    wide = start.pick(torch.zeros(2, 5, dtype=torch.long))
    state = decoder.step(torch.full((2, 5), BOS), wide).state
    assert {key: tensor.data_ptr() for key, tensor in state.images.items()} == {
        key: tensor.data_ptr() for key, tensor in start.images.items()
    }
    assert all(tensor.shape[:2] == (2, 5) for tensor in state.hypotheses.values())


@decoders
def test_attention_is_on_unmasked_vectors_and_sums_to_one(name: str) -> None:
    decoder, memory, tokens = build_decoder(name), build_memory(), build_tokens()
    output = decoder(memory, tokens)
    assert (output.attention is not None) == decoder.attends
    if output.attention is not None:
        assert memory.mask is not None
        masked = ~memory.mask[(tokens != PAD).nonzero()[:, 0]]
        assert masked.any() and not output.attention[masked].any()
        torch.testing.assert_close(output.attention.sum(-1), torch.ones(len(output.logits), dtype=torch.float64))
        assert output.attention.std(0).max() > 0.05, "it always attends to the same cell"


@decoders
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_16_bit_decoder_writes_step_by_step(name: str, dtype: torch.dtype) -> None:
    decoder, memory, tokens = build_decoder(name), build_memory(), build_tokens()
    with torch.no_grad():
        expected = step_by_step(decoder, memory, tokens)
        output = step_by_step(decoder.to(dtype), memory.to(dtype=dtype), tokens)
    assert output.logits.dtype == dtype
    near(output, expected)


@decoders
def test_autocast_gives_the_gradients_of_32_bits(name: str) -> None:
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


@decoders
@pytest.mark.parametrize("spread", [0.5, 8.0])
def test_gradients_reach_every_parameter_and_are_numbers(name: str, spread: float) -> None:
    decoder, memory, tokens = build_decoder(name, spread=spread), build_memory(), build_tokens()
    decoder(memory, tokens).logits.square().mean().backward()
    for key, parameter in decoder.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key
        assert spread > 1 or parameter.grad.any(), key


@decoders
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


@decoders
def test_masked_vectors_have_no_influence_and_no_gradient(name: str) -> None:
    decoder, memory, tokens = build_decoder(name), build_memory(), build_tokens()
    assert memory.mask is not None
    hidden = ~memory.mask.unsqueeze(-1)
    other = replace(memory, vectors=memory.vectors.masked_fill(hidden, 1e3).requires_grad_())
    output = decoder(other, tokens)
    torch.testing.assert_close(output.logits, decoder(memory, tokens).logits, rtol=0, atol=1e-12)
    if decoder.attends:
        (gradient,) = torch.autograd.grad(output.logits.square().sum(), other.vectors)
        assert not gradient[hidden.expand_as(gradient)].any() and gradient[memory.mask].any()


@decoders
def test_an_image_without_captions_gets_no_gradient(name: str) -> None:
    decoder, memory, tokens = build_decoder(name), build_memory(), build_tokens()
    source = (memory.vectors if decoder.attends else memory.pooled).requires_grad_()
    (gradient,) = torch.autograd.grad(decoder(memory, tokens).logits.square().sum(), source)
    assert torch.equal(gradient.flatten(1).any(1), torch.tensor(LENGTHS).sum(1) > 0)


@decoders
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


@decoders
def test_an_unknown_setting_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="hiden"):
        DECODERS[name].Config(**{"hiden": 4})


@pairs
def test_masked_vectors_have_no_influence(pair: Pair) -> None:
    decoder, memory, tokens = parts_of(pair)
    assert memory.mask is not None
    changed = replace(memory, vectors=memory.vectors.masked_fill(~memory.mask.unsqueeze(-1), 7.0))
    with torch.no_grad():
        logits, expected = (decoder(each, tokens).logits for each in (changed, memory))
        torch.testing.assert_close(logits, expected, rtol=0, atol=1e-9)


@pairs
def test_beam_search_is_the_naive_one(pair: Pair) -> None:
    decoder, memory, _ = parts_of(pair)
    config = SearchConfig(width=3, n_best=3, max_words=5)
    for image, found in enumerate(beam(decoder, memory, config)):
        assert_same_hypotheses(found, reference(decoder, memory[image : image + 1], config))


@folders
def test_it_is_the_same_from_a_folder(pair: Pair, tmp_path: Path) -> None:
    model = build(*pair)
    again = model.reload(tmp_path / "model")
    tokens = torch.tensor([[[BOS, 4, 5]]] * 3)
    for part in (model, again):
        part.encoder.eval()
        part.refiner.eval()
        part.decoder.eval()
    with torch.no_grad():
        read, expected = (part.decoder(part.refiner(part.encode()), tokens).logits for part in (again, model))
    assert torch.equal(read, expected)


@pairs
def test_a_few_steps_of_training_lower_the_loss(pair: Pair) -> None:
    model, objective = build(*pair), CrossEntropy(CrossEntropyConfig(label_smoothing=0.0))
    captions = Captions.collate(CAPTIONS)
    trained = [("decoder", model.decoder.train()), ("refiner", model.refiner.train())]
    if pair.kind == "text":  # encoders of images are pretrained
        trained.append(("encoder", model.encoder.train()))
    parameters = [parameter for _, part in trained for parameter in part.parameters()]
    optimiser = torch.optim.Adam(parameters, lr=0.03)
    losses = []
    for step in range(12):
        memory = model.encode() if pair.kind == "text" else memory_of(pair.kind, pair.encoder)
        loss, _ = objective(model.refiner, model.decoder, memory, captions)
        optimiser.zero_grad()
        loss.backward()
        if step == 0:
            for name, part in trained:
                for key, parameter in part.named_parameters():
                    assert parameter.grad is not None and parameter.grad.isfinite().all(), f"{name}.{key}"
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


@pairs
def test_an_end_to_end_search_gives_captions(pair: Pair) -> None:
    model = build(*pair)
    model.encoder.eval()
    with torch.no_grad():
        found = beam(model.decoder.eval(), model.refiner.eval()(model.encode()), SearchConfig(width=2, max_words=4))
    assert [len(hypotheses) for hypotheses in found] == [1, 1, 1] and all(
        EOS not in found[image][0].words for image in range(3)
    )


@decoders
def test_a_new_decoder_prefers_no_word_and_has_open_forget_gates(name: str) -> None:
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


@decoders
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


@decoders
def test_searches_on_a_cpu_give_it_a_memory_in_16_bits(name: str) -> None:
    assert vars(DECODERS[name])["reads_half"]
