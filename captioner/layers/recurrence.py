r"""The attending LSTM over whole captions, forwards and backwards, as one differentiable function.

What it computes, step by step, is Xu 2015 (Show, Attend and Tell), section 3.1.2 with soft attention (section 4.2); x_t is the word just written:

    e_t      = v . tanh(keys + W_q h_{t-1} + b_q)             how much each place matters now
    alpha_t  = softmax(e_t)
    z_t      = sum_n alpha_t[n] values[n]
    beta_t   = sigmoid(W_b h_{t-1} + b_b)                     the gate of section 4.2.1
    h_t, c_t = LSTM([x_t, beta_t z_t], h_{t-1}, c_{t-1})

With hard attention (section 4.1) a place s_t is drawn from alpha_t and z_t = values[s_t]. The context then gives alpha_t no gradient; what it gets comes
from the objective.

Writing the backward pass by hand (back-propagation through time) instead of recording every step pays on any device: the gradients of the weights are
one large product over all steps, not a small one and an addition to a large matrix for each step; the gradient of the keys is taken once for all
steps; and a word's part of the gates is computed once however often the word occurs. At every step only the images that still have a word to write take
part, and their rows are packed one step behind the other.

Tensor letters: B images, K captions an image, T steps, N places, H hidden units, A attention units, D value features, G gate units (1, or D), U distinct
words, R packed rows (the sum over steps of active images times K).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from captioner.layers import kernels
from captioner.layers.kernels import wide
from captioner.layers.packing import packed_offsets


class Attended(NamedTuple):
    """What the recurrence gives, packed: the rows of step t are those of its active images, K captions each.

    Attributes:
        hidden: (R, H) h_t.
        context: (R, D) the gated context beta_t z_t.
        attention: (R, N) alpha_t.
        drawn: (R,) the place that was looked at alone, -1 where all were; ``None`` with soft attention.
    """

    hidden: Tensor
    context: Tensor
    attention: Tensor
    drawn: Tensor | None


Draw: TypeAlias = Callable[[Tensor], Tensor]  # alpha (B, K, N) of the active images -> places (B, K), -1 for all places


class Keys(NamedTuple):
    """An image's places prepared for scoring, in the two layouts the kernels read: (B, A, N) and (B, N, A)."""

    units_first: Tensor
    places_first: Tensor

    @classmethod
    def of(cls, keys: Tensor) -> Keys:
        """Prepare keys (B, N, A)."""
        e = kernels.exponential(wide(keys))
        return cls(e.transpose(1, 2).contiguous(), e.contiguous())


def attend(keys: Tensor, query: Tensor, v: Tensor, mask: Tensor | None, *, compiled: bool) -> Tensor:
    """Weigh places: ``Keys.units_first`` (B, A, N), query (B, K, A), v (A,), mask (B, N) or None -> alpha (B, K, N), at least 32 bits."""
    scores: Tensor = kernels.scores(keys, kernels.exponential(wide(query)), wide(v), compiled=compiled)
    if mask is not None:
        scores = scores.masked_fill(~mask.unsqueeze(1), float("-inf"))
    return torch.softmax(scores, dim=-1)


def focus(alpha: Tensor, drawn: Tensor | None) -> Tensor:
    """Return what places are averaged with: alpha (..., N), or all weight on the place that was drawn (...,), where one was (not -1)."""
    if drawn is None:
        return alpha
    alone = torch.nn.functional.one_hot(drawn.clamp(min=0), alpha.shape[-1]).to(alpha.dtype)
    return torch.where((drawn >= 0).unsqueeze(-1), alone, alpha)


def lstm_gates(gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Apply the LSTM's gates: pre-activations (..., 4H) in torch's order (input, forget, cell, output), c (..., H) -> h, c, activations."""
    units = c.shape[-1]
    i, f = torch.sigmoid(gates[..., : 2 * units]).chunk(2, dim=-1)
    g, o = torch.tanh(gates[..., 2 * units : 3 * units]), torch.sigmoid(gates[..., 3 * units :])
    c = f * c + i * g
    return o * torch.tanh(c), c, torch.cat([i, f, g, o], dim=-1)


class _AttendingLSTM(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        table: Tensor,
        words: Tensor,
        h: Tensor,
        c: Tensor,
        keys: Tensor,
        values: Tensor,
        w_hidden: Tensor,
        b_attention: Tensor,
        w_context: Tensor,
        v: Tensor,
        mask: Tensor | None,
        active: list[int],
        draw: Draw | None,
        compiled: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        k, units = h.shape[1:]
        h4, a, n, d = table.shape[-1], v.shape[0], keys.shape[1], values.shape[-1]
        device = table.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else table.dtype
        to_gates, to_context, places = w_hidden.to(dtype).t(), w_context.to(dtype).t(), values.to(dtype)
        prepared = Keys.of(keys)
        offsets = packed_offsets(active, k)
        hidden, context, attention = table.new_empty(offsets[-1], units), table.new_empty(offsets[-1], d), table.new_empty(offsets[-1], n)
        drawn = None if draw is None else words.new_empty(offsets[-1])
        saved: list[tuple[Tensor, ...]] = []
        h_first = h
        for t, images in enumerate(active):
            rows = slice(offsets[t], offsets[t + 1])
            size = rows.stop - rows.start
            h, c = h[:images], c[:images]
            projected = wide(torch.mm(h.reshape(size, units).to(dtype), to_gates)).view(images, k, -1)
            attending = projected[..., h4:] + b_attention
            query, gate = attending[..., :a], torch.sigmoid(attending[..., a:])
            alpha = attend(prepared.units_first[:images], query, v, None if mask is None else mask[:images], compiled=compiled)
            place = None if draw is None else draw(alpha)
            z = wide(torch.bmm(focus(alpha, place).to(dtype), places[:images]))
            gated = gate * z
            gates = projected[..., :h4] + table[words[rows]].view(images, k, h4)
            gates += wide(torch.mm(gated.view(size, d).to(dtype), to_context)).view(images, k, h4)
            c_before = c
            h, c, activations = lstm_gates(gates, c)
            saved.append((query, gate, z, c_before, activations, c))
            hidden[rows], context[rows], attention[rows] = h.view(size, units), gated.view(size, d), alpha.view(size, n)
            if drawn is not None and place is not None:
                drawn[rows] = place.flatten()
            h = hidden[rows].view(images, k, units)
        ctx.saved = saved
        ctx.active, ctx.compiled, ctx.dtype = active, compiled, dtype
        ctx.save_for_backward(h_first, table, words, hidden, context, attention, drawn, values, w_hidden, w_context, v, prepared.places_first)
        if drawn is not None:
            ctx.mark_non_differentiable(drawn)
        return hidden, context, attention, drawn

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        g_hidden, g_context, g_attention, _ = gradients
        h_first, table, words, hidden, context, attention, drawn, values, w_hidden, w_context, v, places_first = ctx.saved_tensors
        active, compiled, dtype = ctx.active, ctx.compiled, ctx.dtype
        images, n, d = values.shape
        k = h_first.shape[1]
        units, a, steps = hidden.shape[-1], v.shape[0], len(active)
        h4 = 4 * units
        offsets = packed_offsets(active, k)
        from_gates, from_context, places = w_hidden.to(dtype), w_context.to(dtype), values.to(dtype).transpose(1, 2)

        # One row of d_projected: the gradients of the LSTM's gates, the query and beta, all of which are linear in h_{t-1}.
        d_projected = hidden.new_empty(offsets[-1], w_hidden.shape[0])
        d_scores, exponentials, d_contexts, weights = (hidden.new_zeros(images, steps, k, size) for size in (n, a, d, n))
        dh, dc = hidden.new_zeros(images, k, units), hidden.new_zeros(images, k, units)
        for t in reversed(range(steps)):
            now, rows = active[t], slice(offsets[t], offsets[t + 1])
            query, gate, z, c_before, activations, c_after = ctx.saved[t]
            i, f, g, o = activations.chunk(4, dim=-1)
            tanh_c = torch.tanh(c_after)
            dh_t = dh[:now] + g_hidden[rows].view(now, k, units)
            dc_t = dc[:now] + dh_t * o * (1.0 - tanh_c * tanh_c)
            row = d_projected[rows].view(now, k, -1)
            torch.mul(dc_t * g, i * (1.0 - i), out=row[..., :units])
            torch.mul(dc_t * c_before, f * (1.0 - f), out=row[..., units : 2 * units])
            torch.mul(dc_t * i, 1.0 - g * g, out=row[..., 2 * units : 3 * units])
            torch.mul(dh_t * tanh_c, o * (1.0 - o), out=row[..., 3 * units : h4])
            dc[:now] = dc_t * f
            d_gated = wide(torch.mm(d_projected[rows, :h4].to(dtype), from_context)).view(now, k, d)
            d_gated += g_context[rows].view(now, k, d)
            d_gate = d_gated * z
            if gate.shape[-1] == 1:
                d_gate = d_gate.sum(-1, keepdim=True)
            d_z = d_gated * gate
            alpha = attention[rows].view(now, k, n)
            d_alpha = wide(torch.bmm(d_z.to(dtype), places[:now]))
            place = None if drawn is None else drawn[rows].view(now, k)
            if place is not None:
                d_alpha.masked_fill_((place >= 0).unsqueeze(-1), 0.0)
            d_alpha += g_attention[rows].view(now, k, n)
            ds = alpha * (d_alpha - (alpha * d_alpha).sum(-1, keepdim=True))
            e_query = kernels.exponential(query)
            torch.mul(kernels.query_gradient(places_first[:now], e_query, ds, compiled=compiled), 4.0 * v, out=row[..., h4 : h4 + a])
            torch.mul(d_gate, gate * (1.0 - gate), out=row[..., h4 + a :])
            d_scores[:now, t], exponentials[:now, t], d_contexts[:now, t], weights[:now, t] = ds, e_query, d_z, focus(alpha, place)
            dh[:now] = wide(torch.mm(d_projected[rows].to(dtype), from_gates)).view(now, k, units)

        previous = torch.cat([h_first.flatten(0, 1), *(hidden[offsets[t] : offsets[t] + active[t + 1] * k] for t in range(steps - 1))])
        d_cast = d_projected.to(dtype)
        d_w_hidden = wide(torch.mm(d_cast.t(), previous.to(dtype)))
        d_w_context = wide(torch.mm(d_cast[:, :h4].t(), context.to(dtype)))
        d_values = wide(torch.bmm(weights.flatten(1, 2).transpose(1, 2).to(dtype), d_contexts.flatten(1, 2).to(dtype)))
        d_keys, d_v = kernels.key_gradient(places_first, exponentials.flatten(1, 2), d_scores.flatten(1, 2), compiled=compiled)
        d_table = torch.zeros_like(table).index_add_(0, words, d_projected[:, :h4])
        d_b = d_projected[:, h4:].sum(0)
        return (d_table, None, dh, dc, 4.0 * v * d_keys, d_values, d_w_hidden, d_b, d_w_context, d_v.sum((0, 1)), None, None, None, None)


def attending_lstm(
    table: Tensor,
    words: Tensor,
    h: Tensor,
    c: Tensor,
    *,
    keys: Tensor,
    values: Tensor,
    w_hidden: Tensor,
    b_attention: Tensor,
    w_context: Tensor,
    v: Tensor,
    mask: Tensor | None,
    active: list[int],
    draw: Draw | None = None,
    compiled: bool,
) -> Attended:
    """Run the attending LSTM over whole captions.

    Args:
        table: (U, 4H) what each distinct word, with the biases, adds to the LSTM's gates.
        words: (R,) for every packed row its word, a row of ``table``.
        h: (B, K, H) first hidden state.
        c: (B, K, H) first cell.
        keys: (B, N, A) places, projected for scoring.
        values: (B, N, D) places, as they are averaged.
        w_hidden: (4H + A + G, H) what h_{t-1} gives to the LSTM's gates, to the query and to beta, stacked.
        b_attention: (A + G,) biases of the query and of beta.
        w_context: (4H, D) what the gated context gives to the LSTM's gates.
        v: (A,) the scoring vector.
        mask: (B, N) bool, true where a place is real.
        active: for each step how many images, counted from the first, still have a word to write; must not rise, and step 0 has all.
        draw: for hard attention, what draws places; ``None`` is soft attention.
        compiled: whether the fused kernels may be used.
    """
    return Attended(*_AttendingLSTM.apply(table, words, h, c, keys, values, w_hidden, b_attention, w_context, v, mask, active, draw, compiled))
