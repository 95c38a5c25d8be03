"""The fused loops of additive attention against plain hyperbolic tangents and autograd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from captioner.layers import kernels
from captioner.layers.kernels import exponential
from captioner.machine import backend
from tests.builders import build_decoder, build_memory, build_tokens

KERNELS = {"scores": kernels.scores, "query_gradient": kernels.query_gradient, "key_gradient": kernels.key_gradient}


class Scoring(NamedTuple):
    """Keys p (B, N, A), queries q (B, M, A), the scoring vector v (A,) and the gradient of the scores, ds (B, M, N)."""

    p: Tensor
    q: Tensor
    v: Tensor
    ds: Tensor

    @torch.enable_grad()
    def direct(self) -> list[Tensor]:
        """Return the scores and the gradients of p, q and v, as the definition gives them, in float64."""
        p, q, v = (tensor.detach().double().requires_grad_() for tensor in self[:3])
        scores = (v * torch.tanh(p.unsqueeze(1) + q.unsqueeze(2))).sum(-1)
        return [scores.detach(), *torch.autograd.grad(scores, (p, q, v), self.ds.double())]

    def by(self, kernel: Callable[[str], Callable[..., Any]]) -> list[Tensor]:
        """Return the same from the three kernels, each looked up by its name."""
        e, f = exponential(self.p), exponential(self.q)
        scores = kernel("scores")(e.transpose(1, 2).contiguous(), f, self.v)
        d_p, d_v = kernel("key_gradient")(e, f, self.ds)
        return [scores, 4.0 * self.v * d_p, 4.0 * self.v * kernel("query_gradient")(e, f, self.ds), d_v.sum((0, 1))]


def make(
    *, spread: float = 1.5, b: int = 3, m: int = 2, n: int = 7, a: int = 5, dtype: torch.dtype = torch.float64
) -> Scoring:
    random = torch.Generator().manual_seed(b + m + n + a)
    p, q, v, ds = (
        torch.randn(shape, generator=random, dtype=torch.float64).to(dtype)
        for shape in ((b, n, a), (b, m, a), (a,), (b, m, n))
    )
    return Scoring(spread * p, spread * q, v, ds)


def stored(name: str) -> Callable[..., Any]:
    return KERNELS[name].stored


def eager(name: str) -> Callable[..., Any]:
    return KERNELS[name].eager


def called(name: str) -> Callable[..., Any]:
    """Return the kernel as decoders call it without a compiler."""
    return lambda *args: KERNELS[name](*args, compiled=False)


def compiled(name: str) -> Callable[..., Any]:
    return lambda *args: KERNELS[name](*args, compiled=True)


@pytest.mark.parametrize(("m", "a"), [(1, 5), (4, 5), (4, 2 * kernels._UNITS + 5)])
@pytest.mark.parametrize("form", [stored, eager, called])
def test_kernels_are_the_definition_and_its_gradients(
    form: Callable[[str], Callable[..., Any]], m: int, a: int
) -> None:
    scoring = make(m=m, a=a)
    torch.testing.assert_close(scoring.by(form), scoring.direct(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("form", [stored, eager])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_large_projections_that_cancel_lose_nothing(
    form: Callable[[str], Callable[..., Any]], dtype: torch.dtype, tolerance: float
) -> None:
    plain = make(dtype=dtype)
    # exp(2p) is up to e^60 here and exp(2q) down to e^-60; eighths, so that p + q is exact in 32 bits, too.
    shift = torch.linspace(-30, 30, 5).round()
    scoring = plain._replace(
        p=(8 * plain.p).round() / 8 + shift.to(dtype), q=(8 * plain.q).round() / 8 - shift.to(dtype)
    )
    direct = scoring.direct()
    assert all(gradient.abs().max() > 0.1 for gradient in direct), "tanh is saturated everywhere, and nothing is tested"
    torch.testing.assert_close([out.double() for out in scoring.by(form)], direct, rtol=0, atol=tolerance)


@pytest.mark.parametrize("form", [stored, eager])
@pytest.mark.parametrize("p", [-1e4, -100.0, -30.0, 30.0, 100.0, 1e4])
@pytest.mark.parametrize("q", [-100.0, 0.0, 100.0])
def test_saturation_gives_numbers(form: Callable[[str], Callable[..., Any]], p: float, q: float) -> None:
    ones = torch.ones(1, 1, 1)
    score, *gradients = Scoring(p * ones, q * ones, torch.ones(1), ones).by(form)
    if abs(p) != abs(q) and p * q >= 0:
        assert score.item() == pytest.approx(1.0 if p + q > 0 else -1.0)
    assert abs(score.item()) <= 1.0
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_sixteen_bits_are_widened_and_float64_is_kept() -> None:
    assert [
        kernels.at_least_float32(torch.ones(1, dtype=dtype)).dtype
        for dtype in (torch.bfloat16, torch.float16, torch.float32)
    ] == [torch.float32] * 3
    assert kernels.at_least_float32(torch.ones(1, dtype=torch.float64)).dtype == torch.float64


def test_autograd_uses_the_stored_form() -> None:
    """Taking steps with gradients on (as sampling for a reward may) must not meet the loops that write in place."""
    scoring = make()
    direct = scoring.direct()
    p, q, v = (tensor.clone().requires_grad_() for tensor in scoring[:3])
    scores = kernels.scores(exponential(p).transpose(1, 2), exponential(q), v, compiled=False)
    torch.testing.assert_close(list(torch.autograd.grad(scores, (p, q, v), scoring.ds)), direct[1:], rtol=0, atol=1e-12)


def never_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the test fail if a kernel that should be compiled is computed by its plain form."""

    def plain(*args: Any) -> None:
        pytest.fail("nothing was compiled: torch.compile failed, or there is no C++ compiler here; install g++")

    for kernel in KERNELS.values():
        monkeypatch.setattr(kernel.compiled, "eager", plain)


@pytest.mark.slow
def test_compiled_kernels_are_the_eager_ones_and_the_definition(
    monkeypatch: pytest.MonkeyPatch, compiled_graphs: Callable[[], int]
) -> None:
    never_plain(monkeypatch)
    with torch.no_grad():
        for sizes in (
            {"b": 4, "m": 5, "n": 196, "a": 64},
            {"b": 2, "m": 1, "n": 49, "a": 32},
            {"b": 3, "m": 30, "n": 36, "a": 64, "spread": 8.0},
        ):
            scoring = make(**sizes, dtype=torch.float32)
            found = scoring.by(compiled)
            torch.testing.assert_close(found, scoring.by(eager), rtol=1e-4, atol=1e-4)
            torch.testing.assert_close([out.double() for out in found], scoring.direct(), rtol=1e-3, atol=1e-3)
    assert compiled_graphs() >= len(KERNELS)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["show_attend_tell", "top_down"])
def test_a_compiled_training_step_is_the_plain_one(
    name: str, monkeypatch: pytest.MonkeyPatch, compiled_graphs: Callable[[], int]
) -> None:
    decoder, memory, tokens = build_decoder(name).float(), build_memory().to(dtype=torch.float32), build_tokens()
    weights = [parameter for parameter in decoder.parameters() if parameter.requires_grad]

    def step() -> list[Tensor | None]:
        logits = decoder(memory, tokens).logits
        loss = torch.nn.functional.cross_entropy(logits, torch.arange(len(logits)) % logits.shape[1])
        return [logits.detach(), *torch.autograd.grad(loss, weights, allow_unused=True)]

    with monkeypatch.context() as patch:
        patch.setattr(backend, "can_compile", lambda: False)
        plain = step()
    assert compiled_graphs() == 0
    never_plain(monkeypatch)
    torch.testing.assert_close(step(), plain, rtol=1e-4, atol=1e-5)
    assert compiled_graphs() >= len(KERNELS)


def test_projections_are_clamped_to_forty() -> None:
    x = torch.tensor([-100.0, -41, -40, -39, 0, 39, 40, 41, 100])
    expected = torch.tensor([-80.0, -80, -80, -78, 0, 78, 80, 80, 80]).exp()
    torch.testing.assert_close(exponential(x), expected)
    assert exponential(x).isfinite().all() and (exponential(x) > 0).all()


@pytest.mark.parametrize(
    ("dtype", "learning", "expected"),
    [(torch.float32, True, True), (torch.float64, True, False), (torch.float32, False, False)],
)
def test_training_in_32_bits_uses_the_compiled_kernels(
    dtype: torch.dtype, learning: bool, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = set()
    for name, kernel in KERNELS.items():
        monkeypatch.setattr(kernel, "compiled", lambda *args, name=name, of=kernel: used.add(name) or of.eager(*args))
    decoder, memory = build_decoder("show_attend_tell").to(dtype), build_memory().to(dtype=dtype)
    with torch.set_grad_enabled(learning):
        loss = decoder(memory, build_tokens()).logits.square().sum()
    if learning:
        loss.backward()
    assert used == (set(KERNELS) if expected else set())
