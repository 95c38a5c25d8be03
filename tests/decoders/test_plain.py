"""A decoder with ``start`` and ``step`` only: what every family inherits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from captioner.decoders import Decoder, DecoderConfig, State, Step
from captioner.layers.linear import packed
from captioner.memory import Memory
from captioner.text.vocabulary import BOS, PAD
from tests.builders import FEATURES, WORDS, build_memory, build_tokens


class Gru(Decoder):
    """A GRU that starts from the pooled vector, and attends uniformly if ``attends``."""

    Config = DecoderConfig
    attends = False

    def __init__(self, config: DecoderConfig, *, features: int, words: int) -> None:
        super().__init__(config, features=features, words=words)
        self.words = nn.Embedding(words, 6)
        self.cell = nn.GRUCell(6, features)
        self.output = nn.Linear(features, words)

    def start(self, memory: Memory) -> State:
        return State({"h": memory.pooled.unsqueeze(1)}, {"vectors": memory.vectors})

    def step(self, tokens: Tensor, state: State) -> Step:
        h = self.cell(self.words(tokens).flatten(0, 1), state.hypotheses["h"].flatten(0, 1)).view(*tokens.shape, -1)
        places = state.images["vectors"].shape[1]
        uniform = h.new_full((*tokens.shape, places), 1 / places) if self.attends else None
        return Step(self.output(h), uniform, State({"h": h}, state.images))


def build(*, attends: bool = False) -> Gru:
    torch.manual_seed(0)
    decoder = Gru(DecoderConfig(), features=FEATURES, words=WORDS).double().eval()
    decoder.attends = attends  # type: ignore[misc]
    return decoder


@pytest.mark.parametrize("attends", [False, True])
def test_forward_is_the_loop_over_step(attends: bool) -> None:
    decoder, memory, tokens = build(attends=attends), build_memory(), build_tokens()
    output = decoder(memory, tokens)
    expected = []
    for image, captions in enumerate(tokens):
        for caption in captions:
            h = memory.pooled[image]
            for word in caption[caption != PAD]:
                h = decoder.cell(decoder.words(word), h)
                expected.append(decoder.output(h))
    torch.testing.assert_close(output.logits, torch.stack(expected))
    if attends:
        assert output.attention is not None and output.attention.shape == (len(expected), memory.n_vectors)
    else:
        assert output.attention is None
    assert output.sampled is None


def test_a_caption_of_one_word_is_scored() -> None:
    decoder, memory = build(), build_memory(images=2)
    one = torch.full((2, 3, 1), BOS)
    longer = torch.cat([one, torch.full((2, 3, 1), PAD)], dim=-1)
    torch.testing.assert_close(decoder(memory, one).logits, decoder(memory, longer).logits)
    assert decoder(memory, one).logits.shape == (6, WORDS)


@torch.inference_mode()
def test_the_packed_copy_has_the_precision_of_its_weights() -> None:
    decoder, memory = build(), build_memory(images=2)
    assert not decoder.reads_half
    copy = packed(decoder, torch.bfloat16)
    tokens = torch.full((2, 1), BOS)
    steps = [each.step(tokens, each.start(memory)).logits for each in (decoder, copy)]
    assert steps[1].dtype == torch.float64 and torch.equal(*steps)


def test_a_state_picks_parents_and_then_images() -> None:
    hypotheses = torch.arange(12).view(3, 2, 2)
    shared = torch.arange(3)
    state = State({"h": hypotheses}, {"image": shared})
    parents, images = torch.tensor([[1, 1, 0], [0, 1, 0], [1, 0, 1]]), torch.tensor([2, 0])
    picked = state.pick(parents, images=images)
    for row, image in enumerate(images.tolist()):
        assert picked.images["image"][row] == image
        for w in range(3):
            assert torch.equal(picked.hypotheses["h"][row, w], hypotheses[image, parents[image, w]])
    only = state.pick(images=images)
    assert torch.equal(only.hypotheses["h"], hypotheses[images]) and torch.equal(only.images["image"], images)
    same = state.pick()
    assert torch.equal(same.hypotheses["h"], hypotheses) and torch.equal(same.images["image"], shared)
