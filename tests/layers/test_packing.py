"""Packed captions against a loop over steps, images and captions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from captioner.layers.packing import Packing
from captioner.text.vocabulary import PAD
from tests.builders import LENGTHS, build_tokens

BATCHES = [LENGTHS, ((2,), (5,), (5,)), ((1, 1, 1),), ((0, 0), (3, 0), (0, 4))]
Caption = tuple[int, int]  # its image and its number among those of the image


def longest_first(lengths: tuple[tuple[int, ...], ...]) -> list[Caption]:
    captions = [(i, k) for i, image in enumerate(lengths) for k, length in enumerate(image) if length]
    return sorted(captions, key=lambda caption: -lengths[caption[0]][caption[1]])


@pytest.mark.parametrize("lengths", BATCHES)
def test_rows_follow_step_by_step_the_captions_that_still_have_words(lengths: tuple[tuple[int, ...], ...]) -> None:
    tokens = build_tokens(lengths)
    packing = Packing.of(tokens)
    row_of, words, images, active = {}, [], [], []
    for step in range(max(max(image) for image in lengths)):
        working = [(i, k) for i, k in longest_first(lengths) if lengths[i][k] > step]
        active.append(len(working))
        for i, k in working:
            row_of[i, k, step] = len(words)
            words.append(int(tokens[i, k, step]))
            images.append(i)
    assert packing.active == active and packing.words.tolist() == words and packing.image.tolist() == images
    real = (tokens != PAD).nonzero().tolist()
    assert packing.rows.tolist() == [row_of[i, k, step] for i, k, step in real]


@pytest.mark.parametrize("lengths", BATCHES)
def test_the_rows_of_a_step_are_scattered_over_their_images(lengths: tuple[tuple[int, ...], ...]) -> None:
    packing, longest = Packing.of(build_tokens(lengths)), [max(image) for image in lengths]
    order = sorted(range(len(lengths)), key=lambda image: -longest[image])
    assert packing.order.tolist() == order
    for step, (rows, images) in enumerate(zip(packing.active, packing.images, strict=True)):
        assert images == sum(length > step for length in longest)
        of_rows = torch.tensor([[[1 + i, 1 + k]] for i, k in longest_first(lengths)[:rows]])  # (rows, 1, 2)
        scattered = packing.scatter(of_rows, images)
        for i, image in enumerate(order[:images]):
            for k, length in enumerate(lengths[image]):
                assert scattered[i, k].tolist() == ([1 + image, 1 + k] if length > step else [0, 0])
        assert torch.equal(packing.gather(scattered, rows), of_rows)


@pytest.mark.parametrize("lengths", BATCHES)
def test_the_rows_of_all_steps_are_arranged_by_image(lengths: tuple[tuple[int, ...], ...]) -> None:
    packing = Packing.of(build_tokens(lengths))
    numbers = torch.arange(1, len(packing.words) + 1)
    arranged: Tensor = packing.by_image(numbers)
    assert arranged.shape == (len(lengths), max(sum(image) for image in lengths))
    for image, row in zip(packing.order.tolist(), arranged, strict=True):
        assert row[row > 0].sort().values.tolist() == numbers[packing.image == image].tolist()
        assert (row[: sum(lengths[image])] > 0).all()
