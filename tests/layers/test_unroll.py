"""The parts of a recurrence against torch's own: the LSTM's gates, and products with one weight gradient."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from captioner.layers.linear import PackedLinear
from captioner.layers.unroll import Recurrent, lstm_gates, product, unrolled_products

ROWS = [6, 6, 2]


def test_the_gates_are_those_of_torchs_cell() -> None:
    cell, x, h, c = nn.LSTMCell(3, 4).double(), *(torch.randn(2, size, dtype=torch.float64) for size in (3, 4, 4))
    gates = product(x, cell.weight_ih, cell.bias_ih) + product(h, cell.weight_hh, cell.bias_hh)
    torch.testing.assert_close(lstm_gates(gates, c), cell(x, (h, c)), rtol=0, atol=1e-12)


def make(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Make two weights (5, 3) and (3, 5), and the input of every step (rows / 2, 2, 3)."""
    random = torch.Generator().manual_seed(0)
    shapes = [(5, 3), (3, 5), *((rows // 2, 2, 3) for rows in ROWS)]
    return [torch.randn(shape, generator=random, dtype=torch.float64).to(dtype).requires_grad_() for shape in shapes]


def ours(out: Tensor, back: Tensor, *inputs: Tensor) -> list[Tensor]:
    """Return x_t + tanh(y_{t-1}) times both weights, for all steps."""
    outputs: list[Tensor] = []
    for x, times in zip(inputs, unrolled_products({"out": out, "back": back}, ROWS), strict=True):
        outputs.append(times["back"](torch.tanh(times["out"](x + outputs[-1][: len(x)] if outputs else x))))
    return outputs


def plain(out: Tensor, back: Tensor, *inputs: Tensor) -> list[Tensor]:
    """Return the same as :func:`ours`, with autograd recording every step."""
    outputs: list[Tensor] = []
    for x in inputs:
        outputs.append(torch.tanh((x + outputs[-1][: len(x)] if outputs else x) @ out.T) @ back.T)
    return outputs


def test_products_and_gradients_are_those_of_plain_steps() -> None:
    inputs = make()
    torch.testing.assert_close(ours(*inputs), plain(*inputs), rtol=0, atol=1e-12)
    assert torch.autograd.gradcheck(lambda *leaves: tuple(ours(*leaves)), inputs)


@pytest.mark.parametrize("output", range(len(ROWS)))
def test_steps_outside_the_loss_have_no_influence(output: int) -> None:
    inputs = make()
    found, expected = (
        torch.autograd.grad(form(*inputs)[output].square().sum(), inputs, allow_unused=True, materialize_grads=True)
        for form in (ours, plain)
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_a_graph_can_be_traversed_in_part_and_twice() -> None:
    inputs = make()
    loss = torch.stack([output.square().sum() for output in ours(*inputs)]).sum()
    torch.autograd.grad(loss, inputs[2:], retain_graph=True)
    passes = [torch.autograd.grad(loss, inputs, retain_graph=True) for _ in range(2)]
    assert all(torch.equal(a, b) for first, second in pairwise(passes) for a, b in zip(first, second, strict=True))


def test_a_weight_gets_one_gradient_for_all_steps() -> None:
    weight, made = torch.randn(5, 3, requires_grad=True), []
    weight.register_hook(lambda gradient: made.append(gradient.shape))
    sum(
        times["only"](torch.randn(rows, 3)).sum()
        for rows, times in zip(ROWS, unrolled_products({"only": weight}, ROWS), strict=True)
    ).backward()
    assert made == [weight.shape]


def test_16_bit_weights_get_gradients_in_16_bits() -> None:
    inputs, exact = make(torch.bfloat16), make()
    for form, leaves in ((ours, inputs), (plain, exact)):
        sum(
            out.square().sum()
            for out in form(*leaves[:2], *(leaf.float() if form is ours else leaf for leaf in leaves[2:]))
        ).backward()
    assert {leaf.grad.dtype for leaf in inputs} == {torch.bfloat16}
    for leaf, reference in zip(inputs, exact, strict=True):
        assert (
            torch.nn.functional.cosine_similarity(leaf.grad.double().flatten(), reference.grad.flatten(), dim=0) > 0.98
        )


def test_autocast_multiplies_in_its_precision_and_returns_32_bits() -> None:
    weight, x = torch.randn(5, 3), torch.randn(2, 3)
    with torch.autocast("cpu", torch.bfloat16):
        (times,) = unrolled_products({"only": weight}, [2])
        y = times["only"](x)
    assert y.dtype == torch.float32
    assert torch.equal(y, (x.bfloat16() @ weight.bfloat16().T).float())


@torch.inference_mode()
def test_a_packed_recurrence_multiplies_in_the_precision_of_its_twin() -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(11, 7), torch.randn(2, 3, 7)

    class Plain(Recurrent):
        def weights(self) -> dict[str, Tensor]:
            return {"hidden": weight}

    recurrent = Plain()
    exact = recurrent.products()["hidden"](x)
    torch.testing.assert_close(exact, x @ weight.T)
    recurrent.pack(torch.bfloat16)
    rounded = recurrent.products()["hidden"](x)
    assert rounded.dtype == torch.float32 and not torch.equal(rounded, exact)
    assert torch.equal(rounded, PackedLinear(weight, None, torch.bfloat16)(x).float())
    torch.testing.assert_close(rounded, exact, rtol=0.02, atol=0.05)
