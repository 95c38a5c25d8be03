"""Translating with previous lines as context: searched translations have the scores of teacher forcing."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from captioner.data.batches import Captions
from captioner.errors import ConfigError
from captioner.layers.segments import previous_lines
from captioner.text.vocabulary import BOS, EOS, PAD
from captioner.translation.context import ContextReader, DecoderInContext, RefinerInContext, readers_of_context
from captioner.translation.model import TranslationModel
from captioner.translation.pairs import collate
from captioner.translation.result import Translation
from captioner.translation.translator import Translator
from tests.translation.test_translator import FAMILIES, SMALL, SOURCE, assert_same, build

XL = FAMILIES["transformer_xl"]
#: both parts that can read context, and each alone
PARTS: dict[str, dict[str, Any]] = {
    "both": {},
    "sources": {"decoder": {"name": "transformer", **SMALL}},
    "translations": {"refiner": {"name": "transformer", "geometry": False, "order": True, **SMALL}},
    "translations, no refiner": {"refiner": None},
}
parts = pytest.mark.parametrize("part", list(PARTS))
TEXT = [SOURCE[0], SOURCE[1], SOURCE[2], SOURCE[1], SOURCE[3], SOURCE[1]]


def model_of(part: str, **settings: Any) -> TranslationModel:
    return build("transformer_xl", **PARTS[part], **settings)


def assert_all_same(found: Sequence[Translation], expected: Sequence[Translation]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert_same(one, other)


@parts
@pytest.mark.parametrize("context", [1, 2])
@torch.no_grad()
def test_searched_translations_have_the_scores_of_teacher_forcing(part: str, context: int) -> None:
    model = model_of(part)
    sources, config = [model.read(text) for text in TEXT], Translator(model, device="cpu").search
    found = ContextReader(model, model.refiner, model.decoder, config, context=context)(sources)
    written = [hypotheses[0] for hypotheses in found if hypotheses is not None]
    captions = Captions.collate([[[BOS, *hypothesis.words, EOS]] for hypothesis in written])
    previous = previous_lines([True] + [False] * (len(TEXT) - 1), context)
    memory = RefinerInContext(model.refiner, previous)(model(collate(sources)))
    logits = DecoderInContext(model.decoder, previous)(memory, captions.inputs).logits.log_softmax(-1)
    each = logits.gather(1, captions.targets.unsqueeze(1)).squeeze(1)
    line = (captions.inputs != PAD).nonzero()[:, 0]
    cut = torch.tensor([not hypothesis.finished for hypothesis in written])
    each[cut[line] & (captions.targets == EOS)] = 0.0  # a translation that was cut did not write its end
    expected = torch.zeros(len(TEXT)).index_add(0, line, each)
    log_probabilities = torch.tensor([hypothesis.log_probability for hypothesis in written])
    torch.testing.assert_close(log_probabilities, expected, rtol=0, atol=1e-3)


@parts
def test_lines_that_come_one_by_one_are_lines_at_once(part: str) -> None:
    translator = Translator(model_of(part), device="cpu")
    text = [*TEXT[:2], "", *TEXT[:4], " ", "", *TEXT[1:3]]
    expected = translator(text, context=2)
    for batch_size in (2, 5):
        assert_all_same(list(translator.stream(text, context=2, batch_size=batch_size)), expected)
    # A text without words separates the texts before and after it.
    assert_all_same(expected[3:7], translator(TEXT[:4], context=2))
    assert not expected[2].tokens and expected[2].source == ""
    assert_all_same(expected[:1], translator(text[:1]))


@parts
def test_only_previous_lines_have_influence(part: str) -> None:
    translator = Translator(model_of(part), device="cpu")
    text, other = translator(TEXT, context=1), translator([SOURCE[3], *TEXT[1:]], context=1)
    alone = translator(TEXT)
    assert_same(text[0], alone[0])
    assert all(abs(one.log_probability - two.log_probability) > 1e-3 for one, two in zip(text[1:], alone[1:]))  # noqa: B905
    assert abs(text[1].log_probability - other[1].log_probability) > 1e-3
    # Lines before the previous one influence a line only through the second block.
    short = translator([TEXT[5], *TEXT[4:]], context=1)
    assert abs(short[1].log_probability - text[4].log_probability) > 1e-4


def test_endless_texts_are_translated_as_they_come() -> None:
    translator = Translator(model_of("both"), device="cpu")
    endless = translator.stream(itertools.cycle(SOURCE), context=2, batch_size=3)
    assert [one.source for one in itertools.islice(endless, 7)] == [*SOURCE, *SOURCE[:3]]


def test_a_model_that_cannot_read_a_context_is_refused() -> None:
    for family in ("attention", "seq2seq", "transformer"):
        translator = Translator(build(family), device="cpu")
        with pytest.raises(ConfigError, match=r"^context: .* order: false} or decoder: {name: transformer_xl}"):
            translator(SOURCE, context=1)
        assert translator(SOURCE, context=0)
    refiner = XL["refiner"]
    for changed in ({"axes": 2, "relative": False}, {"order": True}):
        model = build("transformer_xl", refiner=refiner | changed)
        refining, writing = readers_of_context(model.refiner, model.decoder)
        assert refining is None and writing is not None
