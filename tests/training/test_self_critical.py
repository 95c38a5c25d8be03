"""The policy gradient against the gradient of the expected reward, computed by enumerating all captions."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from captioner.data.batches import Captions, Weights
from captioner.data.dataset import CaptionedImage
from captioner.decoders import Decoder
from captioner.encoders.refiner import Identity
from captioner.evaluation.bleu import SentenceBleu
from captioner.evaluation.cider import CiderD
from captioner.model import build_decoder as build_model_decoder
from captioner.model import build_refiner
from captioner.search.config import SearchConfig
from captioner.search.sample import sample
from captioner.text.vocabulary import BOS, EOS, PAD, UNK, Vocabulary
from captioner.training.self_critical import SelfCritical, SelfCriticalConfig
from tests.builders import FEATURES, WORDS, build_decoder, build_memory, step_by_step

PLAIN = Identity(features=FEATURES)
REFERENCES = [[[4, 5, EOS], [4, 6, EOS]], [[7, EOS]], [[5, 5, EOS]]]
CAPTIONS = Captions(torch.full((2, 1, 1), BOS), torch.tensor([4, 7]), images=(0, 1))


def gradient(decoder: Decoder) -> Tensor:
    return torch.cat(
        [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in decoder.parameters()]
    )


def expected_reward(decoder: Decoder) -> Tensor:
    """Return the expected reward, a sum over all captions of at most two words, as the mean over both images."""
    words = list(range(UNK + 1, WORDS))
    every = [(EOS, PAD), *((word, EOS) for word in words), *product(words, words)]
    captions = torch.tensor(every).expand(2, -1, -1)
    inputs = torch.cat(
        [torch.full_like(captions[..., :1], BOS), captions[..., :1].masked_fill(captions[..., 1:] == PAD, PAD)], dim=-1
    )
    logits = step_by_step(decoder, build_memory(images=2), inputs).logits
    logits[:, [PAD, BOS, UNK]] = float("-inf")
    likelihood = logits.log_softmax(-1).gather(1, captions[inputs != PAD].unsqueeze(1)).squeeze(1)
    total = torch.zeros(2 * len(every), dtype=torch.float64).index_add(
        0, (inputs != PAD).flatten(0, 1).nonzero()[:, 0], likelihood
    )
    images = [image for image in range(2) for _ in every]
    rewards = torch.from_numpy(CiderD(REFERENCES, words=WORDS)(images, captions.flatten(0, 1).numpy()))
    return (total.exp() * rewards).sum() / 2


@pytest.mark.parametrize("baseline", ["others", "greedy"])
@pytest.mark.parametrize("name", ["show_tell", "transformer"])
def test_the_gradient_is_that_of_the_expected_reward(name: str, baseline: str) -> None:
    torch.manual_seed(0)
    decoder = build_decoder(name)
    config = SelfCriticalConfig(samples=8000, max_words=2, baseline=baseline)  # type: ignore[arg-type]
    loss, metrics = SelfCritical(config, REFERENCES, WORDS)(PLAIN, decoder, build_memory(images=2), CAPTIONS)
    loss.backward()
    estimated = gradient(decoder)
    decoder.zero_grad()
    exact = expected_reward(decoder)
    (-exact).backward()
    assert metrics["reward"].item() == pytest.approx(exact.item(), rel=0.1)
    assert torch.nn.functional.cosine_similarity(estimated, gradient(decoder), dim=0) > 0.97
    assert (estimated.norm() / gradient(decoder).norm()).item() == pytest.approx(1, abs=0.1)


def test_bleu_and_length_are_parts_of_the_reward() -> None:
    samples = torch.tensor([[[4, 5, EOS], [5, EOS, PAD], [EOS, PAD, PAD]], [[7, EOS, PAD], [4, 4, 4], [EOS, PAD, PAD]]])

    def rewards(**weights: float) -> Tensor:
        objective = SelfCritical(SelfCriticalConfig(**weights), REFERENCES, WORDS)  # type: ignore[arg-type]
        return objective._reward(objective._reward_parts((0, 1), samples))

    flat, images = samples.flatten(0, 1).numpy(), [0, 0, 0, 1, 1, 1]
    plain, bleu = CiderD(REFERENCES, words=WORDS)(images, flat), SentenceBleu(REFERENCES)(images, flat)
    assert bleu[0] > 0
    # Both references of the first image have two words, that of the second has one.
    shortfall = np.array([0, 1 / 2, 1, 0, 0, 1])
    for weights, expected in (
        ({}, plain),
        ({"bleu": 2.0}, plain + 2 * bleu),
        ({"length": 3.0}, plain - 3 * shortfall),
        ({"bleu": 2.0, "length": 3.0}, plain + 2 * bleu - 3 * shortfall),
    ):
        torch.testing.assert_close(rewards(**weights), torch.from_numpy(expected).view(2, 3))


def test_the_length_is_compared_with_the_mean_of_the_references() -> None:
    references = [[[4, EOS], [4, 5, 6, 4, EOS]], [[EOS]]]  # 2.5 words, and none
    objective = SelfCritical(SelfCriticalConfig(length=1), references, WORDS)
    samples = torch.tensor([[[4, 5, EOS, PAD], [4, 5, 6, EOS]], [[4, 5, 6, 4], [EOS, PAD, PAD, PAD]]])
    shortfall = objective._reward_parts((0, 1), samples)["shortfall"]
    torch.testing.assert_close(shortfall, torch.tensor([[0.2, 0], [0, 1]], dtype=torch.float64))


@pytest.mark.parametrize("name", ["show_attend_tell", "transformer"])
def test_cross_entropy_is_mixed_in(name: str) -> None:
    decoder, memory = build_decoder(name), build_memory(images=2)
    captions = Captions.collate([[[BOS, 4, 6, EOS], [BOS, 5, EOS]], [[BOS, 7, EOS]]], images=(0, 1))

    def loss(share: float) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        torch.manual_seed(0)
        decoder.zero_grad()
        config = SelfCriticalConfig(cross_entropy=share, length=1.0, max_words=3)
        value, metrics = SelfCritical(config, REFERENCES, WORDS)(PLAIN, decoder, memory, captions)
        value.backward()
        return value.detach(), metrics, gradient(decoder)

    log_probabilities = step_by_step(decoder, memory, captions.inputs).logits.log_softmax(-1)
    total = -sum(row[target] for row, target in zip(log_probabilities, captions.targets.tolist(), strict=True))
    assert isinstance(total, Tensor)
    decoder.zero_grad()
    (total / 3).backward()
    of_captions = gradient(decoder)
    plain, without, of_samples = loss(0)
    mixed, metrics, both = loss(0.25)
    torch.testing.assert_close(mixed, (0.75 * plain + 0.25 * total / 3).detach(), check_dtype=False)
    torch.testing.assert_close(both, 0.75 * of_samples + 0.25 * of_captions, rtol=1e-4, atol=1e-6)
    assert metrics["nll"].item() == pytest.approx(total.item() / len(captions.targets), rel=1e-5)
    assert set(metrics) - set(without) == {"nll"}
    assert without["reward"].item() == pytest.approx((without["cider"] - without["shortfall"]).item())


@pytest.mark.parametrize("dropout", [False, True])
def test_a_refiner_runs_once_unless_dropout_is_active(dropout: bool) -> None:
    part = {"name": "transformer", "blocks": 1, "size": 8, "heads": 2, "feed_forward": 12, "dropout": 0.1}
    refiner = build_refiner(part, features=FEATURES).double().train()
    part = {"name": "show_attend_tell", "embedding": 6, "hidden": 5, "attention": 7}
    decoder = build_model_decoder(part, features=refiner.features, words=WORDS).double().train()
    calls: list[bool] = []
    refiner.register_forward_pre_hook(lambda module, _: calls.append(module.training))
    config = SelfCriticalConfig(samples=5, max_words=2, dropout=dropout)
    loss, _ = SelfCritical(config, REFERENCES, WORDS)(refiner, decoder, build_memory(images=2), CAPTIONS)
    loss.backward()
    assert calls == ([False, True] if dropout else [False])
    assert decoder.training and refiner.training
    assert any(parameter.grad is not None for parameter in refiner.parameters())


def test_it_increases_the_expected_reward() -> None:
    torch.manual_seed(0)
    decoder = build_decoder("show_attend_tell").train()
    objective = SelfCritical(SelfCriticalConfig(samples=20, max_words=2), REFERENCES, WORDS)
    optimiser = torch.optim.Adam(decoder.parameters(), lr=0.02)
    before = expected_reward(decoder.eval()).item()
    for _ in range(40):
        loss, metrics = objective(PLAIN, decoder.train(), build_memory(images=2), CAPTIONS)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        assert decoder.training
    assert expected_reward(decoder.eval()).item() > 3 * before
    assert set(metrics) == {"reward", "words", "distinct"} and metrics["words"] <= 2


def test_unknown_words_stay_distinct_in_the_reward() -> None:
    vocabulary = Vocabulary(["a", "dog"])
    images = [
        CaptionedImage("1", Path("1.jpg"), "train", ("a rare dog", "a scarce dog")),
        CaptionedImage("2", Path("2.jpg"), "train", ("a dog",)),
    ]
    objective = SelfCritical.build(SelfCriticalConfig(), images, vocabulary)
    assert objective.cider.images == 2 and objective.cider.base == len(vocabulary) + 2  # rare, scarce


@pytest.mark.parametrize("baseline", ["others", "greedy"])
@pytest.mark.parametrize("name", ["show_tell", "transformer"])
def test_the_loss_is_each_samples_reward_above_the_baseline_times_its_log_probability(name: str, baseline: str) -> None:
    decoder, memory = build_decoder(name), build_memory(images=2)
    captions = replace(CAPTIONS, weights=Weights(images=1.5, captions=3.0, words=5.0))
    config = SelfCriticalConfig(samples=4, max_words=3, baseline=baseline)  # type: ignore[arg-type]
    torch.manual_seed(1)
    loss, metrics = SelfCritical(config, REFERENCES, WORDS)(PLAIN, decoder, memory, captions)
    loss.backward()
    found = gradient(decoder)

    torch.manual_seed(1)
    search, cider = SearchConfig(width=1, max_words=3), CiderD(REFERENCES, words=WORDS)
    samples = sample(decoder, memory, 4, search)
    greedy = sample(decoder, memory, 1, search, greedy=True)
    allowed = torch.tensor([word for word in range(WORDS) if word not in (PAD, BOS, UNK)])
    terms, every_reward = [], []
    for image in range(2):
        rewards = [float(cider([image], caption[None].numpy())[0]) for caption in samples[image]]
        every_reward += rewards
        for k, caption in enumerate(samples[image]):
            words = [word for word in caption.tolist() if word != PAD]
            logits = step_by_step(decoder, memory[image : image + 1], torch.tensor([[[BOS, *words[:-1]]]])).logits
            likelihood = logits[:, allowed].log_softmax(-1)
            total = torch.stack([likelihood[t, allowed == word].sum() for t, word in enumerate(words)]).sum()
            others = rewards[:k] + rewards[k + 1 :]
            mean = float(cider([image], greedy[image].numpy())[0]) if baseline == "greedy" else sum(others) / 3
            terms.append(-(rewards[k] - mean) * total)
    assert len(set(every_reward)) > 2
    expected = 1.5 * torch.stack(terms).mean()
    decoder.zero_grad()
    expected.backward()
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found, gradient(decoder), rtol=1e-4, atol=1e-6)
    # A process's metrics count by its share of the images.
    assert metrics["reward"].item() == pytest.approx(1.5 * sum(every_reward) / 8)
    assert metrics["words"].item() == pytest.approx(1.5 * (samples > EOS).sum().item() / 8)
    distinct = {tuple(caption.tolist()) for image in samples for caption in image}
    assert metrics["distinct"].item() == pytest.approx(1.5 * len(distinct) / 8)


def test_the_share_of_cross_entropy_counts_by_a_processs_captions_and_words() -> None:
    decoder, memory = build_decoder("show_tell"), build_memory(images=2)
    captions = Captions.collate([[[BOS, 4, 6, EOS], [BOS, 5, EOS]], [[BOS, 7, EOS]]], images=(0, 1))
    objective = SelfCritical(SelfCriticalConfig(cross_entropy=0.25, max_words=3), REFERENCES, WORDS)
    losses, nll = [], []
    for weights in (Weights(), Weights(captions=3.0), Weights(words=5.0)):
        torch.manual_seed(0)
        loss, metrics = objective(PLAIN, decoder, memory, replace(captions, weights=weights))
        losses.append(loss.item())
        nll.append(metrics["nll"].item())
    logits = step_by_step(decoder, memory, captions.inputs).logits
    total = torch.nn.functional.cross_entropy(logits, captions.targets, reduction="sum").item()
    assert losses[1] - losses[0] == pytest.approx(0.25 * 2 * total / 3, rel=1e-4) and losses[2] == losses[0]
    assert nll[0] == nll[1] == pytest.approx(total / len(captions.targets)) and nll[2] == pytest.approx(5 * nll[0])


@pytest.mark.parametrize(
    ("setting", "accepted", "refused"),
    [
        ("samples", (2, 3), (1,)),
        ("bleu", (0, 0.5), (-0.1,)),
        ("length", (0, 0.5), (-0.1,)),
        ("cross_entropy", (0, 0.99), (-0.1, 1)),
        ("max_words", (1, 2), (0,)),
    ],
)
def test_settings_have_limits(setting: str, accepted: tuple[float, ...], refused: tuple[float, ...]) -> None:
    for value in accepted:
        assert getattr(SelfCriticalConfig(**{setting: value}), setting) == value  # type: ignore[arg-type]
    for value in refused:
        with pytest.raises(ValidationError, match=setting):
            SelfCriticalConfig(**{setting: value})  # type: ignore[arg-type]
