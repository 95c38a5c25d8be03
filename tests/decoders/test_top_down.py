"""The top-down decoder against the paper's equations, computed naively.

They are computed for one image, caption, word and cell at a time.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from captioner.decoders import TopDown
from captioner.memory import Memory
from captioner.text.vocabulary import PAD
from tests.builders import (
    assert_equations,
    assert_gradients,
    build_decoder,
    build_memory,
    build_tokens,
    naive_lstm,
    step_by_step,
)

FORMS = [
    pytest.param({"values": values, "geometry": geometry}, id=f"{values}-{geometry}")
    for values in (4, 0)
    for geometry in (False, True)
]


def build(settings: dict[str, Any]) -> TopDown:
    decoder = build_decoder("top_down", **settings)
    assert isinstance(decoder, TopDown)
    return decoder


def build_regions(**settings: Any) -> Memory:
    """Make a memory whose cells have boxes (x0, y0, x1, y1)."""
    memory = build_memory(**settings)
    corners = torch.rand(
        len(memory), memory.n_vectors, 2, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64
    )
    return replace(memory, boxes=corners.sort(dim=2).values.flatten(2))


def naive(decoder: TopDown, memory: Memory, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Compute logits (M, V) and attention (M, N) as Anderson 2018 writes them."""
    w = dict(decoder.named_parameters())
    attention_lstm, language_lstm = (
        [w[f"{lstm}.{name}"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        for lstm in ("attention_lstm", "language_lstm")
    )
    attention_lstm[0] = torch.cat(
        [attention_lstm[0], w["mean.weight"], w["word.weight"]], dim=1
    )  # the columns for h2, v_bar and W_e Pi
    nothing = torch.zeros(decoder.config.hidden, dtype=torch.float64)
    logits, attention = [], []
    for image, captions in enumerate(tokens.tolist()):
        seen = range(memory.n_vectors) if memory.mask is None else memory.mask[image].nonzero().flatten().tolist()
        v, v_bar = {cell: memory.vectors[image, cell] for cell in seen}, memory.pooled[image]
        if "geometry.project.weight" in w:
            assert memory.boxes is not None
            for cell in seen:
                x0, y0, x1, y1 = memory.boxes[image, cell]
                box = torch.stack([x0, y0, x1, y1, x1 - x0, y1 - y0, (x1 - x0) * (y1 - y0)])
                v[cell] = v[cell] + w["geometry.project.weight"] @ box + w["geometry.project.bias"]
        if "values.weight" in w:
            v = {cell: w["values.weight"] @ vector + w["values.bias"] for cell, vector in v.items()}
            v_bar = w["values.weight"] @ v_bar + w["values.bias"]
        for caption in captions:
            h1, c1, h2, c2 = nothing, nothing, nothing, nothing
            for word in caption:
                if word == PAD:
                    break
                # (2): x1_t = [h2_{t-1}, v_bar, W_e Pi_t]; (1): h1_t = LSTM(x1_t, h1_{t-1}).
                h1, c1 = naive_lstm(attention_lstm, torch.cat([h2, v_bar, w["embedding.weight"][word]]), h1, c1)
                # (3): a_{i,t} = w_a . tanh(W_va v_i + W_ha h1_t).
                a = {
                    cell: w["score"] @ torch.tanh(w["keys.weight"] @ vector + w["query.weight"] @ h1)
                    for cell, vector in v.items()
                }
                # (4): alpha_t = softmax(a_t).
                total = sum(torch.exp(score) for score in a.values())
                alpha = {cell: torch.exp(score) / total for cell, score in a.items()}
                # (5): v_hat_t = sum_i alpha_{i,t} v_i.
                v_hat = torch.stack([alpha[cell] * v[cell] for cell in seen]).sum(0)
                # (6): x2_t = [v_hat_t, h1_t], and h2_t = LSTM(x2_t, h2_{t-1}).
                h2, c2 = naive_lstm(language_lstm, torch.cat([v_hat, h1]), h2, c2)
                # (7): p(y_t) = softmax(W_p h2_t + b_p).
                logits.append(w["output.weight"] @ h2 + w["output.bias"])
                attention.append(
                    torch.stack(
                        [alpha.get(cell, torch.zeros((), dtype=torch.float64)) for cell in range(memory.n_vectors)]
                    )
                )
    return torch.stack(logits), torch.stack(attention)


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("settings", FORMS)
def test_forward_is_the_papers_equations(settings: dict[str, Any], masked: bool) -> None:
    assert_equations(naive, build(settings), build_regions(masked=masked), build_tokens())


@pytest.mark.parametrize("on", ["logits", "attention"])
@pytest.mark.parametrize("settings", FORMS)
def test_gradients_are_those_of_the_papers_equations(settings: dict[str, Any], on: str) -> None:
    assert_gradients(naive, build(settings), build_regions(), build_tokens(), on)


def test_gradients_through_steps_equal_those_of_forward() -> None:
    decoder, memory, tokens = build({}), build_memory(), build_tokens()
    parameters = list(decoder.parameters())
    found, expected = (
        torch.autograd.grad(output.logits.square().sum(), parameters)
        for output in (step_by_step(decoder, memory, tokens), decoder(memory, tokens))
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


def test_geometry_distinguishes_boxes() -> None:
    regions, tokens = build_regions(), build_tokens()
    nowhere, elsewhere = replace(regions, boxes=None), replace(regions, boxes=regions.image_boxes().flip(1))
    on, off = build({"geometry": True}), build({"geometry": False})
    assert not torch.allclose(on(regions, tokens).logits, on(elsewhere, tokens).logits)
    assert not torch.allclose(on(regions, tokens).logits, on(nowhere, tokens).logits)
    assert torch.equal(off(regions, tokens).logits, off(elsewhere, tokens).logits)
    assert torch.equal(off(regions, tokens).logits, off(nowhere, tokens).logits)


def test_an_untrained_geometry_changes_nothing() -> None:
    decoder, memory, tokens = build({"geometry": True, "spread": None}), build_regions(), build_tokens()
    assert torch.equal(decoder(memory, tokens).logits, decoder(replace(memory, boxes=None), tokens).logits)


def test_one_dropout_mask_for_all_vectors_and_their_mean() -> None:
    """Without the projection of the values, equal cells stay equal, and equal to their mean, under dropout."""
    decoder = build_decoder("top_down", dropout=0.5, values=0).train()
    assert isinstance(decoder, TopDown)
    memory = build_memory(masked=False)
    equal = replace(memory, vectors=memory.pooled.unsqueeze(1).expand_as(memory.vectors))
    prepared = decoder.prepare(equal)
    values, keys = prepared.values, prepared.keys
    assert (values == 0).any() and (values != 0).any()
    assert torch.equal(values, values[:, :1].expand_as(values)) and torch.equal(keys, keys[:, :1].expand_as(keys))
    assert torch.equal(values[:, 0], torch.where(values[:, 0] == 0, 0.0, 2.0 * memory.pooled))
