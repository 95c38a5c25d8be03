"""Packed captions against a loop over steps, images and captions."""

from __future__ import annotations

import pytest

from captioner.decoders.unrolled import Packing
from captioner.text.vocabulary import PAD
from tests.builders import LENGTHS, build_tokens


@pytest.mark.parametrize("lengths", [LENGTHS, ((2,), (5,), (5,)), ((1, 1, 1),), ((0, 0), (3, 0), (0, 4))])
def test_rows_follow_step_by_step_the_images_that_still_write(lengths: tuple[tuple[int, ...], ...]) -> None:
    tokens = build_tokens(lengths)
    packing = Packing.of(tokens)
    longest = [max(image) for image in lengths]
    order = sorted(range(len(lengths)), key=lambda image: -longest[image])
    row_of, words, active = {}, [], []
    for step in range(max(longest)):
        # All images take part in the first step, also those without a caption.
        working = [image for image in order if longest[image] > step or step == 0]
        active.append(len(working))
        for image in working:
            for caption in range(tokens.shape[1]):
                row_of[image, caption, step] = len(words)
                words.append(int(tokens[image, caption, step]))
    assert packing.order.tolist() == order and packing.active == active and packing.words.tolist() == words
    real = (tokens != PAD).nonzero().tolist()
    assert packing.rows.tolist() == [row_of[image, caption, step] for image, caption, step in real]
