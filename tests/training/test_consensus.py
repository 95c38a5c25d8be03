"""The fitted prediction against the ridge regression in closed form, and in a run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from captioner import Captioner
from captioner.model.checkpoint import load_model, save_model
from captioner.training.consensus import ConsensusSettings, fit_consensus
from captioner.training.fit import train
from tests.search.test_consensus import CAPTIONS, frequencies, naive_vectors
from tests.training.conftest import listening


def test_the_prediction_is_that_of_ridge_regression() -> None:
    torch.manual_seed(0)
    pooled, ridge = torch.rand(3, 8), 0.3
    consensus = fit_consensus(pooled, CAPTIONS, ConsensusSettings(min_images=1, rank=99, ridge=ridge))
    assert consensus is not None
    unit = pooled / pooled.norm(dim=1, keepdim=True)
    x = unit - unit.mean(0)
    x = (x / x.norm(dim=1, keepdim=True)).double().numpy()
    df = frequencies()
    grams = [tuple(number for number in row if number) for row in consensus.words.tolist()]
    assert sorted(grams) == sorted(df)
    y = np.array(
        [
            [
                np.mean([naive_vectors(caption, df, 3)[len(gram) - 1].get(gram, 0.0) for caption in captions])
                for gram in grams
            ]
            for captions in CAPTIONS
        ]
    )
    weights = np.linalg.solve(x.T @ x + ridge * np.eye(8), x.T @ (y - y.mean(0)))
    expected = x @ weights + y.mean(0)
    np.testing.assert_allclose(consensus(pooled).numpy(), expected, atol=2e-3)
    # A lower rank loses least of the fitted values: no other projection of that rank is nearer.
    low = fit_consensus(pooled, CAPTIONS, ConsensusSettings(min_images=1, rank=1, ridge=ridge))
    assert low is not None and low.up.weight.shape[1] == 1
    error = np.square(low(pooled).numpy() - expected).sum()
    fitted = x @ weights
    least = np.square(np.linalg.svd(fitted, compute_uv=False)[1:]).sum()
    assert error == pytest.approx(least, rel=0.02)


def test_rare_ngrams_and_unknown_words_are_left_out() -> None:
    captions = [[[5, 6, 3]], [[5, 6, 3]], [[7, 6]]]
    consensus = fit_consensus(torch.rand(3, 4), captions, ConsensusSettings(min_images=2))
    assert consensus is not None
    assert {tuple(row) for row in consensus.words.tolist()} == {(5, 0, 0, 0), (6, 0, 0, 0), (5, 6, 0, 0)}
    assert fit_consensus(torch.rand(3, 4), captions, ConsensusSettings(min_images=4)) is None


def test_a_run_fits_it_and_a_model_is_saved_with_it(tiny: Path, tmp_path: Path) -> None:
    events, heard = listening()
    best = train(
        tiny,
        ["epochs=3", "fine_tune.from_epoch=1", "consensus={min_images: 3, rank: 4}"],
        output=tmp_path / "run",
        events=events,
    )
    assert any(line.startswith("last, with consensus: BLEU-1") for line in heard)
    model = load_model(best)
    assert model.consensus is not None and model.config.consensus is not None
    assert model.config.consensus.images == 24
    captioner = Captioner.from_pretrained(best)
    image = tmp_path / "24.png"
    plain = Captioner.from_pretrained(best, consensus=0.0, n_best=5)(image)
    chosen = captioner(image)
    words = [plain, *plain.others]
    ngrams, expected = model.consensus.ngrams, model.consensus(model(captioned(captioner, image)).pooled)[0].numpy()
    assert max(words, key=lambda one: agreed(ngrams, model, one, expected)).tokens == chosen.tokens
    # In eight bits, and as the start of another run.
    small = save_model(tmp_path / "small", model, dtype=torch.int8)
    assert load_file(small / "model.safetensors")["consensus.up.weight"].dtype == torch.int8
    assert Captioner.from_pretrained(small)(image).log_probability < 0
    again = train(tiny, ["epochs=1", f"start={best}"], output=tmp_path / "again")
    assert load_model(again).consensus is None
    assert "consensus" in json.loads((best / "config.json").read_text())["model"]


def captioned(captioner: Captioner, image: Path) -> torch.Tensor:
    from captioner.data.loader import load_groups

    (batch,) = load_groups([[image]], captioner.transform)
    return batch.pixels


def agreed(ngrams, model, caption, expected) -> float:  # type: ignore[no-untyped-def]
    numbers = [model.vocabulary.number(word) for word in caption.tokens]
    score = caption.log_probability / (len(numbers) + 1) ** 0.7
    return float(score + 50 * ngrams.agreement(numbers, expected))
