"""Photos are ranked by the equation of the module, and by words that only texts have."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from captioner import Captioner
from captioner.engines.engine import spread
from captioner.engines.model import ModelEngine
from captioner.errors import CaptionerError
from captioner.memory import Memory
from captioner.retrieval import INDEX, Finder, PhotoIndex, open_index, ranking
from captioner.search.consensus import Consensus
from tests.cli.conftest import WORDS, paint, tiny_model

SENTENCE = "A dog runs on grass."


def consensus(features: int) -> Consensus:
    """Return a random map for the words of the tiny model."""
    numbers = np.random.default_rng(0)
    grams = [[word, 0, 0, 0] for word in range(4, 9)] + [[4, 5, 0, 0], [5, 6, 7, 0], [4, 5, 6, 7]]
    return Consensus(
        words=np.array(grams, np.int32),
        idf=numbers.uniform(1, 3, len(grams)).astype(np.float32),
        mean=numbers.uniform(0, 0.1, len(grams)).astype(np.float32),
        centre=numbers.normal(size=features).astype(np.float32) / features,
        down=numbers.integers(-127, 128, (3, features)).astype(np.int8),
        down_scale=np.full(3, 0.01, np.float32),
        up=numbers.integers(-127, 128, (len(grams), 3)).astype(np.int8),
        up_scale=np.full(len(grams), 0.01, np.float32),
        images=50,
    )


@pytest.fixture(scope="module", params=["with consensus", "without"])
def captioner(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Captioner]:
    folder = tiny_model(tmp_path_factory.mktemp("models") / "tiny", "show_attend_tell")
    with pytest.MonkeyPatch.context() as patch:  # of 16 bits, which are faster on some machines
        patch.setattr("captioner.engines.model.fast_dtype", lambda device: torch.float32)
        made = Captioner.from_pretrained(folder, device="cpu")
        assert isinstance(made.engine, ModelEngine)
        model = made.engine.model
        for weight in model.decoder.parameters():
            torch.nn.init.normal_(weight, generator=torch.Generator().manual_seed(0))
        if request.param == "with consensus":
            model.consensus = consensus(model.encoder.features)
        yield Captioner.from_model(model, device="cpu", max_words=6)


@pytest.fixture
def index(tmp_path: Path, captioner: Captioner) -> Any:
    folder = tmp_path / "photos"
    paint(folder)
    (folder / "red.txt").write_text("a dog of Anna's\n")
    with open_index(folder / INDEX, folder) as opened:
        opened.update(sorted(folder.glob("*.*g")), "m", lambda: captioner)
        yield opened


def naive_likelihood(engine: ModelEngine, parts: Any, caption: Sequence[int]) -> float:
    """Return the log-probability of a caption, word by word, over the whole grid of one image."""
    assert engine.grid is not None
    memory = Memory.of_grid(torch.from_numpy(spread(parts[None], engine.grid)), engine.grid)
    state, total = engine.model.decoder.start(memory), 0.0
    with torch.inference_mode():
        for word, following in pairwise(caption):
            step = engine.model.decoder.step(torch.tensor([[word]]), state)
            total += float(torch.log_softmax(step.logits[0, 0], -1)[following])
            state = step.state
    return total


def test_the_score_is_that_of_the_equation(index: PhotoIndex, captioner: Captioner) -> None:
    engine, parts = captioner.engine, index.parts()
    assert isinstance(engine, ModelEngine)
    caption = captioner.vocabulary.encode(SENTENCE)
    places = [*parts, parts.mean(0)]
    likelihoods = [naive_likelihood(engine, each, caption) for each in places]
    np.testing.assert_allclose(engine.log_likelihoods(np.stack(places), caption), likelihoods, rtol=1e-4)
    expected_cider = [0.0] * len(places)
    if engine.consensus is not None:
        codes = engine.consensus.codes(np.stack([each.mean(0) for each in places]))
        expected_cider = [engine.consensus.expected_cider(code, [caption[1:-1]])[0] for code in codes]
        assert len({round(each, 5) for each in expected_cider}) == 4
    texts = index.texts.matches(["a", "dog", "runs", "on", "grass"])
    assert texts.keys() == {b"red.jpg"}
    length = len(caption) - 1
    expected = {
        name: (likelihoods[row] - likelihoods[-1]) / length**captioner.search.length_normalisation
        + captioner.search.consensus * (expected_cider[row] - expected_cider[-1])
        + ranking.BM25_WEIGHT * texts.get(name, 0.0)
        for row, name in enumerate(index.names())
    }
    hits = Finder(index, captioner).find(SENTENCE)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    for hit in hits:
        assert hit.score == pytest.approx(expected[hit.path.name.encode()], abs=1e-3)
    assert next(hit for hit in hits if hit.path.name == "red.jpg").text == "a dog of Anna's"


def test_words_that_the_model_does_not_know_are_found_in_texts(index: PhotoIndex, captioner: Captioner) -> None:
    finder = Finder(index, captioner)
    assert "anna" not in WORDS and finder.unknown("Anna's dog") == ["anna", "'s"]
    assert finder.find("dog with Anna")[0].path.name == "red.jpg"
    assert [hit.path.name for hit in finder.find("Anna")] == ["red.jpg"]
    assert finder.find("Otto") == []
    with pytest.raises(CaptionerError, match="has no words"):
        finder.find(" . ")


def test_only_candidates_are_scored_by_the_decoder(
    index: PhotoIndex, captioner: Captioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking, "CANDIDATES", 1)
    whole = Finder(index, captioner).find(SENTENCE, 3)
    assert len(whole) == 3, "as many as requested are scored"
    scored: list[int] = []
    original = captioner.engine.log_likelihoods
    monkeypatch.setattr(
        captioner.engine, "log_likelihoods", lambda cells, words: (scored.append(len(cells)), original(cells, words))[1]
    )
    (hit,) = Finder(index, captioner).find(SENTENCE, 1)
    assert scored == [3 if captioner.engine.consensus else 4]  # with the mean of all
    assert hit.score == pytest.approx(next(each.score for each in whole if each.path == hit.path), abs=1e-4)


def test_one_caption_of_many_images_equals_many_captions_of_one() -> None:
    prediction = consensus(5)
    codes = prediction.codes(np.random.default_rng(1).normal(size=(4, 5)))
    for caption in ([4, 5, 6, 7], [4, 4, 9, 11], [11, 12], [5]):
        expected = [prediction.expected_cider(code, [caption])[0] for code in codes]
        np.testing.assert_allclose(prediction.expected_cider_of_images(codes, caption), expected, rtol=1e-4, atol=1e-6)
