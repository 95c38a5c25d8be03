"""Batches of captioned images: padding, sampling, and prefetching."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from captioner.data.batches import Captions, EncodedCaptions, Sampler, prefetch
from captioner.data.dataset import CaptionedImage
from captioner.text.vocabulary import BOS, EOS, PAD, UNK, Vocabulary

CAPTIONS = (2, 5, 1, 5, 3, 5, 4)  # of each image
IMAGES = [
    CaptionedImage(str(i), Path(f"{i}.jpg"), "train", tuple(f"caption {j}" for j in range(n)))
    for i, n in enumerate(CAPTIONS)
]


def sampler(*, batch_size: int = 3, per_image: int = 5, flips: bool = True, seed: int = 7) -> Sampler:
    return Sampler(IMAGES, batch_size=batch_size, per_image=per_image, flips=flips, seed=seed)


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("captioner-prefetch")]


def test_captions_are_shifted_and_padded() -> None:
    # The last caption was cut and has no <eos>.
    batch = Captions.collate([[[BOS, 5, 6, EOS], [BOS, EOS]], [], [[BOS, 7, 8]]])
    assert batch.inputs.tolist() == [
        [[BOS, 5, 6], [BOS, PAD, PAD]],
        [[PAD, PAD, PAD], [PAD, PAD, PAD]],
        [[BOS, 7, PAD], [PAD, PAD, PAD]],
    ]
    assert batch.targets.tolist() == [5, 6, EOS, EOS, 7, 8]
    assert batch.captions == 3


def test_targets_are_the_next_words_in_the_order_of_the_real_inputs() -> None:
    random = torch.Generator().manual_seed(0)
    captions = [
        [[BOS, *torch.randint(UNK, 99, (n,), generator=random).tolist(), EOS] for n in sizes]
        for sizes in ((4, 9, 1), (7,), (2, 2))
    ]
    batch = Captions.collate(captions)
    inputs, targets = iter(batch.inputs[batch.inputs != PAD].tolist()), iter(batch.targets.tolist())
    for caption in itertools.chain(*captions):
        assert [next(inputs) for _ in caption[:-1]] == caption[:-1]
        assert [next(targets) for _ in caption[1:]] == caption[1:]
    assert next(inputs, None) is None and next(targets, None) is None


@pytest.mark.parametrize("nothing", [[], [[]], [[], []]])
def test_a_batch_without_captions_is_empty(nothing: list[list[list[int]]]) -> None:
    batch = Captions.collate(nothing)
    assert batch.captions == 0 and len(batch.targets) == 0 and len(batch.inputs) == len(nothing)


def test_a_sample_is_collated_from_the_captions_it_chose() -> None:
    vocabulary = Vocabulary(["caption", "1", "2", "3"])
    encoded = EncodedCaptions(IMAGES, vocabulary, max_words=5)
    for sample in sampler(per_image=2).epoch(0):
        batch = encoded.batch(sample)
        assert batch.captions == sum(map(len, sample.captions))
        for row, image, chosen in zip(batch.inputs, sample.images, sample.captions, strict=True):
            said = [caption[caption != PAD].tolist() for caption in row if caption[0] != PAD]
            assert said == [vocabulary.encode(IMAGES[image].captions[choice])[:-1] for choice in chosen]


def test_long_captions_are_cut() -> None:
    encoded = EncodedCaptions(
        [CaptionedImage("a", Path("a.jpg"), "train", ("one two three four",))],
        Vocabulary(["one", "two", "three"]),
        max_words=3,
    )
    assert encoded.numbers == [[[BOS, 4, 5, 6]]]


@pytest.mark.parametrize("batch_size", [1, 3, 7, 10])
def test_every_image_is_drawn_once_an_epoch(batch_size: int) -> None:
    drawn = list(sampler(batch_size=batch_size).epoch(0))
    assert len(drawn) == len(sampler(batch_size=batch_size))
    assert sorted(image for sample in drawn for image in sample.images) == list(range(len(IMAGES)))
    assert all(len(sample.images) == len(sample.flipped) == len(sample.captions) for sample in drawn)


@pytest.mark.parametrize("per_image", [1, 3, 5])
def test_as_many_captions_of_an_image_are_drawn_as_requested(per_image: int) -> None:
    seen: set[tuple[int, int]] = set()
    for epoch in range(40):
        for sample in sampler(per_image=per_image).epoch(epoch):
            for image, chosen in zip(sample.images, sample.captions, strict=True):
                assert len(chosen) == len(set(chosen)) == min(per_image, CAPTIONS[image])
                seen |= {(image, caption) for caption in chosen}
    assert seen == {(image, caption) for image, n in enumerate(CAPTIONS) for caption in range(n)}


def test_draws_depend_on_seed_and_epoch_only() -> None:
    used = sampler()
    first = list(used.epoch(2))
    next(used.epoch(0))
    torch.rand(5)
    assert list(used.epoch(2)) == first == list(sampler().epoch(2))
    assert list(sampler().epoch(3)) != first and list(sampler(seed=8).epoch(2)) != first


@pytest.mark.parametrize("skip", [0, 1, 2, 3])
def test_skipping_continues_where_an_epoch_stopped(skip: int) -> None:
    assert list(sampler().epoch(5, skip=skip)) == list(sampler().epoch(5))[skip:]


def test_half_of_the_images_are_mirrored_on_request() -> None:
    flips = [flip for epoch in range(60) for sample in sampler().epoch(epoch) for flip in sample.flipped]
    assert 0.4 < sum(flips) / len(flips) < 0.6
    assert not any(flip for sample in sampler(flips=False).epoch(0) for flip in sample.flipped)


@pytest.mark.parametrize("ahead", [1, 2, 50])
def test_prefetching_keeps_the_order(ahead: int) -> None:
    assert list(prefetch(iter(range(20)), ahead=ahead)) == list(range(20))
    assert not threads()


def test_prefetching_raises_the_error_of_its_thread() -> None:
    def broken() -> Iterator[int]:
        yield 1
        yield 2
        raise OSError("the disk is gone")

    got = []
    with pytest.raises(OSError, match="the disk is gone"):
        for item in prefetch(broken()):
            got.append(item)
    assert got == [1, 2] and not threads()


def test_prefetching_is_bounded_and_ends_with_its_user() -> None:
    drawn: list[int] = []
    items = prefetch((drawn.append(i) or i for i in itertools.count()), ahead=2)  # type: ignore[func-returns-value]
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    time.sleep(0.1)
    assert len(drawn) <= 3 + 2 + 1  # used, waiting in the queue, and held by the thread
    assert len(threads()) == 1
    items.close()  # type: ignore[attr-defined]
    assert not threads()
