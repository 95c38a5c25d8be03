"""Translators: from a text to a translation with its attention, and model folders."""

from __future__ import annotations

import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from captioner.caption import Caption
from captioner.errors import CheckpointError, ConfigError, ImageError
from captioner.model.checkpoint import load_model, save_model
from captioner.search.beam import beam
from captioner.search.greedy import greedy
from captioner.settings import validate
from captioner.store import CARD, CONFIG, SOURCE_VOCABULARY, VOCABULARY, WEIGHTS, kind_of, locate, shipped, translators
from captioner.text.subwords import Subwords
from captioner.text.vocabulary import EOS
from captioner.translation.model import TranslationConfig, TranslationModel, load_translator, save_translator
from captioner.translation.pairs import collate
from captioner.translation.result import Translation
from captioner.translation.translator import Translator
from tests.model.test_checkpoint import contents, tiny_model

SOURCE = ["A dog runs in the snow.", "Two dogs run.", "A man sits.", "The men, two dogs & a man: they run in the snow."]
TARGET = ["Ein Hund läuft im Schnee.", "Zwei Hunde laufen.", "Ein Mann sitzt.", "Die Männer laufen im Schnee."]

SEQUENCE = {"encoder": {"name": "sequence", "embedding": 8, "hidden": 6}}
SMALL = {"blocks": 2, "size": 8, "heads": 2, "feed_forward": 12}
FAMILIES: dict[str, dict[str, Any]] = {
    "seq2seq": {
        "encoder": {"name": "sequence", "direction": "backward", "embedding": 8, "hidden": 12},
        "decoder": {"name": "show_tell", "from_state": True, "embedding": 8, "hidden": 12},
    },
    "attention": SEQUENCE
    | {"decoder": {"name": "show_attend_tell", "embedding": 8, "hidden": 12, "attention": 6, "values": 8}},
    "transformer": {
        "encoder": {"name": "words", "embedding": 8},
        "refiner": {"name": "transformer", "geometry": False, "order": True, **SMALL},
        "decoder": {"name": "transformer", **SMALL},
    },
    "transformer_xl": {
        "encoder": {"name": "words", "embedding": 8},
        "refiner": {"name": "transformer", "geometry": False, "relative": True, "axes": 1, **SMALL},
        "decoder": {"name": "transformer_xl", **SMALL},
    },
}
every = pytest.mark.parametrize("family", list(FAMILIES))


def build(family: str = "attention", **settings: Any) -> TranslationModel:
    """Build a small model with random weights that are large enough for its translations to differ."""
    config = FAMILIES[family] | {"search": {"width": 2, "max_words": 9, "min_words": 1}} | settings
    source, target = Subwords.learn(SOURCE, merges=30), Subwords.learn(TARGET, merges=30)
    torch.manual_seed(3)
    model = TranslationModel(validate(TranslationConfig, config, where="test"), source, target)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.7)
    return model.eval()


def assert_same(translation: Translation, expected: Translation) -> None:
    assert (translation.text, translation.tokens, translation.source_tokens) == (
        expected.text,
        expected.tokens,
        expected.source_tokens,
    )
    assert translation.log_probability == pytest.approx(expected.log_probability, abs=1e-4)
    if expected.attention is not None:
        assert translation.attention is not None
        np.testing.assert_allclose(translation.attention, expected.attention, rtol=0, atol=1e-5)


@every
@pytest.mark.parametrize("width", [1, 3])
def test_texts_together_are_texts_one_by_one(family: str, width: int) -> None:
    translator = Translator(build(family), device="cpu", width=width)
    texts = [*SOURCE, SOURCE[1], "Something never read: ünïcödé 😀"]
    together = translator(texts, batch_size=4)
    assert len({round(translation.log_probability, 3) for translation in together}) == 5, (
        "translations do not depend on the source"
    )
    for text, translation in zip(texts, together, strict=True):
        assert_same(translation, translator(text))


@every
def test_a_translation_is_what_the_search_found(family: str) -> None:
    model = build(family)
    translator = Translator(model, device="cpu")
    numbers = model.source.encode(SOURCE[0])[1:]
    assert model.read(f"  {SOURCE[0]}\n".replace(" dog", "\t dog")) == numbers and numbers[-1] == EOS
    (hypothesis,) = beam(model.decoder, model.refiner(model(torch.tensor([numbers]))), translator.search)[0]
    translation = translator(SOURCE[0])
    assert translation.text == str(translation) == model.target.sentence(hypothesis.words)
    assert "".join(translation.tokens) == translation.text or "".join(translation.tokens) == f" {translation.text}"
    assert translation.log_probability == pytest.approx(hypothesis.log_probability, abs=1e-4)
    assert "".join(translation.source_tokens) == f" {SOURCE[0]}<eos>" and len(translation.source_tokens) == len(numbers)
    assert (translation.attention is not None) == model.decoder.attends
    if translation.attention is not None:
        assert translation.attention.shape == (len(translation.tokens), len(numbers))
        np.testing.assert_allclose(translation.attention.sum(1), 1, rtol=1e-5)
    narrow = Translator(model, device="cpu", width=1)
    assert narrow(SOURCE[0]).text == model.target.sentence(
        greedy(model.decoder, model.refiner(model(torch.tensor([numbers]))), narrow.search)[0][0].words
    )


def test_the_next_best_follow() -> None:
    translation = Translator(build(), device="cpu", width=4, n_best=3)(SOURCE[0])
    assert len(translation.others) == 2 and len({translation.text, *(other.text for other in translation.others)}) == 3
    value = json.loads(json.dumps(translation.to_dict()))
    assert set(value) == {"language", "text", "source", "tokens", "log_probability", "others"}
    assert (value["language"], value["text"], value["source"]) == ("de", translation.text, SOURCE[0])
    assert [other["text"] for other in value["others"]] == [other.text for other in translation.others]
    assert {(other.source, other.language) for other in translation.others} == {(SOURCE[0], "de")}
    value = json.loads(json.dumps(translation.to_dict(attention=True)))
    assert len(value["attention"]) == len(value["tokens"]) and len(value["attention"][0]) == len(value["source_tokens"])


def test_the_translation_of_a_text_without_words_is_empty() -> None:
    translator = Translator(build(), device="cpu")
    first, empty, blank = translator([SOURCE[0], "", " \n\t"])
    nothing = Translation("", [], [], 0.0, language="de")
    assert first.text and (empty, blank) == (nothing, replace(nothing, source=" \n\t"))
    assert translator("") == empty and translator([]) == [] and empty.words() == ([], [], None)


def test_what_cannot_be_seen_changes_nothing() -> None:
    translator = Translator(build(), device="cpu")
    plain, *others = translator(["a dog runs", "\ufeffa\x01dog ru\u00adns\0", " a\u200bdog\u2060 runs"])
    assert {other.text for other in others} == {plain.text}
    assert translator("\0\ufeff").text == "" and not translator("\0\ufeff").tokens
    for wrong in (0, 10**20):
        with pytest.raises(ConfigError, match="batch_size"):
            translator.stream(["a dog"], batch_size=wrong)


def test_a_long_text_is_cut() -> None:
    translation = Translator(build(max_pieces=4), device="cpu")(SOURCE[3])
    assert translation.is_cut and len(translation.source_tokens) == 4
    assert SOURCE[3].startswith("".join(translation.source_tokens).strip())


def test_words_are_pieces_joined_and_so_is_attention() -> None:
    attention = np.array([[0.1, 0.2, 0.3, 0.4], [0.5, 0.3, 0.1, 0.1], [0.0, 0.0, 0.6, 0.4]])
    written, read, weights = Translation(
        "Schneeball da", [" Schnee", "ball", " da"], [" snow", "ball", " there", "<eos>"], 0.0, attention
    ).words()
    assert (written, read) == (["Schneeball", "da"], ["snowball", "there", "<eos>"])
    np.testing.assert_allclose(weights, [[0.55, 0.2, 0.25], [0.0, 0.6, 0.4]], atol=1e-6)
    assert Translation("da", ["da"], [" x", "<eos>"], 0.0).words() == (["da"], ["x", "<eos>"], None)


def test_captions_get_translations() -> None:
    translator = Translator(build(), device="cpu")
    failed = ImageError("photo.jpg", "is empty")
    others = [Caption("Two dogs run.", ["two", "dogs", "run"], -3.0), Caption("", [], -4.0)]
    first = Caption("A dog runs in the snow.", ["a", "dog"], -2.0, np.ones((2, 1)), source="dog.jpg", others=others)
    captions = [failed, first, replace(first, text="A man sits.", others=[]), failed]
    for batch_size in (1, 3, 8):
        results = list(translator.captions(captions, batch_size=batch_size))
        assert results[0] is failed and results[3] is failed
        for result, caption in zip(results[1:3], captions[1:3], strict=True):
            assert isinstance(result, Caption) and isinstance(caption, Caption)
            assert result.translation is not None and (result.translation.source, result.translation.language) == (
                caption.text,
                "de",
            )
            assert_same(result.translation, translator(caption.text))
            assert replace(result, translation=None, others=caption.others) == caption and caption.translation is None
        one = results[1]
        assert isinstance(one, Caption)
        assert [other.translation and other.translation.text for other in one.others] == [
            translator("Two dogs run.").text,
            "",
        ]
        assert [replace(other, translation=None) for other in one.others] == others
    alone = translator.caption(first)
    assert alone.translation is not None and one.translation is not None and len(alone.others) == 2
    assert_same(alone.translation, one.translation)


def test_endless_captions_are_translated_as_they_come() -> None:
    endless = (Caption(text, [], 0.0) for text in itertools.cycle(SOURCE))
    first = list(itertools.islice(Translator(build(), device="cpu").captions(endless, batch_size=3), 5))
    assert [caption.text for caption in first] == [*SOURCE, SOURCE[0]]


def test_a_translated_caption_as_json() -> None:
    translator = Translator(build(), device="cpu")
    plain = Caption(
        "A dog runs.",
        ["a", "dog", "runs"],
        -2.0,
        np.ones((3, 1)),
        (1, 1),
        others=[Caption("A man.", ["a", "man"], -3.0)],
    )
    caption = translator.caption(plain)
    assert caption.translation is not None
    value = json.loads(json.dumps(caption.to_dict()))
    assert value.pop("translation") == caption.translation.to_dict() and "attention" not in value
    assert value["others"][0].pop("translation") == {"language": "de", "text": translator("A man.").text}
    assert value == plain.to_dict()
    value = json.loads(json.dumps(caption.to_dict(attention=True)))
    assert value["attention"] == [[1.0]] * 3 and len(value["translation"]["attention"][0]) == len(
        value["translation"]["source_tokens"]
    )


def test_the_shipped_translator_of_a_language(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("captioner.store.names.PACKAGE", tmp_path / "captioner")
    with pytest.raises(CheckpointError, match="Available languages: none"):
        Translator.for_language("de")
    folder = save_translator(tmp_path / "assets" / "one", build())
    config = json.loads((folder / CONFIG).read_text())
    for name, source, target in (("other", "en", "de"), ("third", "en", "fr"), ("fourth", "de", "en")):
        shutil.copytree(folder, folder.with_name(name))
        (folder.with_name(name) / CONFIG).write_text(
            json.dumps(config | {"model": config["model"] | {"source": source, "target": target}})
        )
    assert translators() == {"de": "one", "fr": "third"} and translators("de") == {"en": "fourth"}
    translator = Translator.for_language("FR", device="cpu", width=1)
    assert (translator.language, translator.search.width) == ("fr", 1)
    with pytest.raises(CheckpointError, match=r"from 'en' into 'cs'.* Available languages: de, fr;"):
        Translator.for_language("cs")


@every
@pytest.mark.parametrize("dtype", [None, torch.float16])
def test_what_is_saved_is_loaded(family: str, dtype: torch.dtype | None, tmp_path: Path) -> None:
    model = build(family)
    folder = save_translator(tmp_path / "model", model, card="# Tiny", about={"seed": 1}, dtype=dtype)
    assert (
        set(contents(folder)) == {WEIGHTS, CONFIG, VOCABULARY, SOURCE_VOCABULARY, CARD}
        and (folder / CARD).read_text() == "# Tiny"
    )
    loaded = load_translator(folder)
    assert (loaded.config, loaded.source, loaded.target) == (
        model.config,
        model.source,
        model.target,
    ) and not loaded.training
    theirs = loaded.state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(theirs[name], tensor.to(dtype).to(tensor.dtype) if dtype else tensor), name
    assert {tensor.dtype for tensor in load_file(folder / WEIGHTS).values()} == {dtype or torch.float32}
    if dtype is None:
        again = Translator.from_pretrained(
            Translator(model, device="cpu").save_pretrained(tmp_path / "again"), device="cpu"
        )
        assert [translation.text for translation in again(SOURCE)] == [
            translation.text for translation in Translator(model, device="cpu")(SOURCE)
        ]


def test_captioners_and_translators_are_not_confused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("captioner.store.names.PACKAGE", tmp_path / "captioner")
    translator = save_translator(tmp_path / "assets" / "english_german", build())
    image = save_model(tmp_path / "assets" / "pictures", tiny_model())
    assert shipped() == {"pictures": image} and shipped("translator") == {"english_german": translator}
    assert shipped(None) == shipped() | shipped("translator")
    assert locate("english_german", kind="translator") == locate("english_german", kind=None) == translator
    assert [kind_of(locate(name, kind=None)) for name in ("english_german", "pictures")] == ["translator", "captioner"]
    with pytest.raises(CheckpointError, match=r"english_german: is a translator and not a captioner"):
        load_model(translator)
    with pytest.raises(CheckpointError, match=r"pictures: is a captioner and not a translator"):
        Translator.from_pretrained(image)
    with pytest.raises(CheckpointError, match=r"'english_germa' does not exist\. Did you mean 'english_german'"):
        Translator.from_pretrained("english_germa")
    with pytest.raises(CheckpointError, match="no default translator; name one"):
        locate(kind="translator")
    for folder, save in (
        (image, lambda: save_translator(image, build())),
        (translator, lambda: save_model(translator, tiny_model())),
    ):
        before = contents(folder)
        with pytest.raises(CheckpointError, match="exists and is not"):
            save()
        assert contents(folder) == before
    save_translator(translator, build("seq2seq"))
    assert load_translator(translator).config.decoder["name"] == "show_tell"


def test_a_model_folder_without_a_kind_is_a_captioner(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model", tiny_model())
    config = json.loads((folder / CONFIG).read_text())
    assert config.pop("kind") == "captioner"
    (folder / CONFIG).write_text(json.dumps(config))
    assert load_model(folder).vocabulary == tiny_model().vocabulary


@pytest.mark.parametrize(
    ("name", "harm", "message"),
    [
        (WEIGHTS, lambda content: None, "is missing; copy"),
        (WEIGHTS, lambda content: content[:-50], "it was cut off or is another"),
        (CONFIG, lambda content: b"{", "is not JSON"),
        (CONFIG, lambda content: content.replace(b'"format": 1', b'"format": 9'), "newer than this program"),
        (
            CONFIG,
            lambda content: content.replace(b'"kind": "translator"', b'"kind": ["translator"]'),
            "kind: is a list, not a str",
        ),
        (
            CONFIG,
            lambda content: content.replace(b'"name": "sequence"', b'"name": "sequense"'),
            "Did you mean 'sequence'",
        ),
        (CONFIG, lambda content: content.replace(b'"hidden": 12', b'"hidden": 13'), "does not fit"),
        (VOCABULARY, lambda content: None, "is missing; copy"),
        (SOURCE_VOCABULARY, lambda content: None, "is missing; copy"),
        (SOURCE_VOCABULARY, lambda content: content.replace(b"a", b"b", 1), "its SHA-256 is not that in config"),
    ],
)
def test_a_damaged_folder_is_a_clear_error(name: str, harm: Any, message: str, tmp_path: Path) -> None:
    folder = save_translator(tmp_path / "model", build())
    content = harm((folder / name).read_bytes())
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=f"(?s){message}") as caught:
        load_translator(folder)
    assert str(folder) in str(caught.value)


def test_seq2seq_is_two_lstms_of_torch_and_the_second_starts_from_the_state_of_the_first() -> None:
    """Each source alone, backward and without padding, as in Sutskever 2014; the batch is padded."""
    model = build("seq2seq").double()
    reader, writer = (torch.nn.LSTM(8, 12, batch_first=True).double() for _ in range(2))
    encoder, decoder = model.get_submodule("encoder"), model.get_submodule("decoder")
    reader.load_state_dict(encoder.get_submodule("lstm").state_dict())
    writer.load_state_dict(decoder.get_submodule("lstm").state_dict())
    read, begun, output = (
        part.get_submodule(name) for part, name in ((encoder, "embedding"), (decoder, "embedding"), (decoder, "output"))
    )
    sources, targets = [model.read(text) for text in SOURCE], [model.target.encode(text)[:-1] for text in TARGET]
    logits = model.decoder(model.refiner(model(collate(sources))), collate(targets).unsqueeze(1)).logits
    expected = []
    for source, target in zip(sources, targets, strict=True):
        _, state = reader(read(torch.tensor([source[::-1]])))
        expected.append(output(writer(begun(torch.tensor([target])), state)[0][0]))
    torch.testing.assert_close(logits, torch.cat(expected))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"encoder": {"name": "words"}},
            "needs the final state of an LSTM, which only the text encoder 'sequence' gives",
        ),
        ({"refiner": FAMILIES["transformer"]["refiner"]}, "without a refiner"),
        (SEQUENCE | {"decoder": {"name": "show_tell", "from_state": True}}, r"1 x 512 LSTM .* ends with 1 x 12;"),
        ({"encoder": {"name": "sequence", "layers": 2, "hidden": 6}}, r"starts from 1 x 12 .* ends with 2 x 12;"),
    ],
)
def test_a_decoder_that_cannot_start_from_the_encoders_state_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"decoder: .*{message}"):
        build("seq2seq", **changes)


def test_a_source_in_both_directions_gives_states_of_twice_the_units() -> None:
    assert build("seq2seq", **SEQUENCE).decoder.first_state == (1, 12)


def test_wrong_settings_are_explained() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'refiner'"):
        build(refine={"name": "transformer"})
    with pytest.raises(ConfigError, match="Did you mean 'width'"):
        Translator(build(), device="cpu", widht=3)
    assert TranslationConfig(search={"width": 1}).search.max_words == 120  # type: ignore[arg-type]
