"""Byte-pair encoding: against a naive form of Sennrich's algorithm, and round trips of any text."""

from __future__ import annotations

import json
import random
import re
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers.pre_tokenizers import ByteLevel

from captioner.errors import CheckpointError
from captioner.text.subwords import Subwords
from captioner.text.vocabulary import BOS, EOS, PAD, SPECIAL, UNK

TEXTS = [
    "Zwei junge weiße Männer sind im Freien in der Nähe vieler Büsche.",
    "Ein kleines Mädchen klettert in ein Spielhaus aus Holz.",
    "Ein Mann in einem blauen Hemd steht auf einer Leiter und putzt ein Fenster.",
    "Zwei Männer stehen am Herd und bereiten Essen zu.",
    "Zwei Männer, ein Kind & 3 Hunde: „Hallo!“",
]
LEARNED = Subwords.learn(TEXTS, merges=25)


BYTES = sorted(ByteLevel.alphabet())  # tokenizers' characters for bytes, in the order of their indices


def naive_merges(texts: list[str], merges: int) -> list[tuple[str, str]]:
    """Sennrich 2016, algorithm 1, counting all pairs again before every merge, on bytes."""
    to_byte_level = ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str
    words: Counter[tuple[str, ...]] = Counter()
    for text in texts:
        for word in re.findall(r" ?\w+| ?[^\w\s]+|\s", " " + text):
            words[tuple(to_byte_level(word)[0][0])] += 1
    numbers = {character: number for number, character in enumerate(BYTES)}
    learned: list[tuple[str, str]] = []
    for _ in range(merges):
        pairs: Counter[tuple[str, str]] = Counter()
        for word, count in words.items():
            for pair in pairwise(word):
                pairs[pair] += count
        if not pairs or max(pairs.values()) < 2:
            break
        left, right = min(pairs, key=lambda pair: (-pairs[pair], numbers[pair[0]], numbers[pair[1]]))
        numbers.setdefault(left + right, 256 + len(learned))
        learned.append((left, right))
        merged: Counter[tuple[str, ...]] = Counter()
        for word, count in words.items():
            out: list[str] = []
            for piece in word:
                if out and (out[-1], piece) == (left, right):
                    out[-1] = left + right
                else:
                    out.append(piece)
            merged[tuple(out)] += count
        words = merged
    return learned


@pytest.mark.parametrize(
    "texts", [TEXTS, ["aaaa aaa aaaaaaa", "abab abab bab"], ["low low low low low lower lower newest newest widest"]]
)
def test_merges_are_those_of_the_naive_algorithm(texts: list[str]) -> None:
    assert list(Subwords.learn(texts, merges=25).merges) == naive_merges(texts, 25)


def test_the_order_of_texts_does_not_matter() -> None:
    shuffled = random.Random(1).sample(TEXTS, len(TEXTS))
    again = Subwords.learn(iter(shuffled), merges=25)
    assert again == LEARNED and hash(again) == hash(LEARNED)
    assert Subwords.learn(TEXTS, merges=24) != LEARNED and len(LEARNED) == len(SPECIAL) + 256 + 25


def test_pairs_seen_once_are_not_merged() -> None:
    assert Subwords.learn(["xyz"], merges=10).merges == () == Subwords.learn([], merges=10).merges


@given(st.text())
def test_any_text_comes_back(text: str) -> None:
    numbers = LEARNED.encode(text)
    assert (numbers[0], numbers[-1]) == (BOS, EOS)
    assert min(numbers[1:-1], default=9) > UNK and max(numbers) < len(LEARNED)
    assert LEARNED.sentence(numbers) == text


@given(st.text(alphabet="Zwei Männr\n\t.,-€😀", max_size=30), st.integers(0, 12))
def test_a_cut_text_has_no_end(text: str, most: int) -> None:
    whole, cut = LEARNED.encode(text), LEARNED.encode(text, max_words=most)
    assert (cut == whole) if len(whole) - 2 <= most else (cut == whole[: most + 1])


@settings(max_examples=30)
@given(st.lists(st.sampled_from(" ".join(TEXTS).split()), max_size=8))
def test_words_are_encoded_as_they_were_when_learned(words: list[str]) -> None:
    """Replay all merges in order on each word, like Sennrich's ``apply_bpe``."""
    to_byte_level = ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str
    expected: list[str] = []
    for word in re.findall(r" ?\w+| ?[^\w\s]+|\s", " " + " ".join(words)) if words else []:
        parts = list(to_byte_level(word)[0][0])
        for left, right in LEARNED.merges:
            i = 0
            while i < len(parts) - 1:
                if (parts[i], parts[i + 1]) == (left, right):
                    parts[i : i + 2] = [left + right]
                i += 1
        expected += parts
    numbers = {piece: number for number, piece in enumerate([*SPECIAL, *BYTES, *map("".join, LEARNED.merges)])}
    assert LEARNED.encode(" ".join(words))[1:-1] == [numbers[piece] for piece in expected]


def test_a_text_that_spells_a_special_piece_is_a_text() -> None:
    numbers = LEARNED.encode("<eos> <pad>")
    assert min(numbers[1:-1]) > UNK and LEARNED.sentence(numbers) == "<eos> <pad>"


def test_pieces_are_read_up_to_the_end() -> None:
    numbers = LEARNED.encode("Zwei Männer.")
    assert "".join(LEARNED.decode(numbers)) == " Zwei Männer."
    assert LEARNED.decode(numbers)[0].startswith(" Z") and LEARNED.decode(numbers)[-1] == "."
    assert LEARNED.decode([BOS, PAD, *numbers[1:], *numbers]) == LEARNED.decode(numbers)
    assert LEARNED.sentence([PAD, *numbers[1:-1]]) == "Zwei Männer."
    assert LEARNED.encode("") == [BOS, EOS] and LEARNED.sentence([]) == ""


def test_partial_letters_and_unknown_pieces_are_replaced() -> None:
    byte = len(SPECIAL) + BYTES.index(ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str("ä")[0][0][0])
    assert LEARNED.sentence([byte]) == LEARNED.sentence([UNK]) == "\N{REPLACEMENT CHARACTER}"
    assert LEARNED.sentence(LEARNED.encode("a\ud800b")) == "a?b"


def test_a_very_long_word_is_encoded_fast() -> None:
    began = time.perf_counter()
    assert LEARNED.sentence(LEARNED.encode("Zw" * 50_000)) == "Zw" * 50_000
    assert time.perf_counter() - began < 5


@pytest.mark.parametrize("subwords", [LEARNED, Subwords([])], ids=["learned", "bytes"])
def test_pieces_survive_a_file(subwords: Subwords, tmp_path: Path) -> None:
    subwords.save(tmp_path / "vocabulary.json")
    loaded = Subwords.load(tmp_path / "vocabulary.json")
    assert loaded == subwords and loaded.encode(TEXTS[0]) == subwords.encode(TEXTS[0])


@pytest.mark.parametrize(
    "merges", [[("a", "b")] * 2, [("ab", "c")], [("a", "<eos>")], [("a", "")], [("a", "bc"), ("b", "c")]]
)
def test_merges_that_contradict_themselves_are_refused(merges: list[tuple[str, str]]) -> None:
    with pytest.raises(ValueError, match=r"exists? before it"):
        Subwords(merges)


def damaged(**changes: Any) -> bytes:
    value = {"format": 1, "kind": "byte pairs", "special": list(SPECIAL), "merges": [["a", "b"]]} | changes
    return json.dumps({key: part for key, part in value.items() if part is not ...}).encode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (damaged(format=2), "newer than this program; upgrade captioner"),
        (damaged()[:-5], "is not JSON"),
        (b"\xff\xfe\x00", "is not utf-8 text"),
        (b"[]", "its JSON is a list, not an object"),
        (b'{"format": 1, "special": [], "words": ["a"]}', "not a readable vocabulary"),
        (damaged(special=["<pad>"]), "special words are not"),
        (damaged(kind="words"), "not a subword vocabulary"),
        (damaged(merges=...), "not a readable vocabulary"),
        (damaged(merges=[["a", "b", "c"]]), "not a readable vocabulary"),
        (damaged(merges=["abc"]), "not a readable vocabulary"),
        (damaged(merges=[["a", 4.5]]), "not pairs of pieces"),
        (damaged(merges=[["a", "bc"]]), "does not exist before it"),
    ],
)
def test_the_error_of_a_damaged_file_names_it(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.json"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        Subwords.load(path)
    assert str(path) in str(caught.value)


def test_the_error_of_a_missing_file_names_it(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"vocabulary\.json: there is no such file"):
        Subwords.load(tmp_path / "vocabulary.json")


def test_german_is_learned_and_encoded_fast_and_comes_back(shared_data: Path) -> None:
    lines = (shared_data / "multi30k" / "train.de").read_text(encoding="utf-8").splitlines()[:10_000]
    began = time.perf_counter()
    subwords = Subwords.learn(lines, merges=2500)
    numbers = [subwords.encode(line) for line in lines]
    assert time.perf_counter() - began < 20
    assert [subwords.sentence(line) for line in numbers] == lines
    words, pieces = sum(len(line.split()) for line in lines), sum(map(len, numbers))
    assert pieces < 2 * words, "words are cut into too many pieces"
    unseen = (shared_data / "multi30k" / "val.de").read_text(encoding="utf-8").splitlines()
    assert [subwords.sentence(subwords.encode(line)) for line in unseen] == unseen
