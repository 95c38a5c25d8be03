"""Multi-head attention of the Transformer (Vaswani et al. 2017, https://arxiv.org/abs/1706.03762).

Tensor letters as in :mod:`captioner.layers.transformer`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from captioner.layers.linear import Packable


class Attention(nn.Module, Packable):
    """Multi-head attention, section 3.2.2: ``softmax(Q K^T / sqrt(E)) V`` (1) in every head.

    One linear map of the concatenated heads follows. As in the paper the maps have no bias, and the weights no dropout.
    """

    packs = ("query", "key_value", "output")

    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(size, size, bias=False)
        self.key_value = nn.Linear(size, 2 * size, bias=False)
        self.output = nn.Linear(size, size, bias=False)
        for linear in (self.query, self.key_value, self.output):
            nn.init.xavier_uniform_(linear.weight)

    def split(self, key_value: Tensor) -> Tensor:
        """Split keys and values (..., N, 2S) into heads: (..., 2, H, N, E)."""
        return key_value.unflatten(-1, (2, self.heads, -1)).movedim(-4, -2)

    def add_positions(self, query: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, Tensor | None]:
        """Add relative positions to a query; plain attention has none.

        Args:
            query: (B, Q, S), already projected, of the last Q of the N keys.
            shape: (N,), or (rows, columns) of a grid.

        Returns:
            The query (B, Q, S) and the bias of the scores (B, H, Q, N) or ``None``, for :meth:`attend`.
        """
        return query, None

    def attend(
        self,
        query: Tensor,
        keys_values: Tensor,
        *,
        mask: Tensor | None = None,
        bias: Tensor | None = None,
        causal: bool = False,
    ) -> Tensor:
        """Average the values in every head.

        Args:
            query: (B, Q, S), already projected.
            keys_values: (B, 2, H, N, E).
            mask: (B, 1, 1, N), true where a key may be attended to.
            bias: (B, H, Q, N), added to the scores.
            causal: the queries belong to the last Q keys, and each attends to the keys up to its own.

        Returns:
            (B, Q, S) the concatenated heads.
        """
        if (
            query.device.type == "cpu"
        ):  # torch's fused kernel is slow there with few keys, above all in the backward pass
            weights = self.weights(query, keys_values, mask=mask, bias=bias, causal=causal)
            return self.average(weights, keys_values)
        if causal and (bias is not None or query.shape[1] != keys_values.shape[-2]):
            mask, causal = _causal_mask(mask, query, keys_values), False
        if bias is not None:
            bias = bias.to(query.dtype)
            mask = bias if mask is None else bias.masked_fill(~mask, float("-inf"))
        keys, values = keys_values.unbind(1)
        heads = F.scaled_dot_product_attention(self._heads(query), keys, values, attn_mask=mask, is_causal=causal)
        return heads.transpose(1, 2).flatten(2)

    def weights(
        self,
        query: Tensor,
        keys_values: Tensor,
        *,
        mask: Tensor | None = None,
        bias: Tensor | None = None,
        causal: bool = False,
    ) -> Tensor:
        """Return the weights of :meth:`attend`, (B, H, Q, N) in at least 32 bits."""
        if causal:
            mask = _causal_mask(mask, query, keys_values)
        query = query * (query.shape[-1] / self.heads) ** -0.5
        scores = self._heads(query) @ keys_values[:, 0].transpose(-1, -2)
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        if bias is not None:
            scores = scores + bias
        return torch.softmax(scores if mask is None else scores.masked_fill(~mask, float("-inf")), dim=-1)

    def average(self, weights: Tensor, keys_values: Tensor) -> Tensor:
        """Return the result (B, Q, S) of :meth:`attend` for given weights (B, H, Q, N)."""
        values = keys_values[:, 1]
        return (weights.to(values.dtype) @ values).transpose(1, 2).flatten(2)

    def _heads(self, query: Tensor) -> Tensor:
        return query.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def _causal_mask(mask: Tensor | None, query: Tensor, keys_values: Tensor) -> Tensor:
    """Return the causal mask (Q, N), and with ``mask`` (B, 1, 1, N) the conjunction of both."""
    q, n = query.shape[1], keys_values.shape[-2]
    past = torch.ones(q, n, dtype=torch.bool, device=query.device).tril(n - q)
    return past if mask is None else mask & past
