"""Words and their indices, against NLTK's tokenizer and on the captions of Flickr8k."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nltk.tokenize import NLTKWordTokenizer

from captioner.errors import CheckpointError
from captioner.text.vocabulary import BOS, EOS, PAD, SPECIAL, UNK, Vocabulary, detokenize, spans, tokenize

CAPTIONS = [
    "A child in a pink dress is climbing up a set of stairs in an entry way .",
    "A dog's ball lies in the snow-covered grass.",
    'A man in a "Hard Rock" t-shirt, and two women; they don\'t smile!',
    "The boys' bikes (3 of them) can't be seen...",
    "Someone who's climbing: it's he, we'll say -- or they'd.",
    "TWO people ride a tandem past 1,000 spectators at 9:30 & wave",
    "An african-american man's guitar costs $20 at John's shop?",
    "A café's naïve façade",
    "",
    " . ",
]


@pytest.mark.parametrize("caption", CAPTIONS)
def test_words_are_nltks_without_case_and_punctuation(caption: str) -> None:
    expected = [
        token for token in NLTKWordTokenizer().tokenize(caption.lower()) if any(letter.isalnum() for letter in token)
    ]
    assert tokenize(caption) == expected


def test_plain_captions_are_split_as_nltk_splits_them() -> None:
    chance = random.Random(0)
    parts = ["a", "dog", "3", "t-shirt", "gonna", "cannot", ".", ",", "-", "--", " ", "  ", "'s", "n't"]
    for _ in range(5000):
        text = "".join(chance.choice(parts) for _ in range(chance.randint(0, 9)))
        words = [word.rstrip(".") if word.count(".") == 1 else word for word in NLTKWordTokenizer().tokenize(text)]
        assert tokenize(text) == [word for word in words if any(letter.isalnum() for letter in word)], text


def test_words_in_different_unicode_forms_are_equal() -> None:
    composed, decomposed = "ein K\u00e4tzchen sp\u00e4t", "ein Ka\u0308tzchen spa\u0308t"
    assert tokenize(decomposed) == tokenize(composed) == ["ein", "k\u00e4tzchen", "sp\u00e4t"]
    assert len(Vocabulary.build([composed, decomposed], min_count=2)) == len(SPECIAL) + 3


def test_a_full_stop_in_the_middle_does_not_make_another_word() -> None:
    assert tokenize("A dog runs. A cat sits. They rest.") == ["a", "dog", "runs", "a", "cat", "sits", "they", "rest"]
    assert tokenize("The U.S. flag") == ["the", "u.s.", "flag"]


@pytest.mark.parametrize(
    "sentence",
    [
        "A dog's ball.",
        "They don't smile.",
        "He can't swim.",
        "It's we who'd say they're what you've got, and I'm sure they'll come.",
    ],
)
def test_contractions_are_split_and_joined(sentence: str) -> None:
    plain = sentence.replace(",", "").replace("I'm", "i'm")
    words = tokenize(sentence)
    assert any("'" in word and word[0] in "'n" for word in words), "no contraction was split"
    assert detokenize(words) == plain


def test_the_typographic_apostrophe_is_an_apostrophe() -> None:
    assert tokenize("A dog’s ball") == tokenize("A dog's ball")


@pytest.mark.parametrize(
    ("words", "sentence"), [([], ""), (["a"], "A."), (["zwei", "hunde"], "Zwei hunde."), (["über", "'s"], "Über's.")]
)
def test_sentences(words: list[str], sentence: str) -> None:
    assert detokenize(words) == sentence


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("一只白色的狗，在草地上！", "一 只 白 色 的 狗 在 草 地 上"),
        ("「ボール」で遊ぶ犬。", "ボ ー ル で 遊 ぶ 犬"),
        ("穿T恤的人 on 草", "穿 t 恤 的 人 on 草"),
        ("หมาวิ่งที่นี่", "ห ม า วิ่ ง ที่ นี่"),
        ("كلب أبيض، يركض؟", "كلب أبيض يركض"),
        ("하얀 개가 달린다.", "하얀 개가 달린다"),
        ("कुत्ता दौड़ता है।", "कुत्ता दौड़ता है"),
        ("Kuća 🐶 läuft!", "kuća 🐶 läuft"),
    ],
)
def test_letters_are_words_in_scripts_without_spaces(caption: str, words: str) -> None:
    assert tokenize(caption) == words.split()
    assert tokenize(detokenize(words.split())) == words.split()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("一 只 狗", "一只狗。"),
        ("วิ่ ง", "วิ่ง"),
        ("穿 t 恤", "穿 t 恤。"),
        ("a 狗 dog", "A 狗 dog."),
        ("ボ ー ル", "ボール。"),
    ],
)
def test_sentences_of_scripts_without_spaces(words: str, sentence: str) -> None:
    assert detokenize(words.split()) == sentence
    assert [sentence[start:end].lower() for start, end in spans(words.split())] == words.split()


@given(st.text())
def test_any_text_is_words(text: str) -> None:
    words = tokenize(text)
    assert all(word and not any(letter.isspace() for letter in word) for word in words)
    numbers = Vocabulary(["a", "dog"]).encode(text)
    assert numbers[0] == BOS and numbers[-1] == EOS and len(numbers) == len(words) + 2


def test_words_are_ordered_by_frequency_then_alphabet_without_rare_ones() -> None:
    captions = ["dog cat emu", "dog cat", "Dog bird", "bird, ant", "ant"]
    vocabulary = Vocabulary.build(captions, min_count=2)
    assert vocabulary.words == (*SPECIAL, "dog", "ant", "bird", "cat")
    assert vocabulary.counts == (3, 2, 2, 2)
    assert "emu" not in vocabulary and "emu" in Vocabulary.build(captions, min_count=1)
    assert tuple(map(vocabulary.index, SPECIAL)) == (PAD, BOS, EOS, UNK)


def test_the_order_of_captions_does_not_matter() -> None:
    shuffled = random.Random(0).sample(CAPTIONS, len(CAPTIONS))
    one, other = Vocabulary.build(CAPTIONS, min_count=1), Vocabulary.build(iter(shuffled), min_count=1)
    assert one == other and hash(one) == hash(other) and one.counts == other.counts
    assert one != Vocabulary.build(CAPTIONS, min_count=2)


KNOWN = Vocabulary.build(CAPTIONS, min_count=1)
WORDS = [word for word in KNOWN.words[len(SPECIAL) :] if word.isalpha()]


@given(st.lists(st.sampled_from(WORDS)), st.integers(0, 12))
def test_known_words_survive_encoding_and_decoding(words: list[str], limit: int) -> None:
    numbers = KNOWN.encode(" ".join(words))
    assert numbers[0] == BOS and numbers[-1] == EOS and min(numbers[1:]) == EOS
    assert KNOWN.decode(numbers) == words
    assert KNOWN.sentence(numbers) == detokenize(words)

    cut = KNOWN.encode(" ".join(words), max_words=limit)
    assert KNOWN.decode(cut) == words[:limit]
    assert (cut[-1] == EOS) == (len(words) <= limit), "only a complete caption has an end"


def test_unknown_words_are_unk_and_decoding_stops_at_the_end() -> None:
    vocabulary = Vocabulary(["a", "dog"])
    assert vocabulary.encode("A zebra, a dog") == [BOS, 4, UNK, 4, 5, EOS]
    assert vocabulary.decode([BOS, 4, UNK, PAD, 5, EOS, 4, 4]) == ["a", "<unk>", "dog"]
    assert vocabulary.decode([4, 5]) == ["a", "dog"]
    assert len(vocabulary) == 6


@pytest.mark.parametrize(("words", "counts"), [(["a", "a"], None), (["<pad>"], None), (["a", "b"], [1])])
def test_an_inconsistent_vocabulary_is_refused(words: list[str], counts: list[int] | None) -> None:
    with pytest.raises(ValueError):
        Vocabulary(words, counts)


@pytest.mark.parametrize(
    "vocabulary",
    [KNOWN, Vocabulary(["ein", "größerer", "hund"]), Vocabulary([])],
    ids=["counted", "uncounted", "empty"],
)
def test_a_vocabulary_survives_saving_and_loading(vocabulary: Vocabulary, tmp_path: Path) -> None:
    vocabulary.save(tmp_path / "vocabulary.json")
    loaded = Vocabulary.load(tmp_path / "vocabulary.json")
    assert (loaded, loaded.words, loaded.counts) == (vocabulary, vocabulary.words, vocabulary.counts)
    assert loaded.encode("a pink hund") == vocabulary.encode("a pink hund")


def damaged(**changes: Any) -> bytes:
    value = {"format": 1, "special": list(SPECIAL), "words": ["a", "dog"]} | changes
    return json.dumps({key: part for key, part in value.items() if part is not ...}).encode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (damaged(format=2), "newer than this program; upgrade captioner"),
        (damaged()[:-9], "is not JSON"),
        (b"", "is not JSON"),
        (b"\xff\xfe\x00", "is not utf-8 text"),
        (b'["a", "dog"]', "its JSON is a list, not an object"),
        (damaged(format=...), "not a readable vocabulary"),
        (damaged(format="one"), "not a readable vocabulary"),
        (damaged(words=...), "not a readable vocabulary"),
        (damaged(words=["a", 3]), "not a readable vocabulary"),
        (damaged(words=["a", "a"]), "not a readable vocabulary"),
        (damaged(words=["a", "dog\nrm"]), "a word of it is empty or has white space"),
        (damaged(words=["a", ""]), "a word of it is empty or has white space"),
        (damaged(words=None), "not a readable vocabulary"),
        pytest.param(damaged(words="ab"), "not a readable"),
        (damaged(special=["<pad>", "<unk>", "<bos>", "<eos>"]), "its special words are not this program's"),
        (damaged(counts=[1]), "2 words but 1 counts"),
    ],
)
def test_the_error_of_a_damaged_vocabulary_names_it(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.json"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        Vocabulary.load(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_named_in_the_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"vocabulary\.json: there is no such file; copy the whole model folder"):
        Vocabulary.load(tmp_path / "vocabulary.json")
    with pytest.raises(CheckpointError, match="is not a regular file"):
        Vocabulary.load(tmp_path)


def test_flickr8k_gives_the_usual_vocabulary(shared_data: Path) -> None:
    folder = shared_data / "flickr8k"
    captions: dict[str, list[str]] = {}
    for line in (folder / "Flickr8k.token.txt").read_text(encoding="utf-8").splitlines():
        name, _, caption = line.partition("\t")
        captions.setdefault(name.partition("#")[0], []).append(caption)
    train, dev = ((folder / f"Flickr_8k.{split}Images.txt").read_text().split() for split in ("train", "dev"))
    vocabulary = Vocabulary.build((caption for name in train for caption in captions[name]), min_count=5)
    assert 2400 < len(vocabulary) < 2700
    words = [word for name in dev for caption in captions[name] for word in tokenize(caption)]
    assert len(words) > 40_000
    assert sum(word in vocabulary for word in words) > 0.96 * len(words)
