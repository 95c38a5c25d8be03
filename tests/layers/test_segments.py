"""Segment recurrence: line after line, all lines at once, and one pass over the whole text with the same reach."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from itertools import accumulate
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from captioner.decoders import TransformerXL
from captioner.encoders.refiner import TransformerRefiner, TransformerRefinerConfig
from captioner.layers.segments import BatchContext, StoredContext, previous_lines
from captioner.layers.transformer import Rows
from captioner.memory import Memory
from captioner.text.vocabulary import BOS, PAD
from tests.builders import FEATURES, WORDS, build_decoder
from tests.layers.test_transformer import randoms, scattered

LENGTHS = [3, 1, 4, 2, 5]  # words of the lines of a text
PLACES = [2, 3, 1, 3, 2]  # and of their sources
REACHES = pytest.mark.parametrize("reach", [1, 2, 4])
FORMS = pytest.mark.parametrize("settings", [{}, {"half_steps": True, "norm": "post"}, {"convolution": 3}], ids=str)


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


def refiner_of(settings: dict[str, Any]) -> TransformerRefiner:
    config = TransformerRefinerConfig(
        **{"blocks": 3, "size": 8, "heads": 2, "feed_forward": 12, "dropout": 0.0, "geometry": False},
        relative=True,
        axes=1,
        **settings,
    )
    refiner: TransformerRefiner = scattered(TransformerRefiner(config, features=FEATURES)).eval()
    assert refiner.reads_context
    return refiner


def decoder_of(**settings: Any) -> TransformerXL:
    decoder = build_decoder("transformer_xl", blocks=3, **settings)
    assert isinstance(decoder, TransformerXL)
    return decoder


def memory_of(lengths: list[int]) -> Memory:
    """Make the vectors of lines, with random padding, which must have no influence."""
    mask = torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)
    vectors = randoms(len(lengths), max(lengths), FEATURES).masked_fill(~mask.unsqueeze(-1), 7.0)
    return Memory(vectors, vectors[:, 0], mask)


def words_of(lengths: list[int]) -> Tensor:
    """Make lines (B, T) of words, each of which begins with ``<bos>``."""
    random = torch.Generator().manual_seed(3)
    tokens = torch.randint(4, WORDS, (len(lengths), max(lengths)), generator=random)
    tokens[:, 0] = BOS
    return tokens.masked_fill(torch.arange(max(lengths)) >= torch.tensor(lengths).unsqueeze(1), PAD)


def reach_of(lengths: list[int], reach: int) -> Tensor:
    """Return which words of a text each of its words may attend to: those of its line and of previous lines."""
    line = torch.tensor([number for number, length in enumerate(lengths) for _ in range(length)])
    apart = line.unsqueeze(1) - line
    return (apart >= 0) & (apart <= reach)


def refine_line_by_line(refiner: TransformerRefiner, memory: Memory, reach: int) -> list[Tensor]:
    assert memory.mask is not None
    past: deque[Tensor] = deque(maxlen=reach)
    found = []
    for number, length in enumerate(memory.mask.sum(1).tolist()):
        line = Memory(memory.vectors[number : number + 1, :length], memory.pooled[number : number + 1])
        refined, states = refiner.states(line, StoredContext.of([past]))
        past.append(states[:, 0])
        found.append(refined.vectors[0])
    return found


@FORMS
@REACHES
def test_lines_are_refined_as_one_text_with_the_same_reach(reach: int, settings: dict[str, Any]) -> None:
    refiner, memory = refiner_of(settings), memory_of(LENGTHS)
    assert memory.mask is not None
    by_line = torch.cat(refine_line_by_line(refiner, memory, reach))

    previous = previous_lines([True] + [False] * (len(LENGTHS) - 1), reach)
    at_once = refiner(memory, BatchContext.of(previous, torch.tensor(LENGTHS))).vectors[memory.mask]
    close(at_once, by_line)
    if "convolution" not in settings:  # it ends with the line
        x, allowed = refiner.project(memory.vectors[memory.mask].unsqueeze(0)), reach_of(LENGTHS, reach)
        for block in refiner.blocks:
            x = block(x, allowed[None, None])
        close(refiner.norm(x)[0], by_line)
    assert (by_line - refiner(memory).vectors[memory.mask])[LENGTHS[0] :].abs().max() > 1e-3, "nothing was read"


@REACHES
def test_each_block_reaches_one_context_further(reach: int) -> None:
    refiner, memory = refiner_of({}), memory_of([2] * 9)
    other = memory.vectors.clone()
    other[0] *= -1
    before, after = (refine_line_by_line(refiner, each, reach) for each in (memory, replace(memory, vectors=other)))
    changed = [bool((one - two).abs().max() > 1e-9) for one, two in zip(before, after, strict=True)]
    assert changed == [number <= 3 * reach for number in range(9)]


def write_line_by_line(decoder: TransformerXL, memory: Memory, tokens: Tensor, reach: int, steps: bool) -> list[Tensor]:
    past: deque[Tensor] = deque(maxlen=reach)
    found = []
    for number, words in enumerate(tokens):
        words, line, context = words[words != PAD], memory[number : number + 1], StoredContext.of([past])
        if steps:
            state, logits = decoder.start(line, context), []
            for word in words:
                step = decoder.step(word.view(1, 1), state)
                state = step.state
                logits.append(step.logits[0])
            found.append(torch.cat(logits))
        else:
            found.append(decoder(line, words.view(1, 1, -1), context).logits)
        past.append(decoder.states(line, words.unsqueeze(0), context)[:, 0])
    return found


@pytest.mark.parametrize("norm", ["pre", "post"])
@REACHES
def test_lines_are_written_as_one_text_with_the_same_reach(reach: int, norm: str) -> None:
    decoder, memory, tokens = decoder_of(norm=norm), memory_of(PLACES), words_of(LENGTHS)
    by_line = torch.cat(write_line_by_line(decoder, memory, tokens, reach, steps=False))
    close(torch.cat(write_line_by_line(decoder, memory, tokens, reach, steps=True)), by_line)

    previous = previous_lines([True] + [False] * (len(LENGTHS) - 1), reach)
    batch_context = BatchContext.of(previous, torch.tensor(LENGTHS))
    close(decoder(memory, tokens.unsqueeze(1), batch_context).logits, by_line)

    # One caption of all words, each of which attends to the cells of its line.
    assert memory.mask is not None
    real = tokens != PAD
    x = decoder.embedding(tokens[real]) * decoder.config.size**0.5
    line = real.nonzero()[:, 0]
    cells = memory.vectors[memory.mask].unsqueeze(0)
    own = (memory.mask.nonzero()[:, 0] == line.unsqueeze(1))[None, None]
    allowed = reach_of(LENGTHS, reach) & torch.ones(len(x), len(x), dtype=torch.bool).tril()
    for block in decoder.blocks:
        y, attention = block.around_self_attention.sublayer_input(x.unsqueeze(0)), block.self_attention
        query, bias = attention.add_positions(attention.query(y), (len(x),))
        keys_values = attention.split(attention.key_value(y))
        seen = attention.output(attention.attend(query, keys_values, mask=allowed[None, None], bias=bias))
        x = block.around_self_attention(x, lambda y, out=seen[0]: out)
        y, attention = block.around_cross_attention.sublayer_input(x.unsqueeze(0)), block.cross_attention
        seen = attention.output(attention.attend(attention.query(y), block.memory(cells), mask=own))
        x = block.around_cross_attention(x, lambda y, out=seen[0]: out)
        x = block.around_feed_forward(x, block.feed_forward)
    close(decoder.norm(x) @ decoder.embedding.weight.T, by_line)
    alone = decoder(memory, tokens.unsqueeze(1)).logits
    assert (by_line - alone)[LENGTHS[0] :].abs().max() > 0.01
    close(by_line[: LENGTHS[0]], alone[: LENGTHS[0]])


def test_texts_side_by_side_are_texts_one_by_one() -> None:
    """Their contexts have different lengths, and one has none."""
    refiner, decoder = refiner_of({}), decoder_of()
    memory, tokens = memory_of([3, 2, 4]), words_of([2, 4, 3])
    random = [[randoms(3, words, 8, seed=words) for words in lines] for lines in ([2, 5], [], [1])]
    past = StoredContext.of(random)
    assert past is not None and past.mask.sum(1).tolist() == [7, 0, 1] and past.states.shape == (3, 3, 7, 8)
    refined, read = refiner.states(memory, past)
    output, written = decoder(memory, tokens.unsqueeze(1), past), decoder.states(memory, tokens, past)
    state, last = decoder.start(memory, past).pick(torch.zeros(3, 2, dtype=torch.long)), []
    for word in tokens.T:
        step = decoder.step(word.unsqueeze(1).expand(3, 2), state)
        state = step.state
        last.append(step.logits)
    ends = [0, *accumulate((tokens != PAD).sum(1).tolist())]
    for number in range(3):
        alone, line = StoredContext.of([random[number]]), memory[number : number + 1]
        words = tokens[number : number + 1, : ends[number + 1] - ends[number]]
        assert line.mask is not None
        real = line.mask[0]
        expected, states = refiner.states(line, alone)
        close(refined.vectors[number][real], expected.vectors[0][real])
        close(read[:, number][:, real], states[:, 0][:, real])
        logits = decoder(line, words.unsqueeze(1), alone).logits
        close(output.logits[ends[number] : ends[number + 1]], logits)
        close(written[:, number, : words.shape[1]], decoder.states(line, words, alone)[:, 0])
        for step_logits, one in zip(last, logits, strict=False):
            close(step_logits[number], one.expand(2, -1))
    assert StoredContext.of([[], []]) is None


@pytest.mark.parametrize("part", ["refiner", "decoder"])
def test_there_is_no_gradient_through_previous_lines(part: str) -> None:
    memory = memory_of(LENGTHS)
    vectors = memory.vectors.requires_grad_()
    context = BatchContext.of(previous_lines([True] + [False] * 4, 2), torch.tensor(LENGTHS))
    if part == "refiner":
        last = refiner_of({})(memory, context).vectors[4, :5]
        (gradient,) = torch.autograd.grad(last.square().sum(), vectors)
        assert not gradient[:4].any() and gradient[4].any()
    else:
        decoder = decoder_of()
        output = decoder(memory, words_of(LENGTHS).unsqueeze(1), context)
        (gradient,) = torch.autograd.grad(output.logits[-5:].square().sum(), vectors)
        assert not gradient[:4].any() and gradient[4].any()


def test_the_weights_learn_from_the_context() -> None:
    """A key of a previous line has no gradient, but the matrix that computes it has."""
    decoder, memory, tokens = decoder_of(), memory_of(PLACES), torch.arange(4, 9).unsqueeze(1)
    context = BatchContext.of(previous_lines([True] + [False] * 4, 2), torch.tensor([1] * 5))
    gradients = []
    for each in (None, context):
        decoder.zero_grad()
        decoder(memory, tokens.unsqueeze(1), each).logits.square().sum().backward()
        gradients.append(decoder.blocks[0].self_attention.key_value.weight.grad[:8].clone())
    assert gradients[0].abs().max() < 1e-12, "a softmax over one word"
    assert gradients[1].abs().max() > 1e-3


@given(
    st.lists(st.tuples(st.integers(1, 4), st.booleans()), min_size=1, max_size=8),
    st.integers(1, 4),
)
def test_the_context_has_the_words_of_previous_lines(lines: list[tuple[int, bool]], reach: int) -> None:
    lengths, starts = [length for length, _ in lines], [start for _, start in lines]
    previous = previous_lines(starts, reach)
    expected: list[list[tuple[int, int]]] = []
    for number in range(len(lines)):
        before: list[tuple[int, int]] = []
        line = number
        while line > 0 and not starts[line] and number - line < reach:
            line -= 1
            before = [(line, word) for word in range(lengths[line])] + before
        expected.append(before)
    context = BatchContext.of(previous, torch.tensor(lengths))
    if context is None:
        assert not any(expected)
        return
    assert context.mask.shape[1] == max(map(len, expected))
    for number, before in enumerate(expected):
        mask = context.mask[number]
        assert mask.tolist() == [False] * (len(mask) - len(before)) + [True] * len(before)
        assert (
            list(zip(context.line[number][mask].tolist(), context.word[number][mask].tolist(), strict=True)) == before
        )


def test_a_block_returns_the_cache_that_its_words_make() -> None:
    decoder, x = decoder_of(), randoms(2, 4, 8)
    block = decoder.blocks[0]
    out = block(x.flatten(0, 1), Rows((2, 1, 4)), block.memory(randoms(2, 3, 8)))
    close(out.cache.squeeze(1), block.words(x))
