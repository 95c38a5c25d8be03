from __future__ import annotations

from collections import Counter
from itertools import product

import pytest
import torch

from captioner.decoders import DECODERS
from captioner.search.config import SearchConfig
from captioner.search.greedy import greedy
from captioner.search.sample import sample
from captioner.text.vocabulary import BOS, EOS, PAD, UNK
from tests.builders import WORDS, build_decoder, build_memory, step_by_step
from tests.search.scripted import Scripted, surely

every_decoder = pytest.mark.parametrize("name", list(DECODERS))


@every_decoder
def test_captions_come_as_often_as_they_are_probable(name: str) -> None:
    torch.manual_seed(0)
    decoder, memory, many = build_decoder(name), build_memory(images=2), 4000
    drawn = sample(decoder, memory, many, SearchConfig(max_words=2))
    # The probability of each possible caption of at most two words, from single steps.
    allowed = [EOS, *range(UNK + 1, WORDS)]
    first = step_by_step(decoder, memory, torch.full((2, 1, 1), BOS)).logits[:, allowed].softmax(-1)
    inputs = torch.tensor([[BOS, word] for word in allowed if word != EOS]).expand(2, -1, -1)
    second = (
        step_by_step(decoder, memory, inputs).logits.view(2, len(allowed) - 1, 2, WORDS)[:, :, 1, allowed].softmax(-1)
    )
    for image in range(2):
        expected = {(EOS, PAD): first[image, 0].item()}
        for (i, word), (j, other) in product(enumerate(allowed[1:]), enumerate(allowed)):
            expected[(word, other)] = (first[image, i + 1] * second[image, i, j]).item()
        assert sum(expected.values()) == pytest.approx(1)
        counts = Counter(map(tuple, drawn[image].tolist()))
        assert counts.keys() <= expected.keys()
        for caption, probability in expected.items():
            deviation = (probability * (1 - probability) / many) ** 0.5
            assert abs(counts[caption] / many - probability) < 5 * deviation + 1e-3, caption


@every_decoder
def test_the_most_probable_word_each_time_is_greedy_search(name: str) -> None:
    decoder, memory, config = build_decoder(name), build_memory(), SearchConfig(width=1, max_words=9)
    drawn = sample(decoder, memory, 1, config, greedy=True)
    assert [[word for word in row if word > EOS] for row in drawn[:, 0].tolist()] == [
        found[0].words for found in greedy(decoder, memory, config)
    ]


def test_after_the_end_there_is_only_padding() -> None:
    torch.manual_seed(0)
    drawn = sample(build_decoder("show_tell"), build_memory(), 50, SearchConfig(max_words=12))
    lengths = (drawn == EOS).int().argmax(-1).where((drawn == EOS).any(-1), torch.tensor(drawn.shape[-1]))
    after = torch.arange(drawn.shape[-1]) > lengths.unsqueeze(-1)
    assert (drawn[after] == PAD).all() and (drawn[~after] != PAD).all() and len(lengths.unique()) > 3
    assert not torch.isin(drawn, torch.tensor([BOS, UNK])).any()


@pytest.mark.parametrize("most_probable", [False, True])
def test_images_whose_captions_have_ended_are_left_out_of_later_steps(most_probable: bool) -> None:
    decoder = Scripted(surely(), surely(4, 5, 4), surely(5))
    drawn = sample(decoder, build_memory(images=3), 2, SearchConfig(max_words=8), greedy=most_probable)
    expected = [[EOS, PAD, PAD, PAD], [4, 5, 4, EOS], [5, EOS, PAD, PAD]]
    assert drawn.tolist() == [[caption] * 2 for caption in expected]
    assert decoder.calls == [(3, 2), (2, 2), (1, 2), (1, 2)]


def test_a_sample_is_cut_at_max_words() -> None:
    decoder = Scripted(surely(4, 5, 4), surely(5))
    drawn = sample(decoder, build_memory(images=2), 1, SearchConfig(max_words=2))
    assert drawn[:, 0].tolist() == [[4, 5], [5, EOS]]
