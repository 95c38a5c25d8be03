"""Tests of every encoder with every decoder, with and without a refiner between them.

Adding a family to its registry adds its tests. What a Transformer can be besides is tested where it fits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from captioner import backend
from captioner.checkpoint import load_model, save_model
from captioner.data.batches import Captions
from captioner.decoders import DECODERS
from captioner.encoders import ENCODERS, REFINERS, Encoder
from captioner.encoders.sequence import TEXT_ENCODERS
from captioner.memory import Memory
from captioner.model import CaptionModel, ModelConfig, build_decoder, build_encoder
from captioner.search import SearchConfig, beam
from captioner.text.subwords import Subwords
from captioner.text.vocabulary import BOS, EOS, PAD, Vocabulary
from captioner.training.cross_entropy import CrossEntropy, CrossEntropyConfig
from captioner.translation.model import TranslationConfig, TranslationModel, load_translator, save_translator
from tests.builders import SMALL, step_by_step
from tests.search.test_search import assert_same, reference

TINY: dict[str, dict[str, Any]] = {
    "grid": {"backbone": "test_efficientnet", "weights": "random", "size": 64},
    "regions": {"weights": "random", "size": 64, "regions": 12},
    "grid+regions": {
        "grid": {"backbone": "test_efficientnet", "weights": "random", "size": 64},
        "regions": {"weights": "random", "size": 64, "regions": 12},
    },
    "sequence": {"embedding": 6, "hidden": 4},
    "words": {"embedding": 8},
}
WORDS = ["a", "dog", "cat", "runs", "sleeps", "red", "old"]
SENTENCES = ["a dog runs", "the old cat sleeps on a red mat", "run"]
CAPTIONS = [[[1, 4, 5, 7, 2], [1, 9, 6, 2]], [[1, 4, 6, 8, 4, 10, 2]], [[1, 5, 2], [1, 10, 5, 7, 7, 2]]]


#: what a family can be besides
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "conformer": ("transformer", {"relative": True, "convolution": 3, "half_steps": True}),
    "relative": ("transformer_xl", {}),
}


def part_of(name: str, registry: Any) -> dict[str, Any]:
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
    """A model of pictures or of text, with the same interface."""

    encoder: nn.Module
    decoder: Any
    encode: Callable[[], Memory]
    reload: Callable[[Path], Model]


def build(kind: str, encoder: str, refiner: str | None, decoder: str) -> Model:
    torch.manual_seed(0)
    positions = {"geometry": False, "order": True, "axes": 1} if kind == "text" else {}
    parts = {
        "encoder": {"name": encoder, **TINY[encoder]},
        "refiner": refiner and {**part_of(refiner, REFINERS), **positions},
        "decoder": part_of(decoder, DECODERS),
    }
    if kind == "text":
        pieces = Subwords.learn(SENTENCES, merges=10)
        return of_text(
            TranslationModel(TranslationConfig.model_validate(parts), pieces, Subwords.learn(["ein Hund"], merges=2))
        )
    config, vocabulary, made = ModelConfig.model_validate(parts), Vocabulary(WORDS), picture_encoder(encoder)
    torch.manual_seed(1)
    last = build_decoder(config.decoder, features=made.features, words=len(vocabulary), refiner=config.refiner)
    return of_pictures(CaptionModel(config, vocabulary, made, last))


@cache
def picture_encoder(name: str) -> Encoder:
    """Build an encoder of pictures once: a detector takes a while, and no test changes it."""
    with torch.random.fork_rng(devices=[]):
        return build_encoder({"name": name, **TINY[name]})


def of_pictures(model: CaptionModel) -> Model:
    shape = model.encoder.transform.shape
    pixels = torch.randint(0, 256, (3, *shape), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)

    def reload(folder: Path) -> Model:
        model.tuned_stages = model.encoder.stages  # so that the folder holds the encoder's random weights
        return of_pictures(load_model(save_model(folder, model)))

    return Model(model.encoder, model.decoder, lambda: model(pixels), reload)


def of_text(model: TranslationModel) -> Model:
    numbers = [model.read(sentence) for sentence in SENTENCES]
    tokens = torch.zeros(len(numbers), max(map(len, numbers)), dtype=torch.long)
    for row, sentence in enumerate(numbers):
        tokens[row, : len(sentence)] = torch.tensor(sentence)
    return Model(
        model.encoder,
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
    for kind, encoders in (("pictures", ENCODERS), ("text", TEXT_ENCODERS))
    for encoder in encoders
    for refiner in (None, *REFINERS)
    for decoder in DECODERS
] + [
    Pair("pictures", "grid", "conformer", "relative"),
    Pair("pictures", "grid", "conformer", "show_attend_tell"),
    Pair("text", "words", "conformer", "relative"),
]
pytestmark = pytest.mark.parametrize(
    "pair", PAIRS, ids=["-".join(part or "plain" for part in pair[1:]) for pair in PAIRS]
)


@pytest.fixture(autouse=True)
def without_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "can_compile", lambda: False)


@cache
def memory_of(kind: str, encoder: str) -> Memory:
    """Encode once; the last image has fewer places than the first, whatever the encoder found."""
    model = build(kind, encoder, None, "show_tell")
    model.encoder.eval()
    with torch.no_grad():
        memory = model.encode()
    mask = torch.ones(memory.vectors.shape[:2], dtype=torch.bool) if memory.mask is None else memory.mask.clone()
    mask[-1, memory.n_vectors // 2 :] = False
    return Memory(memory.vectors, memory.pooled, mask, memory.grid, memory.boxes)


def tokens_of(captions: list[list[list[int]]]) -> Tensor:
    return Captions.collate(captions).inputs


def test_single_steps_are_the_whole(pair: Pair) -> None:
    decoder = build(*pair).decoder.double().eval()
    memory, tokens = memory_of(pair.kind, pair.encoder).to(dtype=torch.float64), tokens_of(CAPTIONS)
    with torch.no_grad():
        output, expected = decoder(memory, tokens), step_by_step(decoder, memory, tokens)
    torch.testing.assert_close(output.logits, expected.logits, rtol=0, atol=1e-9)
    if expected.attention is not None:
        torch.testing.assert_close(output.attention, expected.attention, rtol=0, atol=1e-9)
        hidden = ~memory.mask[(tokens != PAD).nonzero()[:, 0]]  # type: ignore[index]
        assert hidden.any() and not output.attention[hidden].any()


def test_masked_places_do_not_matter(pair: Pair) -> None:
    decoder = build(*pair).decoder.double().eval()
    memory, tokens = memory_of(pair.kind, pair.encoder).to(dtype=torch.float64), tokens_of(CAPTIONS)
    assert memory.mask is not None
    changed = Memory(
        memory.vectors.masked_fill(~memory.mask.unsqueeze(-1), 7.0),
        memory.pooled,
        memory.mask,
        memory.grid,
        memory.boxes,
    )
    with torch.no_grad():
        torch.testing.assert_close(decoder(changed, tokens).logits, decoder(memory, tokens).logits, rtol=0, atol=1e-9)


def test_beam_search_is_the_naive_one(pair: Pair) -> None:
    decoder, memory = build(*pair).decoder.double().eval(), memory_of(pair.kind, pair.encoder).to(dtype=torch.float64)
    config = SearchConfig(width=3, n_best=3, max_words=5)
    for image, found in enumerate(beam(decoder, memory, config)):
        assert_same(found, reference(decoder, memory[image : image + 1], config))


def test_it_is_the_same_from_a_folder(pair: Pair, tmp_path: Path) -> None:
    model = build(*pair)
    again = model.reload(tmp_path / "model")
    tokens = torch.tensor([[[BOS, 4, 5]]] * 3)
    for part in (model, again):
        part.encoder.eval()
        part.decoder.eval()
    with torch.no_grad():
        assert torch.equal(again.decoder(again.encode(), tokens).logits, model.decoder(model.encode(), tokens).logits)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_near(pair: Pair, dtype: torch.dtype) -> None:
    decoder, memory, tokens = build(*pair).decoder.eval(), memory_of(pair.kind, pair.encoder), tokens_of(CAPTIONS)
    with torch.no_grad():
        expected = decoder(memory, tokens).logits.softmax(-1)
        logits = decoder.to(dtype)(memory.to(dtype=dtype), tokens).logits
    assert logits.dtype == dtype and (logits.float().softmax(-1) - expected).abs().max() < 0.02


def test_a_few_steps_of_training_lower_the_loss(pair: Pair) -> None:
    model, objective = build(*pair), CrossEntropy(CrossEntropyConfig(label_smoothing=0.0))
    captions = Captions.collate(CAPTIONS)
    model.decoder.train()
    trained = [("decoder", model.decoder)]
    if pair.kind == "text":  # encoders of pictures are pretrained
        trained.append(("encoder", model.encoder.train()))
    parameters = [parameter for _, part in trained for parameter in part.parameters()]
    optimiser = torch.optim.Adam(parameters, lr=0.03)
    losses = []
    for step in range(30):
        memory = model.encode() if pair.kind == "text" else memory_of(pair.kind, pair.encoder)
        loss, _ = objective(model.decoder, memory, captions)
        optimiser.zero_grad()
        loss.backward()
        if step == 0:
            for name, part in trained:
                for key, parameter in part.named_parameters():
                    assert parameter.grad is not None and parameter.grad.isfinite().all(), f"{name}.{key}"
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_whole_captions_come_out(pair: Pair) -> None:
    model = build(*pair)
    model.encoder.eval()
    with torch.no_grad():
        found = beam(model.decoder.eval(), model.encode(), SearchConfig(width=2, max_words=4))
    assert [len(hypotheses) for hypotheses in found] == [1, 1, 1] and all(
        EOS not in found[image][0].words for image in range(3)
    )
