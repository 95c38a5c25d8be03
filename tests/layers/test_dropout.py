"""Dropout against its definition."""

from __future__ import annotations

import pytest
import torch

from captioner.layers.dropout import Dropout


@pytest.mark.parametrize("p", [0.1, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_dropout_drops_its_share_and_keeps_the_mean(p: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.ones(301, 1003, dtype=dtype, requires_grad=True)
    out = Dropout(p).train()(x)
    dropped = out == 0
    n = x.numel()
    assert abs(float(dropped.double().mean()) - p) < 5 * (p * (1 - p) / n) ** 0.5
    torch.testing.assert_close(
        out[~dropped],
        torch.full_like(out[~dropped], 1 / (1 - p)),
        rtol=1e-2 if dtype == torch.bfloat16 else 1e-4,
        atol=0,
    )
    out.sum().backward()
    assert torch.equal(x.grad, out.detach())


def test_elements_are_independent() -> None:
    torch.manual_seed(0)
    kept = (Dropout(0.5).train()(torch.ones(400_000)) > 0).double() - 0.5
    for lag in (1, 2, 3, 4, 5, 8, 64):  # four elements share a random number
        assert abs(float((kept[lag:] * kept[:-lag]).mean()) * 4) < 5 / 400_000**0.5


def test_dropout_is_for_training_and_repeats_with_the_seed() -> None:
    x = torch.randn(7, 5)
    assert Dropout(0.5).eval()(x) is x and Dropout(0.0).train()(x) is x
    dropout = Dropout(0.5).train()
    torch.manual_seed(3)
    first = dropout(x)
    torch.manual_seed(3)
    assert torch.equal(first, dropout(x)) and not torch.equal(first, dropout(x))
    assert dropout(torch.empty(0, 4)).shape == (0, 4)
