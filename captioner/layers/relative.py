"""Attention with relative positions (Dai et al. 2019, Transformer-XL, https://arxiv.org/abs/1901.02860).

Tensor letters as in :mod:`captioner.layers.transformer`; P distances.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from captioner.layers.attention import Attention
from captioner.layers.positions import sinusoid


class RelativeAttention(Attention):
    """Multi-head attention with relative positions, section 3.3.

    The score of query i and key j is, in every head, ``(q_i + u)^T k_j + (q_i + v)^T W_R R_(i-j)``, divided by the
    square root of E. R is the sinusoidal encoding of the distance i - j, and u and v, which start at zero, are learned.

    On a grid, half of R encodes the distance in rows, the other half that in columns. The second term is then a sum of
    one term for rows and one for columns: a 14x14 grid needs 27 + 27 distances instead of 27 x 27.

    Departure: each block has its own u and v, as with the option ``untie_r`` of the authors' code; the paper shares
    them among the blocks.

    Args:
        size: S.
        heads: H.
        axes: 1 for words, 2 for the cells of a grid, row by row.
    """

    def __init__(self, size: int, heads: int, *, axes: int = 1) -> None:
        super().__init__(size, heads)
        self.axes = axes
        self.relative = nn.Parameter(torch.empty(size, size))
        self.content_bias = nn.Parameter(torch.zeros(size))
        self.position_bias = nn.Parameter(torch.zeros(size))
        nn.init.xavier_uniform_(self.relative)

    def add_positions(self, query: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, Tensor | None]:
        """Add u to the query; the bias is the second term."""
        if len(shape) != self.axes:
            raise ValueError(f"relative positions along {self.axes} axes, but the shape {shape}")
        heads = self._heads((query + self.position_bias) * (query.shape[-1] / self.heads) ** -0.5)
        if self.axes == 1:
            bias = shift(self._by_distance(heads, 0, shape[0]))
        else:
            rows, columns = shape
            grid = heads.unflatten(2, shape)  # (B, H, rows, columns, E)
            by_row = shift(self._by_distance(grid.transpose(2, 3), 0, rows)).transpose(2, 3).unsqueeze(-1)
            by_column = shift(self._by_distance(grid, 1, columns)).unsqueeze(-2)
            bias = (by_row + by_column).flatten(-2).flatten(2, 3)
        return (query + self.content_bias).to(query.dtype), bias  # a packed layer's query has 16 bits

    def _by_distance(self, query: Tensor, axis: int, keys: int) -> Tensor:
        """Return the second term for each distance, the largest first.

        Args:
            query: (B, H, ..., Q, E), of the last Q keys along the axis.
            axis: its number.
            keys: N, the number of keys along it.

        Returns:
            (B, H, ..., Q, N + Q - 1).
        """
        part = self.relative.chunk(self.axes, dim=1)[axis]
        distances = torch.arange(keys - 1, -query.shape[-2], -1, device=query.device)
        encoded = F.linear(sinusoid(distances, part.shape[1]).to(part.dtype), part)  # (P, S)
        keys_by_distance = encoded.unflatten(-1, (self.heads, -1)).permute(1, 2, 0)  # (H, E, P)
        return query @ keys_by_distance.view(self.heads, *(1,) * (query.dim() - 4), *keys_by_distance.shape[1:])


def shift(scores: Tensor) -> Tensor:
    """Turn scores by distance into scores by key: the relative shift, appendix B of the paper.

    Args:
        scores: (..., Q, N + Q - 1) of each query at the distances N - 1 down to -(Q - 1).

    Returns:
        (..., Q, N) of query i and key j, whose distance is N - Q + i - j: a view, since in the flattened tensor each
        row begins one element earlier than the row before.
    """
    q, p = scores.shape[-2:]
    if q == 1:
        return scores
    return scores.flatten(-2)[..., q - 1 : q - 1 + q * (p - 1)].unflatten(-1, (q, p - 1))[..., : p - q + 1]
