"""Log-likelihoods against torch's log-softmax."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from captioner.training import likelihood
from captioner.training.likelihood import log_likelihoods


def make(dtype: torch.dtype = torch.float64, *, scale: float = 3.0) -> tuple[Tensor, Tensor]:
    """Make logits (6, 11) and targets (6,)."""
    random = torch.Generator().manual_seed(0)
    logits = scale * torch.randn(6, 11, generator=random, dtype=torch.float64)
    return logits.to(dtype).requires_grad_(), torch.randint(11, (6,), generator=random)


def of_torch(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    log_probabilities = torch.log_softmax(logits.double(), dim=-1)
    return log_probabilities[torch.arange(len(targets)), targets], log_probabilities.mean(1)


@pytest.mark.parametrize("learning", [True, False])
@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_they_are_those_of_torch(learning: bool, scale: float) -> None:
    logits, targets = make(scale=scale)
    with torch.set_grad_enabled(learning):
        found = [out.double() for out in log_likelihoods(logits, targets)]
    torch.testing.assert_close(found, list(of_torch(logits, targets)), rtol=1e-6, atol=1e-6)


def test_their_backward_pass_is_the_derivative() -> None:
    logits, targets = make()
    assert torch.autograd.gradcheck(lambda logits: log_likelihoods(logits, targets), [logits])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_get_gradients_in_their_precision(dtype: torch.dtype) -> None:
    logits, targets = make(dtype)
    of_targets, mean = log_likelihoods(logits, targets)
    assert of_targets.dtype == mean.dtype == torch.float32
    (found,) = torch.autograd.grad(of_targets.mean() + 0.1 * mean.mean(), logits)
    expected_targets, expected_mean = of_torch(logits, targets)
    (expected,) = torch.autograd.grad(expected_targets.mean() + 0.1 * expected_mean.mean(), logits)
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected, rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-6)


@pytest.mark.slow
def test_compiled_likelihoods_are_those_of_torch(monkeypatch: pytest.MonkeyPatch, compiled_graphs: object) -> None:
    def plain(*args: Tensor) -> None:
        pytest.fail("nothing was compiled: torch.compile failed, or there is no C++ compiler here; install g++")

    for kernel in (likelihood.forward, likelihood.backward):
        monkeypatch.setattr(kernel.compiled, "eager", plain)
    logits, targets = make(torch.float32)
    found, expected = (
        [*outputs, *torch.autograd.grad((outputs[0] + 0.1 * outputs[1]).sum(), logits)]
        for outputs in (log_likelihoods(logits, targets), of_torch(logits, targets))
    )
    torch.testing.assert_close(
        [out.double() for out in found], [out.double() for out in expected], rtol=1e-4, atol=1e-4
    )
