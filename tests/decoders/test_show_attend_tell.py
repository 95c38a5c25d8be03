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
from captioner.machine.randomness import generator_states, replayed
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


def test_hard_attention_has_the_exact_gradient_on_average() -> None:
    """The estimates of all sequences of cells, weighted by their probabilities, sum to section 4.1's gradient."""
    n, tokens, targets = 3, torch.tensor([[[BOS, 5]]]), torch.tensor([5, EOS])
    memory = build_memory(images=1, places=n, masked=False)
    decoder = build_decoder("show_attend_tell", kind="hard").train()
    settings = CrossEntropyConfig(label_smoothing=0, doubly_stochastic=0, entropy=0)
    estimate = {name: torch.zeros_like(weight) for name, weight in decoder.named_parameters()}
    bound = torch.zeros((), dtype=torch.float64)
    for cells in product(range(n), repeat=2):
        objective = CrossEntropy(settings)
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


def test_hard_attention_is_compared_with_the_expected_vector_under_the_same_dropout() -> None:
    """The baseline is the likelihood of a soft decoder with the same weights, dropout masks and captions."""
    torch.manual_seed(0)
    memory, tokens = build_memory(images=3), build_tokens()[:3]
    hard = build_decoder("show_attend_tell", kind="hard", dropout=0.5, expected=0.0).train()
    soft = build_decoder("show_attend_tell", dropout=0.5).train()
    soft.load_state_dict(hard.state_dict())
    before = generator_states()
    sampled = hard(memory, tokens)
    after = generator_states()
    with replayed(before), hard.expected_vectors():
        expected = hard(memory, tokens)
        assert torch.equal(torch.get_rng_state(), after["cpu"])  # it has drawn the same numbers
    assert torch.equal(torch.get_rng_state(), after["cpu"])
    assert (expected.sampled == -1).all() and (sampled.sampled >= 0).all()
    for decoder in (hard, soft):
        decoder.feature_dropout.eval()
        decoder.dropout.eval()  # the soft decoder draws no cells, so its masks would differ
    with hard.expected_vectors():
        torch.testing.assert_close(hard(memory, tokens).logits, soft(memory, tokens).logits)
    assert (hard(memory, tokens).sampled >= 0).all()


def test_hard_attention_samples_the_configured_share_of_captions() -> None:
    torch.manual_seed(0)
    decoder = build_decoder("show_attend_tell", kind="hard", expected=0.25).train()
    alpha = torch.tensor([0.5, 0.0, 0.3, 0.2, 0.0], dtype=torch.float64).expand(4000, 5, 5)
    drawn = decoder.sampler(4000, 5)(alpha)
    share = torch.bincount(drawn.flatten() + 1, minlength=6) / drawn.numel()
    expected = torch.tensor([0.25, 0.375, 0.0, 0.225, 0.15, 0.0])
    torch.testing.assert_close(share, expected, atol=0.015, rtol=0)
    assert not share[expected == 0].any()


def test_hard_attention_captions_with_the_most_probable_cell() -> None:
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


def test_the_loss_with_hard_attention_is_section_4_1_with_soft_attention_as_baseline() -> None:
    """Each word gains ``lambda_r (log p(y | s, a) - b) log p(s | a)`` and ``lambda_e H[s]``."""
    decoder, memory = build_decoder("show_attend_tell", kind="hard").train(), build_memory(images=2)
    captions = Captions.collate([[[BOS, 5, 6, EOS], [BOS, 7, EOS]], [[BOS, 4, EOS]]])
    captions = replace(captions, weights=Weights(images=2.0, captions=3.0, words=5.0))
    smoothing, penalty, reinforce, entropy = 0.2, 0.4, 0.7, 0.3
    objective = CrossEntropy(
        CrossEntropyConfig(label_smoothing=smoothing, doubly_stochastic=penalty, reinforce=reinforce, entropy=entropy)
    )
    owners = [0, 0, 0, 1, 1, 2, 2]  # the caption of each word, the first image's first one with three
    soft = build_decoder("show_attend_tell")
    soft.load_state_dict(decoder.state_dict())
    baselines = soft(memory, captions.inputs).logits.log_softmax(-1)
    for places in ((0, 1, 0), (0, 0, 1), (1, 0, 0)):

        def sampler(images: int, captions: int, places: tuple[int, ...] = places) -> Any:
            steps = iter(places)
            # The second caption of an image uses the expected vector, which is not sampled.
            return lambda alpha: torch.tensor([next(steps), -1]).expand(alpha.shape[:2])

        decoder.sampler = sampler  # type: ignore[method-assign]
        output = decoder(memory, captions.inputs)
        likelihood = output.logits.log_softmax(-1)
        rewards, penalties = [], []
        for caption in range(3):
            own = [m for m, owner in enumerate(owners) if owner == caption]
            rewards.append(sum((likelihood - baselines)[m, captions.targets[m]].item() for m in own))
            penalties += [(1 - sum(output.attention[m, place] for m in own)) ** 2 for place in range(memory.n_vectors)]
        mean = 3.0 * sum(rewards) / 3
        gains = []
        for m, owner in enumerate(owners):
            weights = [weight for weight in output.attention[m] if weight > 0]
            gain = -entropy * sum(weight * weight.log() for weight in weights)
            if owner != 1:
                assert output.sampled[m] >= 0
                drawn = output.attention[m, output.sampled[m]].clamp(min=torch.finfo(torch.float32).tiny)
                gain = gain + reinforce * rewards[owner] * drawn.log()
            gains.append(gain)
        nll = torch.stack([-row[target] for row, target in zip(likelihood, captions.targets, strict=True)]).mean()
        expected = 5.0 * ((1 - smoothing) * nll - smoothing * likelihood.mean() - torch.stack(gains).mean())
        expected = expected + penalty * 3.0 * torch.stack(penalties).mean()
        loss, metrics = objective(Identity(features=FEATURES), decoder, memory, captions)
        torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
        assert metrics["reward"].item() == pytest.approx(mean, rel=1e-5)
        assert metrics["nll"].item() == pytest.approx(5 * nll.item(), rel=1e-5)
        assert metrics["penalty"].item() == pytest.approx(3 * torch.stack(penalties).mean().item(), rel=1e-5)


def test_a_cell_better_than_the_expected_vector_becomes_more_probable() -> None:
    memory = build_memory(images=1, places=3, masked=False)
    captions = Captions(torch.tensor([[[BOS]]]), torch.tensor([5]))
    settings = CrossEntropyConfig(label_smoothing=0, entropy=0, reinforce=1.0)
    better = []
    for cell in range(3):
        decoder = build_decoder("show_attend_tell", kind="hard").train()
        scripted(decoder, (cell,))
        before = decoder(memory, captions.inputs).attention[0, cell].item()
        scripted(decoder, (cell, cell))  # the objective runs the decoder twice
        loss, metrics = CrossEntropy(settings)(Identity(features=FEATURES), decoder, memory, captions)
        loss.backward()
        with torch.no_grad():
            decoder.score -= 1e-4 * decoder.score.grad
        scripted(decoder, (cell,))
        better.append(metrics["reward"].item() > 0)
        assert (decoder(memory, captions.inputs).attention[0, cell].item() > before) == better[-1]
    assert len(set(better)) == 2


def test_cells_are_drawn_in_proportion_to_their_weights_for_any_sum() -> None:
    torch.manual_seed(0)
    decoder = build_decoder("show_attend_tell", kind="hard", expected=0.0).train()
    for total in (0.5, 2.0):
        alpha = total * torch.tensor([0.1, 0.0, 0.6, 0.3], dtype=torch.float64).expand(2000, 5, 4)
        drawn = decoder.sampler(2000, 5)(alpha).flatten()
        share = torch.bincount(drawn, minlength=4) / len(drawn)
        torch.testing.assert_close(share, torch.tensor([0.1, 0.0, 0.6, 0.3]), atol=0.02, rtol=0)
