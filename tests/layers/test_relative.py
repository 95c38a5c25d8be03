"""Relative positions against the paper's equation, computed a query, a key and a head at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from captioner.layers.relative import RelativeAttention, shift
from captioner.layers.transformer import key_mask
from tests.layers.test_transformer import HEADS, MASK, SIZE, randoms, scattered


def encoding(distance: int, features: int) -> np.ndarray:
    """R of a distance, section 3.5 of Vaswani 2017 with a position that may be negative."""
    angles = [distance / 10000 ** (2 * (i // 2) / features) for i in range(features)]
    return np.array([math.sin(a) if i % 2 == 0 else math.cos(a) for i, a in enumerate(angles)])


def naive_weights(attention: RelativeAttention, x: Tensor, shape: tuple[int, ...], queries: int) -> np.ndarray:
    """Section 3.3's A_rel, in numpy; the queries are the last of the cells."""
    w_q, w_kv = attention.query.weight.detach().numpy(), attention.key_value.weight.detach().numpy()
    w_r = attention.relative.detach().numpy()
    u, v = attention.content_bias.detach().numpy(), attention.position_bias.detach().numpy()
    b, n, e = len(x), x.shape[1], SIZE // HEADS
    cells = [(i,) for i in range(n)] if len(shape) == 1 else [divmod(i, shape[1]) for i in range(n)]
    weights = np.zeros((b, HEADS, queries, n))
    for image in range(b):
        for row in range(queries):
            i = n - queries + row
            for head in range(HEADS):
                part = slice(head * e, (head + 1) * e)
                query = w_q[part] @ x[image, i].numpy()
                scores = []
                for j in range(n):
                    distances = [a - b for a, b in zip(cells[i], cells[j], strict=True)]
                    r = np.concatenate([encoding(distance, SIZE // len(shape)) for distance in distances])
                    key = w_kv[:SIZE][part] @ x[image, j].numpy()
                    scores.append(((query + u[part]) @ key + (query + v[part]) @ (w_r[part] @ r)) / np.sqrt(e))
                weights[image, head, row] = np.exp(scores) / np.exp(scores).sum()
    return weights


@pytest.mark.parametrize(("queries", "keys"), [(5, 5), (3, 5), (1, 5), (1, 1), (2, 7)])
def test_the_shift_is_the_double_loop(queries: int, keys: int) -> None:
    scores = randoms(2, 3, queries, keys + queries - 1)
    shifted = shift(scores)
    assert shifted.shape == (2, 3, queries, keys)
    for i in range(queries):
        for j in range(keys):
            distance = keys - queries + i - j
            assert torch.equal(shifted[..., i, j], scores[..., i, keys - 1 - distance])


@pytest.mark.parametrize("queries", [6, 2, 1])
def test_words_are_distinguished_by_their_distance(queries: int) -> None:
    attention, x = scattered(RelativeAttention(SIZE, HEADS)), randoms(2, 6, SIZE)
    query, bias = attention.add_positions(attention.query(x[:, -queries:]), (6,))
    keys_values = attention.split(attention.key_value(x))
    weights = attention.weights(query, keys_values, bias=bias)
    expected = torch.from_numpy(naive_weights(attention, x, (6,), queries))
    torch.testing.assert_close(weights, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(2, 3), (3, 2), (1, 6), (6, 1)])
def test_cells_are_distinguished_by_rows_and_columns(shape: tuple[int, int]) -> None:
    attention, x = scattered(RelativeAttention(SIZE, HEADS, axes=2)), randoms(2, 6, SIZE)
    query, bias = attention.add_positions(attention.query(x), shape)
    weights = attention.weights(query, attention.split(attention.key_value(x)), bias=bias)
    expected = torch.from_numpy(naive_weights(attention, x, shape, 6))
    torch.testing.assert_close(weights, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("causal", [True, False])
def test_attending_follows_masks_and_distances(causal: bool) -> None:
    attention, x = scattered(RelativeAttention(SIZE, HEADS)), randoms(3, 5, SIZE)
    mask = key_mask(MASK | torch.tensor([True, False, False, False, False]))
    assert mask is not None
    query, bias = attention.add_positions(attention.query(x), (5,))
    keys_values = attention.split(attention.key_value(x))
    seen = mask & torch.ones(5, 5, dtype=torch.bool).tril() if causal else mask
    weights = torch.from_numpy(naive_weights(attention, x, (5,), 5)).masked_fill(~seen, 0)
    expected = attention.average(weights / weights.sum(-1, keepdim=True), keys_values)
    found = attention.attend(query, keys_values, mask=mask, bias=bias, causal=causal)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_a_shape_with_other_axes_is_refused() -> None:
    with pytest.raises(ValueError, match="along 2 axes, but the shape"):
        RelativeAttention(SIZE, HEADS, axes=2).add_positions(torch.zeros(1, 5, SIZE), (5,))
