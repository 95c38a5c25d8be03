from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from captioner.data.batches import BoxedWord, Captions
from captioner.decoders import DECODERS
from captioner.encoders.refiner import Identity
from captioner.memory import Memory
from captioner.text.vocabulary import BOS, EOS, PAD
from captioner.training.cross_entropy import (
    CrossEntropy,
    CrossEntropyConfig,
    doubly_stochastic_penalty,
    grounding_loss,
    scheduled_sampling,
)
from tests.builders import FEATURES, WORDS, build_decoder, build_memory, step_by_step

CAPTIONS = Captions.collate([[[1, 5, 6, 2], [1, 7, 2]], [[1, 4, 2]]])


PLAIN = Identity(features=FEATURES)


@pytest.mark.parametrize("name", list(DECODERS))
def test_loss_is_that_of_torch_and_the_papers_penalty(name: str) -> None:
    torch.manual_seed(0)
    decoder = build_decoder(name)
    memory = Memory.of_grid(torch.randn(2, 4, FEATURES, dtype=torch.float64), (2, 2))
    loss, metrics = CrossEntropy(CrossEntropyConfig(label_smoothing=0.1, doubly_stochastic=0.3))(
        PLAIN, decoder, memory, CAPTIONS
    )
    output = decoder(memory, CAPTIONS.inputs)
    expected = torch.nn.functional.cross_entropy(output.logits, CAPTIONS.targets, label_smoothing=0.1)
    if output.attention is not None:
        expected = expected + 0.3 * metrics["penalty"]
    torch.testing.assert_close(loss.double(), expected)
    torch.testing.assert_close(
        metrics["nll"].double(), torch.nn.functional.cross_entropy(output.logits, CAPTIONS.targets)
    )


def test_penalty_is_equation_14_averaged() -> None:
    # Real positions in order: image 0 caption 0 (3 words with <eos>), image 0 caption 1 (2), image 1 caption 0 (2).
    attention = torch.rand(7, 4).softmax(-1)
    sums = [attention[0:3].sum(0), attention[3:5].sum(0), attention[5:7].sum(0)]
    expected = torch.stack([(1 - total) ** 2 for total in sums]).mean()
    torch.testing.assert_close(doubly_stochastic_penalty(attention, CAPTIONS.inputs), expected)


def test_absent_captions_do_not_count() -> None:
    attention = torch.full((2, 4), 0.5)  # each cell gets a total attention of one
    alone = Captions.collate([[[1, 4, 2]]])
    beside_nothing = Captions(torch.cat([alone.inputs, torch.zeros_like(alone.inputs)], dim=1), alone.targets)
    assert doubly_stochastic_penalty(attention, beside_nothing.inputs) == 0


def test_the_grounding_loss_is_equation_9_of_liu() -> None:
    torch.manual_seed(0)
    attention = torch.rand(7, 4).softmax(-1)
    cells = Memory.of_grid(torch.zeros(2, 4, 3), (2, 2)).image_boxes()
    assert cells is not None
    left, corner, outside = (
        [[0.0, 0.0, 0.5, 1.0]],
        [[0.25, 0.0, 1.0, 0.5], [0.5, 0.25, 0.75, 0.5]],
        [[0.5, 0.5, 0.5, 0.5]],
    )
    boxed = tuple(
        BoxedWord(row, caption, word, np.array(boxes))
        for row, caption, word, boxes in ((0, 0, 1, left), (0, 1, 0, corner), (1, 0, 0, left), (1, 0, 1, outside))
    )
    found = grounding_loss(attention, cells, replace(CAPTIONS, boxed=boxed))
    # Cells in row-major order; the second boxes cover half of the first cell and all of the second.
    betas = {1: [0.5, 0, 0.5, 0], 3: [1 / 3, 2 / 3, 0, 0], 5: [0.5, 0, 0.5, 0]}
    expected = -sum((torch.tensor(beta) * attention[row].log()).sum() for row, beta in betas.items()) / 7
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", [name for name in DECODERS if DECODERS[name].attends])
def test_the_grounding_loss_moves_attention_into_the_boxes(name: str) -> None:
    torch.manual_seed(0)
    decoder, memory = build_decoder(name).float(), Memory.of_grid(torch.randn(2, 4, FEATURES), (2, 2))
    boxes = np.array([[0.0, 0.0, 0.5, 0.5]])
    captions = replace(CAPTIONS, boxed=(BoxedWord(0, 0, 0, boxes), BoxedWord(1, 0, 0, boxes)))
    objective = CrossEntropy(CrossEntropyConfig(grounding=1.0, doubly_stochastic=0))
    optimiser = torch.optim.Adam(decoder.parameters(), lr=0.01)
    losses = []
    for _ in range(40):
        loss, metrics = objective(PLAIN, decoder, memory, captions)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(metrics["grounding"]))
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("name", list(DECODERS))
def test_scheduled_sampling_replaces_the_requested_share_of_words(name: str) -> None:
    torch.manual_seed(0)
    decoder, memory = build_decoder(name), Memory.of_grid(torch.randn(2, 4, FEATURES, dtype=torch.float64), (2, 2))
    inputs = torch.tensor([[[BOS, 5, 6], [BOS, 7, PAD]], [[BOS, 4, PAD], [PAD, PAD, PAD]]])
    assert torch.equal(scheduled_sampling(decoder, memory, inputs, 0.0), inputs)
    times = 1500
    many = Memory.of_grid(memory.vectors.repeat(times, 1, 1), (2, 2)), inputs.repeat(times, 1, 1)
    mixed = scheduled_sampling(decoder, *many, 1.0).unflatten(0, (times, 2))
    assert (
        ((mixed == PAD) == (inputs == PAD)).all()
        and (mixed[..., 0] == inputs[..., 0]).all()
        and not (mixed == EOS).any()
    )
    # Its own words are distributed as its predictions after the words that it has read.
    others = [word for word in range(WORDS) if word not in (PAD, BOS, EOS)]
    second = step_by_step(decoder, memory, torch.tensor([[[BOS]], [[BOS]]])).logits[0, others].softmax(-1)
    counts = torch.bincount(mixed[:, 0, 0, 1], minlength=WORDS)[others] / times
    assert (counts - second).abs().max() < 0.07
    word = int(mixed[:, 0, 0, 1].mode().values)
    following = mixed[mixed[:, 0, 0, 1] == word][:, 0, 0, 2]
    third = step_by_step(decoder, memory[:1], torch.tensor([[[BOS, word]]])).logits[1, others].softmax(-1)
    assert (torch.bincount(following, minlength=WORDS)[others] / len(following) - third).abs().max() < 0.12
    half = scheduled_sampling(decoder, *many, 0.5).unflatten(0, (times, 2))
    assert 0.3 < (half[:, 0, 0, 1] != 5).float().mean() < 0.55


def test_scheduled_sampling_rises_with_the_run() -> None:
    torch.manual_seed(0)
    decoder = build_decoder("show_tell")
    memory = Memory.of_grid(torch.randn(2, 4, FEATURES, dtype=torch.float64), (2, 2))
    objective, plain = (CrossEntropy(CrossEntropyConfig(scheduled_sampling=share)) for share in (1.0, 0.0))
    expected, _ = plain(PLAIN, decoder, memory, CAPTIONS)
    torch.testing.assert_close(objective(PLAIN, decoder, memory, CAPTIONS)[0], expected)
    objective.done = 1.0
    assert objective(PLAIN, decoder, memory, CAPTIONS)[0] != expected


@pytest.mark.parametrize(
    ("setting", "accepted", "refused"),
    [
        ("label_smoothing", (0, 0.99), (-0.1, 1)),
        ("doubly_stochastic", (0, 0.5), (-0.1,)),
        ("scheduled_sampling", (0, 1), (-0.1, 1.1)),
        ("reinforce", (0, 0.5), (-0.1,)),
        ("entropy", (0, 0.5), (-0.1,)),
    ],
)
def test_settings_have_limits(setting: str, accepted: tuple[float, ...], refused: tuple[float, ...]) -> None:
    for value in accepted:
        assert getattr(CrossEntropyConfig(**{setting: value}), setting) == value
    for value in refused:
        with pytest.raises(ValidationError, match=setting):
            CrossEntropyConfig(**{setting: value})


def test_sampled_words_are_never_special_and_absent_captions_stay_absent() -> None:
    torch.manual_seed(0)
    decoder, memory = build_decoder("show_tell"), build_memory(images=2)
    inputs = torch.full((2, 400, 3), 5)
    inputs[..., 0] = BOS
    inputs[1, 200:] = PAD
    mixed = scheduled_sampling(decoder, memory, inputs, 1.0)
    assert (mixed[..., 0] == inputs[..., 0]).all() and (mixed[1, 200:] == PAD).all()
    own = mixed[inputs != PAD].view(-1, 3)[:, 1:]
    assert set(own.flatten().tolist()) == set(range(WORDS)) - {PAD, BOS, EOS}


def test_the_baseline_of_hard_attention_leaves_the_variance_of_the_cells() -> None:
    """The advantage varies as little as the likelihoods of a caption's cells, not as those of different captions."""
    torch.manual_seed(0)
    decoder = build_decoder("show_attend_tell", kind="hard", expected=0.0, dropout=0.5).train()
    memory = build_memory(images=2, masked=False)
    captions = Captions.collate([[[1, 5, 6, 2]], [[1, 7, 8, 9, 4, 5, 2]]])
    objective = CrossEntropy(CrossEntropyConfig())
    gains, likelihoods = [], []
    for _ in range(400):
        with torch.no_grad():
            _, metrics = objective(PLAIN, decoder, memory, captions)
        gains.append(metrics["reward"])
        likelihoods.append(-metrics["nll"] * len(captions.targets) / 2)
    assert torch.stack(gains).var() < 0.5 * torch.stack(likelihoods).var()
