"""Searches against a beam search in plain Python that handles one image and one hypothesis at a time."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from captioner.decoders import DECODERS, Decoder
from captioner.errors import ConfigError
from captioner.memory import Memory
from captioner.search.beam import beam
from captioner.search.collect import top
from captioner.search.config import Hypothesis, SearchConfig
from captioner.search.greedy import greedy
from captioner.text.vocabulary import BOS, EOS, PAD, UNK
from tests import builders
from tests.builders import build_decoder, build_memory
from tests.search.scripted import Scripted, slow_starter, surely

SEARCHES = {"beam": beam, "greedy": greedy}

every_decoder = pytest.mark.parametrize("name", list(DECODERS))

SETTINGS: list[dict[str, Any]] = [
    {"max_words": 1, "length_normalisation": 0},
    {"max_words": 2, "min_words": 2},
    {"max_words": 8, "length_normalisation": 0},
    {"max_words": 8, "length_normalisation": 1, "forbid_unknown": False},
    {"max_words": 8, "min_words": 3, "block_ngram": 1},
    {"max_words": 10, "min_words": 6, "block_ngram": 2, "length_normalisation": 1},
    {"max_words": 10, "min_words": 5, "block_ngram": 3, "forbid_unknown": False},
]


def sharp(name: str, *, seed: int = 0, ending: float = 0.0) -> Decoder:
    """Make a decoder whose words differ clearly in probability; ``ending`` is added to the logit of ``<eos>``."""
    # Untied, so that there is an output layer to sharpen.
    untied = {"tie_output": False} if "tie_output" in DECODERS[name].Config.model_fields else {}
    decoder = build_decoder(name, seed=seed, **untied)
    *_, output = (
        layer for layer in decoder.modules() if isinstance(layer, nn.Linear) and layer.out_features == builders.WORDS
    )
    with torch.no_grad():
        output.weight.mul_(3)
        output.bias[EOS] += ending
    return decoder


def allowed(words: list[int], config: SearchConfig, vocabulary: int) -> list[int]:
    """List what may follow ``words``."""
    choice = []
    for word in range(vocabulary):
        n = config.block_ngram
        new = [*words, word][-n:] if 0 < n <= len(words) else None
        repeats = new is not None and any(words[i : i + n] == new for i in range(len(words) - n + 1))
        banned = (
            word in (PAD, BOS)
            or (word == UNK and config.forbid_unknown)
            or (word == EOS and len(words) < config.min_words)
        )
        if not (repeats or banned):
            choice.append(word)
    return choice or [EOS]


@torch.no_grad()
def reference(decoder: Decoder, memory: Memory, config: SearchConfig, count: int | None = None) -> list[Hypothesis]:
    """Search for the captions of one image."""
    live: list[tuple[float, list[int], list[Tensor | None], Any]] = [(0.0, [], [], decoder.start(memory))]
    ended: list[Hypothesis] = []
    width = config.width

    def hypothesis(total: float, words: list[int], attentions: list[Tensor | None], finished: bool) -> Hypothesis:
        rows = [row for row in attentions[: len(words)] if row is not None]
        where = (
            (torch.stack(rows) if rows else torch.zeros(0, memory.n_vectors)).float().numpy()
            if decoder.attends
            else None
        )
        return Hypothesis(words, total, total / (len(words) + finished) ** config.length_normalisation, where, finished)

    for _ in range(config.max_words):
        candidates = []
        for total, words, attentions, state in live:
            logits, attention, after = decoder.step(torch.tensor([[words[-1] if words else BOS]]), state)
            scores = logits[0, 0].log_softmax(-1).tolist()
            row = None if attention is None else attention[0, 0]
            candidates += [
                (total + scores[word], [*words, word], [*attentions, row], after)
                for word in allowed(words, config, len(scores))
            ]
        candidates = sorted(candidates, key=lambda candidate: -candidate[0])[:width]
        if config.prune:
            least = candidates[0][0] - config.prune
            candidates = [each for i, each in enumerate(candidates) if i < config.n_best or each[0] >= least]
        ended += [
            hypothesis(total, words[:-1], attentions, True)
            for total, words, attentions, _ in candidates
            if words[-1] == EOS
        ]
        live = [candidate for candidate in candidates if candidate[1][-1] != EOS]
        width = config.width - len(ended)
        if not live:
            break
    rest = [hypothesis(total, words, attentions, False) for total, words, attentions, _ in live]
    return [*sorted(ended, key=lambda h: -h.score), *sorted(rest, key=lambda h: -h.score)][: count or config.n_best]


def assert_same(found: list[Hypothesis], expected: list[Hypothesis]) -> None:
    assert [(h.words, h.finished) for h in found] == [(h.words, h.finished) for h in expected]
    for ours, theirs in zip(found, expected, strict=True):
        assert math.isclose(ours.log_probability, theirs.log_probability, abs_tol=1e-4)
        assert math.isclose(ours.score, theirs.score, abs_tol=1e-4)
        assert (ours.attention is None) == (theirs.attention is None)
        if ours.attention is not None and theirs.attention is not None:
            np.testing.assert_allclose(ours.attention, theirs.attention, rtol=0, atol=1e-5)


@every_decoder
@pytest.mark.parametrize("width", [1, 2, 5])
def test_beam_is_the_search_of_one_hypothesis_at_a_time(name: str, width: int) -> None:
    memory, finished = build_memory(), set()
    for seed, settings in enumerate(SETTINGS):
        decoder = sharp(name, seed=seed, ending=seed % 3 - 0.5)
        config = SearchConfig(width=width, n_best=width, **settings)
        for image, found in enumerate(beam(decoder, memory, config)):
            assert_same(found, reference(decoder, memory[image : image + 1], config))
            finished |= {hypothesis.finished for hypothesis in found}
    assert finished == {True, False}


@pytest.mark.parametrize("n_best", [1, 3])
def test_hypotheses_far_below_the_best_are_pruned(n_best: int) -> None:
    memory, differ = build_memory(), 0
    for seed, settings in enumerate(SETTINGS):
        decoder = sharp("show_attend_tell", seed=seed, ending=seed % 3 - 0.5)
        config = SearchConfig(width=5, n_best=n_best, prune=0.7, **settings)
        whole = beam(decoder, memory, config.changed(prune=0), 5)
        for image, found in enumerate(beam(decoder, memory, config, 5)):
            assert_same(found, reference(decoder, memory[image : image + 1], config, 5))
            assert len(found) >= n_best
            differ += len(found) < len(whole[image])
    assert differ


@every_decoder
@pytest.mark.parametrize("settings", SETTINGS)
def test_width_one_is_greedy(name: str, settings: dict[str, Any]) -> None:
    decoder, memory = sharp(name, ending=1.0), build_memory()
    config = SearchConfig(width=1, **settings)
    for wide, narrow in zip(beam(decoder, memory, config), greedy(decoder, memory, config), strict=True):
        assert_same(wide, narrow)


@every_decoder
@pytest.mark.parametrize("search", list(SEARCHES))
def test_captions_do_not_depend_on_the_rest_of_the_batch(name: str, search: str) -> None:
    decoder, memory, config = (
        sharp(name, seed=3, ending=1.0),
        build_memory(),
        SearchConfig(width=3, n_best=3, max_words=8),
    )
    together = SEARCHES[search](decoder, memory, config)
    assert len({tuple(found[0].words) for found in together}) > 1
    order = torch.tensor([2, 0, 3, 1])
    for found, image in zip(SEARCHES[search](decoder, memory[order], config), order.tolist(), strict=True):
        assert_same(found, together[image])
        assert_same(SEARCHES[search](decoder, memory[image : image + 1], config)[0], together[image])


@every_decoder
@pytest.mark.parametrize("search", list(SEARCHES))
@pytest.mark.parametrize("ending", [-1e4, float("-inf")])
def test_a_model_that_never_ends_still_gives_a_caption(name: str, search: str, ending: float) -> None:
    config = SearchConfig(width=3, max_words=6)
    for (found,) in SEARCHES[search](sharp(name, ending=ending), build_memory(), config):
        assert not found.finished and len(found.words) == 6 and math.isfinite(found.score)


@every_decoder
def test_a_model_that_ends_at_once_gives_an_empty_caption(name: str) -> None:
    for width in (1, 3):
        config = SearchConfig(width=width)
        for (found,) in (greedy if width == 1 else beam)(sharp(name, ending=1e3), build_memory(), config):
            assert found.words == [] and found.finished
            assert found.attention is None or found.attention.shape == (0, 6)


@every_decoder
@pytest.mark.parametrize("block", [0, 1])
def test_a_vocabulary_smaller_than_the_beam(name: str, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builders, "WORDS", 6)  # two words besides the special ones
    decoder, memory, config = (
        sharp(name),
        build_memory(),
        SearchConfig(width=8, n_best=8, max_words=4, block_ngram=block),
    )
    for image, found in enumerate(beam(decoder, memory, config)):
        assert_same(found, reference(decoder, memory[image : image + 1], config))
        assert len(found) == (5 if block else 8)  # nothing, a, b, a b, b a


@every_decoder
@pytest.mark.parametrize("search", list(SEARCHES))
@pytest.mark.parametrize("n", [1, 2, 3])
def test_no_sequence_is_written_twice(name: str, search: str, n: int) -> None:
    distinct_ngrams = {}
    for block in (0, n):
        config = SearchConfig(width=2, n_best=2, max_words=9, min_words=9, block_ngram=block)
        found = [h.words for image in SEARCHES[search](sharp(name, seed=1), build_memory(), config) for h in image]
        assert all(len(words) == 9 for words in found)
        distinct_ngrams[block] = [len({tuple(words[i : i + n]) for i in range(10 - n)}) for words in found]
    assert all(distinct == 10 - n for distinct in distinct_ngrams[n])
    assert min(distinct_ngrams[0]) < 10 - n, "this decoder never repeats itself, so blocking was not tried"


@every_decoder
@pytest.mark.parametrize("search", list(SEARCHES))
def test_a_hypothesis_ends_if_all_words_are_forbidden(name: str, search: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builders, "WORDS", 6)
    config = SearchConfig(width=2, max_words=9, min_words=9, block_ngram=1)
    for (found,) in SEARCHES[search](sharp(name), build_memory(), config):
        assert sorted(found.words) == [4, 5] and found.finished and math.isfinite(found.score)


@every_decoder
@pytest.mark.parametrize("search", list(SEARCHES))
def test_every_word_has_attention(name: str, search: str) -> None:
    memory, config = build_memory(), SearchConfig(width=3, n_best=3, max_words=7)
    for image, found in enumerate(SEARCHES[search](sharp(name), memory, config)):
        for hypothesis in found:
            assert (hypothesis.attention is not None) == DECODERS[name].attends
            if hypothesis.attention is not None and memory.mask is not None:
                assert hypothesis.attention.shape == (len(hypothesis.words), memory.n_vectors)
                np.testing.assert_allclose(hypothesis.attention.sum(1), 1, rtol=1e-5)
                assert (hypothesis.attention[:, ~memory.mask[image].numpy()] == 0).all()


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"width": 0}, "width"),
        ({"n_best": 4, "width": 3}, r"n_best \(4\) must not be more than width \(3\)"),
        ({"min_words": 9, "max_words": 8}, r"min_words \(9\) must not be more than max_words \(8\)"),
        ({"max_words": 0}, "max_words"),
        ({"beam": 5}, "beam"),
    ],
)
def test_invalid_settings_are_refused(settings: dict[str, Any], names: str) -> None:
    with pytest.raises(ValidationError, match=names):
        SearchConfig(**settings)


def test_n_best_widens_the_beam() -> None:
    own = SearchConfig(width=3, min_words=2)
    assert own.changed(n_best=5) == SearchConfig(width=5, n_best=5, min_words=2)
    assert own.changed(n_best=2).width == 3 and own.changed() == own
    with pytest.raises(ConfigError, match=r"n_best \(5\) must not be more than width \(4\)"):
        own.changed(n_best=5, width=4)


@pytest.mark.parametrize("n_best", [1, 3])
@pytest.mark.parametrize("length_normalisation", [0.0, 0.7, 1.5])
def test_an_exhaustive_beam_finds_the_best_caption_of_all(length_normalisation: float, n_best: int) -> None:
    config = SearchConfig(width=64, n_best=n_best, max_words=4, length_normalisation=length_normalisation)
    for seed in range(30):
        random = torch.Generator().manual_seed(seed)
        decoder = Scripted((3 * torch.randn(4, 7, 7, generator=random)).softmax(-1))
        (found,) = beam(decoder, build_memory(images=1), config)
        expected = decoder.every_caption(config)[:n_best]
        assert [(h.words, h.finished) for h in found] == [(words, end) for words, _, _, end in expected]
        np.testing.assert_allclose([h.log_probability for h in found], [c[1] for c in expected], rtol=1e-5)
        np.testing.assert_allclose([h.score for h in found], [c[2] for c in expected], rtol=1e-5)


def test_a_hypothesis_that_can_still_win_by_its_length_is_followed_to_the_end() -> None:
    # After the first word "" has log .5 / 1 = -.69 and "4" log .3 / 1 = -1.2; ended, "4 4 4 4" has log .3 / 5 = -.24.
    config = SearchConfig(width=3, max_words=8, length_normalisation=1)
    (found,) = beam(Scripted(slow_starter()), build_memory(images=1), config)[0]
    assert found.words == [4, 4, 4, 4] and found.finished
    assert found.score == pytest.approx(math.log(0.3) / 5)


def test_a_search_stops_when_no_hypothesis_can_win() -> None:
    # Without normalisation "" is the best caption as soon as it has ended; for two captions the search must go on.
    for n_best, calls in ((1, 1), (2, 5), (3, 8)):
        decoder = Scripted(slow_starter())
        config = SearchConfig(width=3, n_best=n_best, max_words=8, length_normalisation=0)
        (found,) = beam(decoder, build_memory(images=1), config)
        assert [h.words for h in found] == [[], [4] * 4, [5] * 8][:n_best]
        assert [h.finished for h in found] == [True, True, False][:n_best]
        assert len(decoder.calls) == calls


def test_later_steps_take_only_the_hypotheses_that_are_left() -> None:
    decoder = Scripted(slow_starter(), slow_starter())
    beam(decoder, build_memory(images=2), SearchConfig(width=3, n_best=3, max_words=8, length_normalisation=0))
    widths = [width for _, width in decoder.calls]
    assert widths[0] == 1 and max(widths) == 3 and widths[-1] == 1
    assert widths[1:] == sorted(widths[1:], reverse=True)


def test_images_whose_search_has_stopped_are_left_out_of_later_steps() -> None:
    decoder = Scripted(surely(), slow_starter(), surely())
    found = beam(decoder, build_memory(images=3), SearchConfig(width=2, max_words=8, length_normalisation=1))
    assert [image[0].words for image in found] == [[], [4] * 4, []]
    assert [images for images, _ in decoder.calls] == [3, 1, 1, 1, 1]


@pytest.mark.parametrize("within", [float("inf"), 0.75])
@pytest.mark.parametrize("count", [1, 3, 8])
def test_the_highest_scores_of_each_row_are_those_of_a_sort(count: int, within: float) -> None:
    random = np.random.default_rng(0)
    for columns in (1, 2, 5, 40, 3000):
        scores = random.standard_normal((6, columns)).astype(np.float32)
        scores[:2, 1:] = float("-inf")
        values, places = top(scores, count, within)
        assert values.shape == places.shape == (6, count)
        for row in range(6):
            near = scores[row][scores[row] >= scores[row].max() - within]
            expected = sorted(near.tolist(), reverse=True)[:count]
            assert values[row].tolist() == expected + [float("-inf")] * (count - len(expected))
            for value, place in zip(values[row], places[row], strict=True):
                assert scores[row, place] == value if value > float("-inf") else place == 0


@pytest.mark.parametrize(
    ("setting", "least", "most"),
    [
        ("width", 1, 1000),
        ("max_words", 1, 5000),
        ("min_words", 0, None),
        ("length_normalisation", 0, 10),
        ("block_ngram", 0, None),
        ("n_best", 1, None),
    ],
)
def test_settings_have_limits(setting: str, least: int, most: int | None) -> None:
    roomy = {"width": 1000, "max_words": 5000}
    for value in (least, most or 900):
        assert getattr(SearchConfig(**{**roomy, setting: value}), setting) == value
    for value in [least - 1] + ([most + 1] if most else []):
        with pytest.raises(ValidationError, match=setting):
            SearchConfig(**{**roomy, setting: value})


def test_greedy_search_of_images_that_end_at_different_steps() -> None:
    decoder = Scripted(surely(), surely(4, 5, 4), surely(5))
    found = greedy(decoder, build_memory(images=3), SearchConfig(width=1, max_words=3))
    assert [(image[0].words, image[0].finished) for image in found] == [([], True), ([4, 5, 4], False), ([5], True)]
    assert len(decoder.calls) == 3
    greedy(decoder, build_memory(images=3), SearchConfig(width=1, max_words=8))
    assert len(decoder.calls) == 3 + 4, "it continues after the last caption has ended"


def test_a_search_stops_by_scores_whose_length_includes_eos() -> None:
    # "4" has log .6 / 2 = -.26 with its end. Cut, "5 5 5" has log .4 / 3 = -.31, and "5 5 5 5 5" log .4 / 5 = -.18.
    script = torch.full((5, 6, 6), 1 / 6)
    script[0], script[1] = torch.tensor([0, 0, 0, 0, 0.6, 0.4]), torch.eye(6)
    script[1, 4] = torch.eye(6)[EOS]
    for max_words, calls in ((3, 2), (5, 5)):
        decoder = Scripted(script.where(torch.arange(5).view(-1, 1, 1) < 2, torch.eye(6)))
        config = SearchConfig(width=2, max_words=max_words, length_normalisation=1)
        (found,) = beam(decoder, build_memory(images=1), config)
        assert len(decoder.calls) == calls and found[0].words == [4]
