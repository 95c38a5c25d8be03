from __future__ import annotations

import pytest
import torch

from captioner.data.batches import Captions
from captioner.decoders import DECODERS
from captioner.memory import Memory
from captioner.training.cross_entropy import CrossEntropy, CrossEntropyConfig, doubly_stochastic_penalty
from tests.builders import FEATURES, build_decoder

CAPTIONS = Captions.collate([[[1, 5, 6, 2], [1, 7, 2]], [[1, 4, 2]]])


@pytest.mark.parametrize("name", list(DECODERS))
def test_loss_is_that_of_torch_and_the_papers_penalty(name: str) -> None:
    torch.manual_seed(0)
    decoder = build_decoder(name)
    memory = Memory.of_grid(torch.randn(2, 4, FEATURES, dtype=torch.float64), (2, 2))
    loss, metrics = CrossEntropy(CrossEntropyConfig(label_smoothing=0.1, doubly_stochastic=0.3))(decoder, memory, CAPTIONS)
    taught = decoder(memory, CAPTIONS.inputs)
    expected = torch.nn.functional.cross_entropy(taught.logits, CAPTIONS.targets, label_smoothing=0.1)
    if taught.attention is not None:
        expected = expected + 0.3 * metrics["penalty"]
    torch.testing.assert_close(loss.double(), expected)
    torch.testing.assert_close(metrics["nll"].double(), torch.nn.functional.cross_entropy(taught.logits, CAPTIONS.targets))


def test_penalty_is_equation_14_averaged() -> None:
    # Real positions in order: image 0 caption 0 (3 words with <eos>), image 0 caption 1 (2), image 1 caption 0 (2).
    attention = torch.rand(7, 4).softmax(-1)
    sums = [attention[0:3].sum(0), attention[3:5].sum(0), attention[5:7].sum(0)]
    expected = torch.stack([(1 - total) ** 2 for total in sums]).mean()
    torch.testing.assert_close(doubly_stochastic_penalty(attention, CAPTIONS.inputs), expected)


def test_absent_captions_do_not_count() -> None:
    attention = torch.full((2, 4), 0.5)  # each place is looked at exactly once in all
    alone = Captions.collate([[[1, 4, 2]]])
    beside_nothing = Captions(torch.cat([alone.inputs, torch.zeros_like(alone.inputs)], dim=1), alone.targets)
    assert doubly_stochastic_penalty(attention, beside_nothing.inputs) == 0
