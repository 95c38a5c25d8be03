"""The products of a recurrence, with one weight gradient, against plain products."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from captioner.layers.linear import PackedLinear
from captioner.layers.unroll import Affine, Maps, Recurrent, unrolled_products

ROWS = [6, 6, 2]


def make(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Make the weights (5, 3) and (2, 3) of x, a bias (5,), a weight (3, 7), and each step's x (rows / 2, 2, 3)."""
    random = torch.Generator().manual_seed(0)
    shapes = [(5, 3), (2, 3), (5,), (3, 7), *((rows // 2, 2, 3) for rows in ROWS)]
    return [torch.randn(shape, generator=random, dtype=torch.float64).to(dtype).requires_grad_() for shape in shapes]


def ours(out: Tensor, side: Tensor, bias: Tensor, back: Tensor, *inputs: Tensor) -> list[Tensor]:
    """Return the maps of x_t + y_{t-1}, through a tanh and back, as y_t, for all steps."""
    outputs: list[Tensor] = []
    maps: Maps = {"x": [Affine(out, bias), Affine(side)], "y": [Affine(back)]}
    for x, times in zip(inputs, unrolled_products(maps, ROWS), strict=True):
        both = times["x"](x + outputs[-1][: len(x)] if outputs else x)
        (y,) = times["y"](torch.tanh(torch.cat(list(both), dim=-1)))
        outputs.append(y)
    return outputs


def plain(out: Tensor, side: Tensor, bias: Tensor, back: Tensor, *inputs: Tensor) -> list[Tensor]:
    """Return the same as :func:`ours`, with autograd recording every step."""
    outputs: list[Tensor] = []
    for x in inputs:
        x = x + outputs[-1][: len(x)] if outputs else x
        outputs.append(torch.tanh(torch.cat([x @ out.T + bias, x @ side.T], dim=-1)) @ back.T)
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
    torch.autograd.grad(loss, inputs[4:], retain_graph=True)
    passes = [torch.autograd.grad(loss, inputs, retain_graph=True) for _ in range(2)]
    assert all(torch.equal(a, b) for first, second in pairwise(passes) for a, b in zip(first, second, strict=True))


def test_a_weight_gets_one_gradient_for_all_steps() -> None:
    weight, made = torch.randn(5, 3, requires_grad=True), []
    weight.register_hook(lambda gradient: made.append(gradient.shape))
    sum(
        times["x"](torch.randn(rows, 3))[0].sum()
        for rows, times in zip(ROWS, unrolled_products({"x": [Affine(weight)]}, ROWS), strict=True)
    ).backward()
    assert made == [weight.shape]


def test_16_bit_weights_get_gradients_in_16_bits() -> None:
    inputs, exact = make(torch.bfloat16), make()
    for form, leaves in ((ours, inputs), (plain, exact)):
        sum(out.double().square().sum() for out in form(*leaves)).backward()
    assert {leaf.grad.dtype for leaf in inputs} == {torch.bfloat16}
    for leaf, reference in zip(inputs, exact, strict=True):
        assert (
            torch.nn.functional.cosine_similarity(leaf.grad.double().flatten(), reference.grad.flatten(), dim=0) > 0.98
        )


def test_autocast_multiplies_in_its_precision() -> None:
    weight, bias, x = torch.randn(5, 3), torch.randn(5), torch.randn(2, 3)
    with torch.autocast("cpu", torch.bfloat16):
        (times,) = unrolled_products({"x": [Affine(weight, bias)]}, [2])
        (y,) = times["x"](x)
    assert torch.equal(y, torch.nn.functional.linear(x.bfloat16(), weight.bfloat16(), bias.bfloat16()))


@torch.inference_mode()
def test_a_packed_recurrence_multiplies_in_the_precision_of_the_packed_copy() -> None:
    torch.manual_seed(0)
    weights, bias, x = (torch.randn(11, 7), torch.randn(4, 7)), torch.randn(4), torch.randn(2, 3, 7)

    class Plain(Recurrent):
        def maps(self) -> Maps:
            return {"x": [Affine(weights[0]), Affine(weights[1], bias)]}

    recurrent = Plain()
    exact = recurrent.products()["x"](x)
    torch.testing.assert_close(list(exact), [x @ weights[0].T, x @ weights[1].T + bias])
    recurrent.pack(torch.bfloat16)
    rounded = recurrent.products()["x"](x)
    assert all(out.dtype == torch.float32 for out in rounded) and not torch.equal(rounded[0], exact[0])
    assert torch.equal(rounded[1], PackedLinear(weights[1], None, torch.bfloat16)(x).float() + bias)
    torch.testing.assert_close(list(rounded), list(exact), rtol=0.02, atol=0.05)
