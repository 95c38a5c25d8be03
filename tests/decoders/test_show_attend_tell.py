"""Show, Attend and Tell against the paper's equations, computed naively.

They are computed for one image, caption, word and cell at a time.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from captioner.data.batches import Captions, Weights
from captioner.decoders import ShowAttendTell
from captioner.encoders.refiner import Identity
from captioner.memory import Memory
from captioner.text.vocabulary import BOS, EOS, PAD
from captioner.training.cross_entropy import CrossEntropy, CrossEntropyConfig
from tests.builders import (
    FEATURES,
    assert_equations,
    assert_gradients,
    build_decoder,
    build_memory,
    build_tokens,
    naive_lstm,
    step_by_step,
)

FORMS = [
    pytest.param({"gate": gate, "values": values}, id=f"{gate}-{values}")
    for gate in ("scalar", "vector")
    for values in (4, 0)
]


def build(settings: dict[str, Any]) -> ShowAttendTell:
    decoder = build_decoder("show_attend_tell", **settings)
    assert isinstance(decoder, ShowAttendTell)
    return decoder


def naive(decoder: ShowAttendTell, memory: Memory, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Compute logits (M, V) and attention (M, N) as Xu 2015 writes them."""
    w = dict(decoder.named_parameters())
    lstm = [w[f"lstm.{name}"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    logits, attention = [], []
    for image, captions in enumerate(tokens.tolist()):
        seen = range(memory.n_vectors) if memory.mask is None else memory.mask[image].nonzero().flatten().tolist()
        features = {cell: memory.vectors[image, cell] for cell in seen}
        values = features
        if "values.weight" in w:
            values = {cell: w["values.weight"] @ a + w["values.bias"] for cell, a in features.items()}
        for caption in captions:
            # Section 3.1.2: the first state, from the mean feature.
            h = torch.tanh(w["first_hidden.weight"] @ memory.pooled[image] + w["first_hidden.bias"])
            c = torch.tanh(w["first_cell.weight"] @ memory.pooled[image] + w["first_cell.bias"])
            for word in caption:
                if word == PAD:
                    break
                # (4): e_ti = f_att(a_i, h_{t-1}), one hidden layer.
                query = w["query.weight"] @ h + w["query.bias"]
                e = {cell: w["score"] @ torch.tanh(w["keys.weight"] @ a + query) for cell, a in features.items()}
                # (5): alpha_ti = exp(e_ti) / sum_k exp(e_tk).
                total = sum(torch.exp(energy) for energy in e.values())
                alpha = {cell: torch.exp(energy) / total for cell, energy in e.items()}
                # (6) with soft attention (section 4.2), gated by beta_t = sigmoid(f_beta(h_{t-1})) (section 4.2.1).
                beta = 1 / (1 + torch.exp(-(w["beta.weight"] @ h + w["beta.bias"])))
                z = beta * torch.stack([alpha[cell] * values[cell] for cell in seen]).sum(0)
                # (1)-(3): the LSTM.
                y = w["embedding.weight"][word]
                h, c = naive_lstm(lstm, torch.cat([y, z]), h, c)
                # (7): the deep output.
                deep = y + w["output_hidden.weight"] @ h + w["output_hidden.bias"] + w["output_context.weight"] @ z
                logits.append(w["output.weight"] @ deep + w["output.bias"])
                nothing = torch.zeros((), dtype=torch.float64)
                attention.append(torch.stack([alpha.get(cell, nothing) for cell in range(memory.n_vectors)]))
    return torch.stack(logits), torch.stack(attention)


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("settings", FORMS)
def test_forward_is_the_papers_equations(settings: dict[str, Any], masked: bool) -> None:
    assert_equations(naive, build(settings), build_memory(masked=masked), build_tokens())


@pytest.mark.parametrize("on", ["logits", "attention", "both"])
@pytest.mark.parametrize("settings", FORMS)
def test_gradients_are_those_of_the_papers_equations(settings: dict[str, Any], on: str) -> None:
    assert_gradients(naive, build(settings), build_memory(), build_tokens(), on)


def test_a_single_cell_gets_all_attention() -> None:
    decoder = build({})
    memory = Memory(torch.randn(2, 1, FEATURES, dtype=torch.float64), torch.randn(2, FEATURES, dtype=torch.float64))
    attention = decoder(memory, torch.full((2, 1, 2), BOS)).attention
    assert torch.equal(attention, torch.ones_like(attention))


def scripted(decoder: Any, cells: tuple[int, ...]) -> None:
    """Make a decoder with hard attention use these cells, one per step, instead of drawing them."""

    def sampler(images: int, captions: int) -> Any:
        steps = iter(cells)
        return lambda alpha: torch.full(alpha.shape[:2], next(steps))

    decoder.sampler = sampler


@pytest.mark.parametrize("baseline", [0.0, -3.0])
def test_hard_attention_has_the_exact_gradient_on_average(baseline: float) -> None:
    """The estimates of all sequences of cells, weighted by their probabilities, sum to section 4.1's gradient."""
    n, tokens, targets = 3, torch.tensor([[[BOS, 5]]]), torch.tensor([5, EOS])
    memory = build_memory(images=1, places=n, masked=False)
    decoder = build_decoder("show_attend_tell", kind="hard").train()
    settings = CrossEntropyConfig(label_smoothing=0, doubly_stochastic=0, entropy=0)
    estimate = {name: torch.zeros_like(weight) for name, weight in decoder.named_parameters()}
    bound = torch.zeros((), dtype=torch.float64)
    for cells in product(range(n), repeat=2):
        objective = CrossEntropy(settings)
        objective.baseline.fill_(baseline)
        objective.begun.fill_(True)
        scripted(decoder, cells)
        decoder.zero_grad()
        objective(Identity(features=FEATURES), decoder, memory, Captions(tokens, targets))[0].backward()
        state, log_probability, weight = (
            decoder.start(memory),
            torch.zeros((), dtype=torch.float64),
            torch.ones((), dtype=torch.float64),
        )
        for step, cell in enumerate(cells):
            scripted(decoder, (cell,))
            logits, alpha, state = decoder.step(tokens[..., step], state)
            log_probability = log_probability + logits.log_softmax(-1)[0, 0, targets[step]]
            weight = weight * alpha[0, 0, cell]
        for name, parameter in decoder.named_parameters():
            if parameter.grad is not None:
                estimate[name] += weight.detach() * parameter.grad
        bound = bound + weight * log_probability
    decoder.zero_grad()
    (-bound / len(targets)).backward()
    for name, parameter in decoder.named_parameters():
        expected = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(
            estimate[name], expected, rtol=1e-5, atol=1e-7, msg=lambda text, name=name: f"{name}: {text}"
        )
    assert decoder.query.weight.grad.abs().max() > 1e-4


def test_hard_attention_draws_as_often_as_it_should() -> None:
    torch.manual_seed(0)
    decoder = build_decoder("show_attend_tell", kind="hard", expected=0.25).train()
    alpha = torch.tensor([0.5, 0.0, 0.3, 0.2, 0.0], dtype=torch.float64).expand(4000, 5, 5)
    drawn = decoder.sampler(4000, 5)(alpha)
    share = torch.bincount(drawn.flatten() + 1, minlength=6) / drawn.numel()
    expected = torch.tensor([0.25, 0.375, 0.0, 0.225, 0.15, 0.0])
    torch.testing.assert_close(share, expected, atol=0.015, rtol=0)
    assert not share[expected == 0].any()


def test_hard_attention_captions_with_the_most_probable_place() -> None:
    decoder, memory, tokens = build_decoder("show_attend_tell", kind="hard"), build_memory(), build_tokens()
    output, stepped = decoder(memory, tokens), step_by_step(decoder, memory, tokens)
    torch.testing.assert_close(output.logits, stepped.logits)
    torch.testing.assert_close(output.attention, stepped.attention)
    assert torch.equal(output.sampled, output.attention.argmax(-1))
    assert not torch.allclose(output.logits, build_decoder("show_attend_tell")(memory, tokens).logits)


def test_geometry_distinguishes_boxes() -> None:
    plain, memory, tokens = build_decoder("show_attend_tell"), build_memory(), build_tokens()
    located = build_decoder("show_attend_tell", geometry=True)
    boxes = torch.rand(2, *memory.vectors.shape[:2], 4, dtype=torch.float64)
    here, there = (replace(memory, boxes=box) for box in boxes)
    assert torch.equal(plain(here, tokens).logits, plain(there, tokens).logits)
    assert not torch.allclose(located(here, tokens).logits, located(there, tokens).logits)


def test_the_loss_with_hard_attention_is_section_4_1_with_its_moving_baseline() -> None:
    """Each word gains ``lambda_r (log p(y | s, a) - b) log p(s | a)`` and ``lambda_e H[s]``; b is a moving average."""
    decoder, memory = build_decoder("show_attend_tell", kind="hard").train(), build_memory(images=2)
    captions = Captions.collate([[[BOS, 5, 6, EOS], [BOS, 7, EOS]], [[BOS, 4, EOS]]])
    captions = replace(captions, weights=Weights(images=2.0, captions=3.0, words=5.0))
    smoothing, penalty, reinforce, entropy, decay = 0.2, 0.4, 0.7, 0.3, 0.6
    objective = CrossEntropy(
        CrossEntropyConfig(
            label_smoothing=smoothing,
            doubly_stochastic=penalty,
            reinforce=reinforce,
            entropy=entropy,
            baseline_decay=decay,
        )
    )
    owners = [0, 0, 0, 1, 1, 2, 2]  # the caption of each word, the first image's first one with three
    baseline = None
    for places in ((0, 1, 0), (0, 0, 1), (1, 0, 0)):

        def sampler(images: int, captions: int, places: tuple[int, ...] = places) -> Any:
            steps = iter(places)
            # The second caption of an image uses the expected vector, which is no choice.
            return lambda alpha: torch.tensor([next(steps), -1]).expand(alpha.shape[:2])

        decoder.sampler = sampler  # type: ignore[method-assign]
        output = decoder(memory, captions.inputs)
        likelihood = output.logits.log_softmax(-1)
        rewards, penalties = [], []
        for caption in range(3):
            own = [m for m, owner in enumerate(owners) if owner == caption]
            rewards.append(sum(likelihood[m, captions.targets[m]].item() for m in own))
            penalties += [(1 - sum(output.attention[m, place] for m in own)) ** 2 for place in range(memory.n_vectors)]
        mean = 3.0 * sum(rewards) / 3
        baseline = mean if baseline is None else baseline
        gains = []
        for m, owner in enumerate(owners):
            weights = [weight for weight in output.attention[m] if weight > 0]
            gain = -entropy * sum(weight * weight.log() for weight in weights)
            if owner != 1:
                assert output.sampled[m] >= 0
                drawn = output.attention[m, output.sampled[m]].clamp(min=torch.finfo(torch.float32).tiny)
                gain = gain + reinforce * (rewards[owner] - baseline) * drawn.log()
            gains.append(gain)
        nll = torch.stack([-row[target] for row, target in zip(likelihood, captions.targets, strict=True)]).mean()
        expected = 5.0 * ((1 - smoothing) * nll - smoothing * likelihood.mean() - torch.stack(gains).mean())
        expected = expected + penalty * 3.0 * torch.stack(penalties).mean()
        loss, metrics = objective(Identity(features=FEATURES), decoder, memory, captions)
        torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
        assert metrics["reward"].item() == pytest.approx(mean, rel=1e-5)
        assert metrics["nll"].item() == pytest.approx(5 * nll.item(), rel=1e-5)
        assert metrics["penalty"].item() == pytest.approx(3 * torch.stack(penalties).mean().item(), rel=1e-5)
        baseline = decay * baseline + (1 - decay) * mean
        assert objective.baseline.item() == pytest.approx(baseline, rel=1e-5)


def test_a_reward_above_the_baseline_makes_the_drawn_place_more_probable() -> None:
    memory = build_memory(images=1, places=3, masked=False)
    captions = Captions(torch.tensor([[[BOS]]]), torch.tensor([5]))
    settings = CrossEntropyConfig(label_smoothing=0, doubly_stochastic=0, entropy=0, reinforce=1.0)
    for baseline, better in ((-50.0, True), (50.0, False)):
        decoder = build_decoder("show_attend_tell", kind="hard").train()
        scripted(decoder, (1,))
        before = decoder(memory, captions.inputs).attention[0, 1].item()
        objective = CrossEntropy(settings)
        objective.baseline.fill_(baseline)
        objective.begun.fill_(True)
        objective(Identity(features=FEATURES), decoder, memory, captions)[0].backward()
        with torch.no_grad():
            decoder.score -= 1e-4 * decoder.score.grad
        assert (decoder(memory, captions.inputs).attention[0, 1].item() > before) == better


def test_places_are_drawn_in_proportion_to_their_weights_whatever_these_sum_to() -> None:
    torch.manual_seed(0)
    decoder = build_decoder("show_attend_tell", kind="hard", expected=0.0).train()
    for total in (0.5, 2.0):
        alpha = total * torch.tensor([0.1, 0.0, 0.6, 0.3], dtype=torch.float64).expand(2000, 5, 4)
        drawn = decoder.sampler(2000, 5)(alpha).flatten()
        share = torch.bincount(drawn, minlength=4) / len(drawn)
        torch.testing.assert_close(share, torch.tensor([0.1, 0.0, 0.6, 0.3]), atol=0.02, rtol=0)
