"""The fitted prediction against the ridge regression in closed form, and in a run."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from captioner import Caption, Captioner
from captioner.errors import CheckpointError
from captioner.model import CaptionModel
from captioner.model.checkpoint import load_model, save_model
from captioner.search.consensus import Consensus
from captioner.store import CONSENSUS, read_config
from captioner.training.consensus import ConsensusSettings, fit_consensus
from captioner.training.fit import train
from tests.search.test_consensus import CAPTIONS, frequencies, naive_vectors
from tests.training.conftest import listening


def test_the_prediction_is_that_of_ridge_regression(monkeypatch: pytest.MonkeyPatch) -> None:
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
    np.testing.assert_allclose(predicted(consensus, pooled), expected, atol=5e-3)  # in eight bits
    with monkeypatch.context() as patched:
        patched.setattr("captioner.training.consensus.quantised", lambda matrix: (matrix, torch.ones(len(matrix))))
        exact = fit_consensus(pooled, CAPTIONS, ConsensusSettings(min_images=1, rank=99, ridge=ridge))
    assert exact is not None
    np.testing.assert_allclose(predicted(exact, pooled), expected, atol=2e-3)
    # A lower rank loses least of the fitted values: no other projection of that rank is nearer.
    low = fit_consensus(pooled, CAPTIONS, ConsensusSettings(min_images=1, rank=1, ridge=ridge))
    assert low is not None and low.up.shape[1] == 1
    error = np.square(predicted(low, pooled) - expected).sum()
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
    assert model.consensus is not None and model.consensus.images == 24
    captioner = Captioner.from_pretrained(best)
    image = tmp_path / "24.png"
    plain = Captioner.from_pretrained(best, consensus=0.0, n_best=5)(image)
    chosen = captioner(image)
    words = [plain, *plain.others]
    (code,) = model.consensus.codes(model(captioned(captioner, image)).pooled.detach().numpy())
    assert max(words, key=lambda one: agreed(model, one, code)).tokens == chosen.tokens
    # In eight bits, and as the start of another run.
    small = save_model(tmp_path / "small", model, dtype=torch.int8)
    assert (small / CONSENSUS).read_bytes() == (best / CONSENSUS).read_bytes()
    assert Captioner.from_pretrained(small)(image).log_probability < 0
    again = train(tiny, ["epochs=1", f"start={best}"], output=tmp_path / "again")
    assert load_model(again).consensus is None
    assert not (again / CONSENSUS).exists() and CONSENSUS in read_config(best)["files"]
    os.replace(small / CONSENSUS, tmp_path / CONSENSUS)
    with pytest.raises(CheckpointError, match=f"{CONSENSUS}: is missing; copy the whole model folder again"):
        load_model(small)


def captioned(captioner: Captioner, image: Path) -> torch.Tensor:
    from captioner.data.loader import load_groups

    (batch,) = load_groups([[image]], captioner.transform)
    return batch.pixels


def predicted(consensus: Consensus, pooled: torch.Tensor) -> np.ndarray:
    """Return the prediction of all n-grams."""
    return np.stack([consensus.expected(code, range(len(consensus.idf))) for code in consensus.codes(pooled.numpy())])


def agreed(model: CaptionModel, caption: Caption, code: np.ndarray) -> float:
    numbers = [model.vocabulary.index(word) for word in caption.tokens]
    score = caption.log_probability / (len(numbers) + 1) ** 0.7
    assert model.consensus is not None
    return float(score + 50 * model.consensus.expected_cider(code, [numbers])[0])
