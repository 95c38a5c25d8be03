"""The search in numpy against the one in torch, over the same decoders."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from captioner.decoders import DECODERS, Decoder
from captioner.decoders import State as TorchState
from captioner.memory import Memory
from captioner.onnx.beam import State, Step, beam, constrain
from captioner.search.config import Hypothesis, SearchConfig
from captioner.search.constraints import constrain as constrain_in_torch
from captioner.search.search import search
from tests import builders
from tests.builders import build_memory
from tests.search.test_search import SETTINGS, assert_same, sharp


class InTorch:
    """A decoder in torch behind arrays."""

    def __init__(self, decoder: Decoder, memory: Memory) -> None:
        self.decoder, self.images, start = decoder, len(memory), decoder.start(memory)
        self.first = self.arrays(start)

    def arrays(self, state: TorchState) -> State:
        hypotheses, images = (
            {k: t.detach().numpy() for k, t in each.items()} for each in (state.hypotheses, state.images)
        )
        return State(hypotheses, images)

    def step(self, tokens: np.ndarray, state: State) -> Step:
        hypotheses, images = (
            {k: torch.from_numpy(a) for k, a in each.items()} for each in (state.hypotheses, state.images)
        )
        with torch.no_grad():
            logits, attention, after = self.decoder.step(torch.from_numpy(tokens), TorchState(hypotheses, images))
        attended = None if attention is None else attention.float().numpy()
        return Step(torch.log_softmax(logits.float(), -1).numpy(), attended, self.arrays(after))

    def search(self, config: SearchConfig) -> list[list[Hypothesis]]:
        return beam(self, self.first, self.images, config)


@pytest.mark.parametrize("name", list(DECODERS))
@pytest.mark.parametrize("width", [1, 2, 5])
def test_it_finds_what_the_search_in_torch_finds(name: str, width: int) -> None:
    memory, finished = build_memory(), set()
    for seed, settings in enumerate(SETTINGS):
        decoder = sharp(name, seed=seed, ending=seed % 3 - 0.5)
        config = SearchConfig(width=width, n_best=width, **settings)
        expected = search(decoder, memory, config)
        for ours, theirs in zip(InTorch(decoder, memory).search(config), expected, strict=True):
            assert_same(ours, theirs)
            finished |= {hypothesis.finished for hypothesis in ours}
    assert finished == {True, False}


def test_both_searches_prune_the_same() -> None:
    memory = build_memory()
    for seed, settings in enumerate(SETTINGS):
        numpy = InTorch(decoder := sharp("show_attend_tell", seed=seed, ending=seed % 3 - 0.5), memory)
        config = SearchConfig(width=5, n_best=2, prune=0.7, **settings)
        ours = beam(numpy, numpy.first, numpy.images, config, 5)
        for one, other in zip(ours, search(decoder, memory, config, 5), strict=True):
            assert_same(one, other)


def test_a_vocabulary_smaller_than_the_beam(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builders, "WORDS", 6)
    memory, decoder = build_memory(), sharp("show_attend_tell")
    config = SearchConfig(width=9, n_best=9, max_words=3)
    expected = search(decoder, memory, config)
    for ours, theirs in zip(InTorch(decoder, memory).search(config), expected, strict=True):
        assert_same(ours, theirs)


@pytest.mark.parametrize("settings", [*SETTINGS, {"block_ngram": 1, "min_words": 9, "max_words": 9}])
def test_the_same_words_may_not_come_next(settings: dict[str, Any]) -> None:
    random, config = np.random.default_rng(0), SearchConfig(**settings)
    for length in range(6):
        scores = random.standard_normal((2, 3, 6)).astype(np.float32)
        history = random.integers(3, 6, (2, 3, length))
        expected = constrain_in_torch(torch.from_numpy(scores.copy()), torch.from_numpy(history), config)
        np.testing.assert_array_equal(constrain(scores, history, config), expected.numpy())
