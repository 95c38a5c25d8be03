"""The gates of an LSTM against torch's cell, recorded as one operation and not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from captioner.layers import gates
from captioner.layers.gates import lstm_gates


def make(*shape: int, parts: int = 2, units: int = 4, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Make a cell (..., H) and parts (..., 4H)."""
    random = torch.Generator().manual_seed(0)
    sizes = [units, *([4 * units] * parts)]
    tensors = (torch.randn(*shape, size, generator=random, dtype=torch.float64) for size in sizes)
    return [tensor.to(dtype).requires_grad_() for tensor in tensors]


@pytest.mark.parametrize("learning", [True, False])
def test_the_gates_are_those_of_torchs_cell(learning: bool) -> None:
    cell, x, h, c = nn.LSTMCell(3, 4).double(), *(torch.randn(2, size, dtype=torch.float64) for size in (3, 4, 4))
    with torch.set_grad_enabled(learning):
        of_x, of_h = (
            nn.functional.linear(*of) for of in ((x, cell.weight_ih, cell.bias_ih), (h, cell.weight_hh, cell.bias_hh))
        )
        torch.testing.assert_close(lstm_gates(c, of_x, of_h), cell(x, (h, c)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(3, 1), (1, 1), (2, 3), (5,)])
def test_the_backward_pass_is_the_derivative(shape: tuple[int, ...]) -> None:
    assert torch.autograd.gradcheck(lstm_gates, make(*shape))


def test_a_part_may_be_the_same_for_all_rows() -> None:
    c, part, other = make(3, 2)
    shared = other[:, :1].detach().requires_grad_()
    assert torch.autograd.gradcheck(lstm_gates, [c, part, shared])


def test_the_hidden_state_has_the_narrowest_precision_and_the_cell_its_own() -> None:
    c, first, second = make(3, 1, dtype=torch.float32)
    rounded = second.detach().bfloat16().requires_grad_()
    h, new_c = lstm_gates(c, first, rounded)
    exact, exact_c = lstm_gates(c, first, rounded.float())
    assert h.dtype == torch.bfloat16 and torch.equal(h, exact.bfloat16()) and torch.equal(new_c, exact_c)
    (h.float().sum() + new_c.sum()).backward()
    assert first.grad.dtype == torch.float32 and torch.equal(rounded.grad, first.grad.bfloat16())


@pytest.mark.slow
def test_compiled_gates_are_the_eager_ones(monkeypatch: pytest.MonkeyPatch, compiled_graphs: object) -> None:
    def plain(*args: Tensor) -> None:
        pytest.fail("nothing was compiled: torch.compile failed, or there is no C++ compiler here; install g++")

    def step(dtype: torch.dtype, rows: int) -> list[Tensor]:
        inputs = make(rows, 1, units=24, dtype=dtype)
        h, c = lstm_gates(*inputs)
        return [h, c, *torch.autograd.grad(h.square().sum() + c.square().sum(), inputs)]

    for kernel in (gates.forward, gates.backward):
        monkeypatch.setattr(kernel.compiled, "eager", plain)
    for rows in (7, 3, 1):
        exact = [tensor.float() for tensor in step(torch.float64, rows)]
        torch.testing.assert_close(step(torch.float32, rows), exact, rtol=1e-4, atol=1e-5)
