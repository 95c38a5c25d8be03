"""Additive attention over several steps against its definition, step by step with autograd."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from captioner.layers.additive import Sampler, additive_attention
from captioner.layers.packing import Packing
from tests.builders import build_tokens

PACKING = Packing.of(build_tokens(((2, 1), (1, 3), (0, 2))))  # one caption is absent, and images end at three steps
MASK = torch.tensor([[True, True, True, True], [False, True, True, False], [False, False, True, False]])


def make(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Make the inputs of the tests.

    These are keys (3, 4, 5), values (3, 4, 2), v (5,), the weights (5, 2) from a context to the next query, and the
    steps' queries (rows, 1, 5).
    """
    random = torch.Generator().manual_seed(0)
    shapes = [(3, 4, 5), (3, 4, 2), (5,), (5, 2), *((rows, 1, 5) for rows in PACKING.active)]
    return [torch.randn(shape, generator=random, dtype=torch.float64).to(dtype).requires_grad_() for shape in shapes]


def ours(
    keys: Tensor, values: Tensor, v: Tensor, back: Tensor, *queries: Tensor, sampler: Sampler | None = None
) -> list[Tensor]:
    """Return the contexts and then the alphas of all steps; as in a decoder, a query depends on the step before."""
    contexts, alphas = [], []
    steps = additive_attention(keys, values, v, mask=MASK, packing=PACKING, sampler=sampler)
    for query, attend in zip(queries, steps, strict=True):
        context, alpha, _ = attend(query + contexts[-1][: len(query)] @ back.T if contexts else query)
        contexts.append(context)
        alphas.append(alpha)
    return contexts + alphas


def sample_some(alpha: Tensor) -> Tensor:
    """Sample cell 2, which is real in every image, in every other caption, and all cells in the others."""
    cells = torch.full(alpha.shape[:2], 2)
    cells[:, 1::2] = -1
    return cells


def definition(
    keys: Tensor, values: Tensor, v: Tensor, back: Tensor, *queries: Tensor, sampler: Sampler | None = None
) -> list[Tensor]:
    """Return the same as :func:`ours`, from hyperbolic tangents and over the real cells of one row at a time."""
    contexts: list[Tensor] = []
    alphas: list[Tensor] = []
    for query in queries:
        if contexts:
            query = query + contexts[-1][: len(query)] @ back.T
        context, alpha = [], []
        for q, image, place in zip(query.squeeze(1), PACKING.image.tolist(), PACKING.places.tolist(), strict=False):
            real = MASK[image].nonzero().flatten()
            energy = torch.exp(torch.tanh(keys[image, real] + q) @ v)
            weights = energy / energy.sum(-1, keepdim=True)
            alpha.append(torch.zeros(MASK.shape[1], dtype=v.dtype).index_copy(0, real, weights))
            sampled = sampler is not None and place % PACKING.captions % 2 == 0
            context.append(values[image, 2] if sampled else weights @ values[image, real])
        alphas.append(torch.stack(alpha).unsqueeze(1))
        contexts.append(torch.stack(context).unsqueeze(1))
    return contexts + alphas


@pytest.mark.parametrize("sampler", [None, sample_some], ids=["soft", "hard"])
def test_attention_is_its_definition(sampler: Sampler | None) -> None:
    inputs = make()
    torch.testing.assert_close(ours(*inputs, sampler=sampler), definition(*inputs, sampler=sampler), rtol=0, atol=1e-12)


@pytest.mark.parametrize("sampler", [None, sample_some], ids=["soft", "hard"])
def test_its_backward_pass_is_the_derivative(sampler: Sampler | None) -> None:
    assert torch.autograd.gradcheck(lambda *inputs: tuple(ours(*inputs, sampler=sampler)), make())


@pytest.mark.parametrize("output", range(2 * len(PACKING.active)))
def test_gradients_of_one_output_alone(output: int) -> None:
    """Steps that do not enter the loss, before or after, have no influence."""
    inputs = make()
    weights = torch.randn_like(definition(*inputs)[output])
    found, expected = (
        torch.autograd.grad((form(*inputs)[output] * weights).sum(), inputs, allow_unused=True, materialize_grads=True)
        for form in (ours, definition)
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_a_graph_can_be_traversed_in_part_and_twice() -> None:
    inputs = make()
    loss = torch.stack([output.square().sum() for output in ours(*inputs)]).sum()
    torch.autograd.grad(loss, inputs[4:], retain_graph=True)  # the queries alone: the cells' node is never reached
    passes = [torch.autograd.grad(loss, inputs, retain_graph=True) for _ in range(2)]
    assert all(torch.equal(a, b) for first, second in pairwise(passes) for a, b in zip(first, second, strict=True))
    expected = torch.autograd.grad(torch.stack([output.square().sum() for output in definition(*inputs)]).sum(), inputs)
    torch.testing.assert_close(passes[0], expected, rtol=0, atol=1e-12)


def test_keys_and_values_need_no_gradient() -> None:
    inputs = make()
    fixed = [inputs[0].detach(), inputs[1].detach(), inputs[2].detach(), *inputs[3:]]
    found, expected = (
        torch.autograd.grad(sum(out.square().sum() for out in form(*fixed)), fixed[3:]) for form in (ours, definition)
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_second_derivatives_are_refused() -> None:
    inputs = make()
    (gradient,) = torch.autograd.grad(ours(*inputs)[0].square().sum(), inputs[4], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_16_bit_keys_and_values_get_gradients_in_16_bits() -> None:
    inputs, exact = make(torch.bfloat16), make()
    for form, leaves in ((ours, inputs), (definition, exact)):
        sum(
            out.square().sum()
            for out in form(*leaves[:3], leaves[3].float() if form is ours else leaves[3], *leaves[4:])
        ).backward()
    assert {leaf.grad.dtype for leaf in inputs} == {torch.bfloat16}
    for leaf, reference in zip(inputs, exact, strict=True):
        assert (
            torch.nn.functional.cosine_similarity(leaf.grad.double().flatten(), reference.grad.flatten(), dim=0) > 0.995
        )


def test_no_tensor_of_size_b_k_n_a_is_kept() -> None:
    b, k, n, a = 2, 4, 8, 16
    keys, values, v, query = (
        torch.randn(shape).requires_grad_() for shape in ((b, n, a), (b, n, 3), (a,), (b * k, 1, a))
    )
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.append(tensor.numel()) or tensor, lambda tensor: tensor
    ):
        packing = Packing.of(torch.ones(b, k, 1, dtype=torch.long))
        (attend,) = additive_attention(keys, values, v, mask=None, packing=packing)
        attend(query)
    assert kept and max(kept) < b * k * n * a
