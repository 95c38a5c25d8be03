r"""The inner loops of additive attention, fused.

``score[b,k,n] = sum_a v[a] tanh(p[b,n,a] + q[b,k,a])`` (Bahdanau 2015, Xu 2015) takes B K N A hyperbolic tangents per
step, which dominates the cost of the decoder, and a plain implementation writes each to memory. Two measures make it
cheap, without approximation:

* ``tanh(p + q) = 1 - 2 / (1 + exp(2p) exp(2q))``, with the exponentials computed once per key and once per query. A
  multiplication, an addition and a reciprocal remain for each of the B K N A elements. ``p`` and ``q`` are clamped to
  +-40, where a 32-bit exponential is finite; those of trained networks are far smaller.
* ``torch.compile`` fuses the sum with the reciprocal, so nothing of size B K N A is stored. Without a C++ compiler the
  same functions run eagerly, image by image in a buffer that stays in the processor's cache.

Tensor letters: B images, K captions per image, M captions times steps, N regions or cells, A attention units.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from captioner.machine.backend import CompiledFunction

LIMIT = 40.0
_UNITS = 32  # attention units of a pass; a core's cache holds them for some twenty hypotheses and 196 cells


def at_least_float32(x: Tensor) -> Tensor:
    """Return ``x`` in at least 32 bits."""
    return x if x.dtype == torch.float64 else x.float()


def trains_on_cpu(x: Tensor) -> bool:
    """Return whether gradients are computed on a CPU, where fused kernels replace autograd's operations."""
    return torch.is_grad_enabled() and x.device.type == "cpu"


def exponential(x: Tensor) -> Tensor:
    """Return ``exp(2x)`` with ``x`` clamped to where it is finite in 32 bits."""
    # onnxruntime would fuse a clamp right after a product as its activation, and then not compute both in eight bits.
    return torch.exp((2.0 * x).clamp(-2 * LIMIT, 2 * LIMIT))


def _scores(e: Tensor, f: Tensor, v: Tensor) -> Tensor:
    """Score keys e (B, A, N) for queries f (B, K, A) with v (A,): (B, K, N). With A first, the sum is vectorised."""
    return v.sum() - 2.0 * (v.unsqueeze(-1) * torch.reciprocal(1.0 + e.unsqueeze(1) * f.unsqueeze(-1))).sum(2)


def _scores_stored(e: Tensor, f: Tensor, v: Tensor) -> Tensor:
    """Compute :func:`_scores` in three passes over all elements instead of five, with 1/e and v/e of the keys.

    On a CPU each pass processes a block of units that fits in the processor's cache.
    """
    units = _UNITS if e.device.type == "cpu" else len(v)
    parts = zip(
        *(x.split(units, dim=-2) for x in (torch.reciprocal(e), v.unsqueeze(-1) / e)), f.split(units, -1), strict=True
    )
    sums = [(weighted.unsqueeze(1) / (g.unsqueeze(1) + f.unsqueeze(-1))).sum(2) for g, weighted, f in parts]
    return v.sum() - 2.0 * sum(sums[1:], sums[0])


def _query_gradient(e: Tensor, f: Tensor, ds: Tensor) -> Tensor:
    """Sum over keys: e (B, N, A), f (B, K, A), ds (B, K, N) -> sum_n ds r (1 - r), (B, K, A)."""
    r = torch.reciprocal(1.0 + e.unsqueeze(1) * f.unsqueeze(2))
    return (ds.unsqueeze(-1) * (r - r * r)).sum(2)


def _key_gradient(e: Tensor, f: Tensor, ds: Tensor) -> tuple[Tensor, Tensor]:
    """Sum over queries: e (B, N, A), f (B, M, A), ds (B, M, N) -> sum_m ds r (1 - r), sum_m ds (1 - 2r), (B, N, A)."""
    r = torch.reciprocal(1.0 + e.unsqueeze(1) * f.unsqueeze(2))
    d = ds.unsqueeze(-1)
    return (d * (r - r * r)).sum(1), (d * (1.0 - 2.0 * r)).sum(1)


def _scores_eager(e: Tensor, f: Tensor, v: Tensor) -> Tensor:
    (images, units, keys), captions = e.shape, f.shape[1]
    out, r = e.new_empty(images, captions, keys), e.new_empty(captions, units, keys)
    weights = v.expand(captions, 1, units)
    for row, key, query in zip(
        out.unsqueeze(2).unbind(), e.unsqueeze(1).unbind(), f.unsqueeze(-1).unbind(), strict=True
    ):
        torch.mul(key, query, out=r)
        torch.bmm(weights, r.add_(1.0).reciprocal_(), out=row)
    return out.mul_(-2.0).add_(v.sum())


def _query_gradient_eager(e: Tensor, f: Tensor, ds: Tensor) -> Tensor:
    out = torch.empty_like(f)
    for b in range(e.shape[0]):
        r = (e[b].unsqueeze(0) * f[b].unsqueeze(1)).add_(1.0).reciprocal_()
        out[b] = torch.matmul(ds[b].unsqueeze(1), r.addcmul_(r, r, value=-1.0)).squeeze(1)
    return out


def _key_gradient_eager(e: Tensor, f: Tensor, ds: Tensor) -> tuple[Tensor, Tensor]:
    first, second = torch.zeros_like(e), torch.zeros_like(e)
    for b in range(e.shape[0]):
        for m in range(f.shape[1]):
            r = (e[b] * f[b, m]).add_(1.0).reciprocal_()
            d = ds[b, m].unsqueeze(-1)
            second[b].addcmul_(d, r, value=-2.0).add_(d)
            first[b].addcmul_(d, r.addcmul_(r, r, value=-1.0))
    return first, second


class Kernel:
    """A function that is compiled, and its equivalents where compilation is impossible or slower.

    Args:
        fused: the function to compile.
        by_image: image by image and in place, for a CPU without a compiler.
        stored: with intermediate results in memory, for GPUs without a compiler, for autograd and for exports.
    """

    def __init__(
        self,
        fused: Callable[..., Any],
        by_image: Callable[..., Any] | None = None,
        stored: Callable[..., Any] | None = None,
    ) -> None:
        self.by_image, self.stored = by_image or fused, stored or fused
        self.compiled = CompiledFunction(fused, eager=self.eager, dynamic=True)

    def eager(self, *args: Tensor) -> Any:
        """Call the form that is not compiled and suits the device."""
        # ``by_image`` writes in place, which autograd and exports cannot record, and loops, which is slow on a GPU.
        stored = args[0].device.type != "cpu" or torch.is_grad_enabled() or torch.compiler.is_compiling()
        return (self.stored if stored else self.by_image)(*args)

    def __call__(self, *args: Tensor, compiled: bool) -> Any:
        # A single row or image would be compiled separately: torch.compile takes sizes of one as constants.
        return (self.compiled if compiled and len(args[0]) > 1 else self.eager)(*args)


scores = Kernel(_scores, _scores_eager, _scores_stored)
query_gradient = Kernel(_query_gradient, _query_gradient_eager)
key_gradient = Kernel(_key_gradient, _key_gradient_eager)
