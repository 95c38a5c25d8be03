"""Reading sentences with their translations, and batches of similar length."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from captioner.errors import AnnotationError
from captioner.translation.pairs import LengthSampler, Pair, collate, read_parallel, runs


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pairs in a folder."""
    folder = tmp_path / "mini"
    folder.mkdir()
    (folder / "train.en").write_text("A dog.\nTwo men run.\n", encoding="utf-8")
    (folder / "train.de").write_text("Ein Hund.\nZwei Männer laufen.\n", encoding="utf-8")
    return folder


def read(folder: Path, split: str = "train") -> tuple[Pair, ...]:
    return read_parallel(folder, split, source="en", target="de").pairs


def test_lines_become_pairs(folder: Path) -> None:
    assert read(folder) == (Pair("A dog.", "Ein Hund."), Pair("Two men run.", "Zwei Männer laufen."))
    assert read_parallel(folder, "train", source="de", target="en").pairs[0] == Pair("Ein Hund.", "A dog.")
    assert read_parallel(folder, "train", source="en", target="de").name == "mini/train"


@pytest.mark.parametrize(
    "content",
    [b"Ein  Hund. \r\n\tZwei M\xc3\xa4nner laufen.", b"\xef\xbb\xbfEin Hund.\nZwei M\xc3\xa4nner\xc2\xa0laufen.\n"],
)
def test_white_space_line_ends_and_byte_order_marks_do_not_matter(folder: Path, content: bytes) -> None:
    expected = read(folder)
    (folder / "train.de").write_bytes(content)
    assert read(folder) == expected


@pytest.mark.parametrize("mark", ["\u2028", "\x85", "\x0b", "\x0c", "\x1c"])
def test_only_a_line_feed_ends_a_line(folder: Path, mark: str) -> None:
    (folder / "train.de").write_text(f"Ein{mark}Hund.\nZwei Männer laufen.\n", encoding="utf-8")
    assert read(folder)[0].target == "Ein Hund."


def test_empty_lines_are_reported_and_skipped(folder: Path) -> None:
    (folder / "train.en").write_text("A dog.\n \nTwo men run.\nMore.\n\n", encoding="utf-8")
    (folder / "train.de").write_text("Ein Hund.\nMehr.\nZwei Männer laufen.\n\n\n", encoding="utf-8")
    text = read_parallel(folder, "train", source="en", target="de")
    assert [pair.source for pair in text.pairs] == ["A dog.", "Two men run."]
    en, de = folder / "train.en", folder / "train.de"
    assert [str(problem) for problem in text.problems] == [
        f"{path}: the line is empty" for path in (f"{en}:2", f"{de}:4", f"{en}:5")
    ]


def test_what_cannot_be_read_is_reported(folder: Path) -> None:
    with pytest.raises(
        AnnotationError, match=r"nowhere: no such folder; give the one that holds train\.en and train\.de"
    ):
        read(folder / "nowhere")
    with pytest.raises(AnnotationError, match=r"val\.en: no such file; the folder has train\.de, train\.en"):
        read(folder, "val")
    (folder / "train.en").write_text("A dog.\n", encoding="utf-8")
    with pytest.raises(
        AnnotationError, match=r"train\.en has 1 lines and train\.de 2; line n of one must be the translation"
    ):
        read(folder)
    (folder / "train.en").write_text("\n\n", encoding="utf-8")
    with pytest.raises(AnnotationError, match="there is no complete pair of sentences"):
        read(folder)
    (folder / "train.en").write_bytes(b"caf\xe9\nTwo\n")
    with pytest.raises(AnnotationError, match=r"train\.en: not UTF-8 text \(byte 3\)"):
        read(folder)
    (folder / "train.en").unlink()
    (folder / "train.en").mkdir()
    with pytest.raises(AnnotationError, match=r"train\.en: cannot be read"):
        read(folder)


def test_multi30k_is_read_whole(shared_data: Path) -> None:
    for split, number in (("train", 29_000), ("val", 1_014)):
        text = read_parallel(shared_data / "multi30k", split, source="en", target="de")
        assert len(text.pairs) == number and not text.problems


def test_consecutive_lines_stay_together_up_to_a_length() -> None:
    assert runs([1, 2, 3, 5, 6, 9], 10) == [[0, 1, 2], [3, 4], [5]]
    assert runs([1, 2, 3, 4, 5, 7], 2) == [[0, 1], [2, 3], [4], [5]]
    assert runs([4, 5], 1) == [[0], [1]] and runs([], 3) == []


def test_the_lines_of_pairs_are_those_of_their_files(folder: Path) -> None:
    (folder / "train.en").write_text("A dog.\n\nTwo men run.\nMore.\n", encoding="utf-8")
    (folder / "train.de").write_text("Ein Hund.\n\nZwei Männer laufen.\nMehr.\n", encoding="utf-8")
    assert read_parallel(folder, "train", source="en", target="de").lines == (1, 3, 4)


def test_sentences_are_padded() -> None:
    assert torch.equal(collate([[4, 5, 2], [2]]), torch.tensor([[4, 5, 2], [2, 0, 0]]))


@given(st.lists(st.integers(1, 30), min_size=1, max_size=60), st.integers(1, 90), st.integers(0, 3))
def test_every_pair_occurs_once_in_batches_within_the_limit(lengths: list[int], tokens: int, epoch: int) -> None:
    sampler = LengthSampler(lengths, tokens=tokens, seed=5)
    batches = list(sampler.epoch(epoch))
    assert len(batches) == len(sampler) and sorted(index for batch in batches for index in batch) == list(
        range(len(lengths))
    )
    assert all(len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= tokens for batch in batches)
    assert list(LengthSampler(lengths, tokens=tokens, seed=5).epoch(epoch, skip=2)) == batches[2:]


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(1, 6)), min_size=1, max_size=40), st.integers(1, 200))
def test_runs_of_pairs_stay_within_the_limit_too(items: list[tuple[int, int]], tokens: int) -> None:
    lengths, pairs = [length for length, _ in items], [number for _, number in items]
    sampler = LengthSampler(lengths, tokens=tokens, seed=5, pairs=pairs)
    for epoch in range(3):
        batches = list(sampler.epoch(epoch))
        assert len(batches) == len(sampler)
        assert sorted(index for batch in batches for index in batch) == list(range(len(items)))
        for batch in batches:
            padded = sum(pairs[index] for index in batch) * max(lengths[index] for index in batch)
            assert len(batch) == 1 or padded <= tokens


def test_epochs_and_seeds_differ_and_batches_have_similar_lengths() -> None:
    lengths = [1 + index % 10 for index in range(200)]
    sampler = LengthSampler(lengths, tokens=60, seed=0)
    first, second, other = (
        list(sampler.epoch(0)),
        list(sampler.epoch(1)),
        list(LengthSampler(lengths, tokens=60, seed=1).epoch(0)),
    )
    assert first != second and first != other
    assert {frozenset(batch) for batch in first} != {frozenset(batch) for batch in second}
    assert all(max(lengths[i] for i in b) - min(lengths[i] for i in b) <= 3 for b in first)
    sizes = [[lengths[index] for index in batch] for batch in first]
    assert [max(size) for size in sizes] != sorted(max(size) for size in sizes), (
        "batches are in the order of their lengths"
    )
